"""Read frames of films by their time, and give a video a new sound. Videos need PyAV (the extra `video`).

Animated pictures (WebP, GIF, PNG) are films without sound; Pillow reads them.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import soxr
from PIL import Image, ImageSequence

from sonolume.utils import audio, files
from sonolume.utils.audio import PYAV_REMEDY
from sonolume.utils.errors import FileError, first_line
from sonolume.utils.files import atomic_path
from sonolume.utils.image import UNREADABLE, to_rgb

if TYPE_CHECKING:
    from av import AudioFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

FORMATS = "mov,matroska,avi,mpeg,mpegts,flv"  # video containers; playlists and lists of files are not followed
ANIMATED_SUFFIXES = frozenset({".webp", ".gif", ".png", ".apng"})
SEEK_FROM = 5.0  # seconds from which seeking to the key frame before is faster than decoding from the start
ROUNDING = 0.001  # seconds by which containers round the times of frames
LENGTH_TOLERANCE = 0.5  # seconds that a video may be shorter than its header announces
UNTIMED = 0.1  # seconds of an animated picture's frame without a duration, as in browsers
MUX_RATE = 48000  # Hz of a new sound track: every container's codec and every player takes it
SOUND_CODECS = {".webm": "libopus", ".avi": "pcm_s16le", ".mpg": "mp2", ".mpeg": "mp2"}  # aac in all others
CHUNK = 4096  # samples of the new sound that are encoded at a time


class VideoError(FileError):
    """An unusable video."""

    def __init__(self, message: str, reason: str = "unreadable video") -> None:
        super().__init__(message, reason)


class Facts(NamedTuple):
    """Metadata of a video file."""

    seconds: float  # duration of the video track; 0 if unknown
    fps: float  # average frame rate; 0 if unknown


class Frame(NamedTuple):
    """One image and its time."""

    seconds: float
    picture: Image.Image


@dataclass
class _Interval:
    """A frame of a film and the time during which it is shown, in seconds from the start of the film."""

    start: float
    stop: float
    source: Any  # a frame of PyAV, or an image

    @cached_property
    def frame(self) -> Frame:
        """The RGB image, rotated as the metadata of phone videos demands; converted once."""
        if isinstance(self.source, Image.Image):
            return Frame(self.start, self.source)
        picture, rotation = self.source.to_image(), self.source.rotation
        return Frame(self.start, picture.rotate(rotation, expand=True) if rotation else picture)


def is_film(path: Path) -> bool:
    """Check for a video file, by its suffix, or an animated picture, by its content."""
    if path.suffix.lower() not in ANIMATED_SUFFIXES:
        return files.is_video(path)
    try:
        with Image.open(path) as file:
            return getattr(file, "is_animated", False)
    except UNREADABLE:
        return False


def films_in(folder: Path) -> list[Path]:
    """List videos and animated pictures in a folder and below, sorted; follows linked folders."""
    return [path for path in files.files_in(folder, files.VIDEO_SUFFIXES | ANIMATED_SUFFIXES) if is_film(path)]


def is_still(path: Path) -> bool:
    """Check for a picture, by its suffix, that is not animated."""
    return path.suffix.lower() in ANIMATED_SUFFIXES | files.PICTURE_SUFFIXES and not is_film(path)


def probe(path: Path) -> Facts:
    """Read the metadata of a film; a VideoError if the file is unusable. Animated pictures are decoded for it."""
    if path.suffix.lower() in ANIMATED_SUFFIXES:
        stops = [interval.stop for interval in _animation(path)]
        return Facts(stops[-1], len(stops) / stops[-1] if stops[-1] else 0.0)
    with _opened(path) as container:
        track = _picture_track(path, container)
        return Facts(_length(track) or (container.duration or 0) / 1_000_000, float(track.average_rate or 0))


def stream_frames(path: Path, fps: float = 30.0, start: float = 0.0, seconds: float | None = None) -> Iterator[Frame]:
    """Yield the RGB frames shown at the times start + k / fps, upright, whatever the frame rate of the film.

    As many as the length of the film (from `start`, at most `seconds`) times `fps`, rounded, and at least one. They
    are decoded one by one; a frame shown at several of the times is the same object.

    Args:
        start: seconds from the first frame of the film.

    Raises:
        VideoError: a missing, cut or damaged file, no video track, or no decodable frame.
    """
    if fps <= 0 or start < 0 or (seconds is not None and seconds < 0):
        raise ValueError(f"fps must be above 0, start and seconds not below: got {fps}, {start}, {seconds}")
    most = None if seconds is None else max(1, round(seconds * fps))
    count, chosen, interval = 0, None, None
    for interval in _intervals(path, start):
        while True:
            time = start + count / fps
            if chosen is None and time < interval.stop - ROUNDING:
                chosen = interval
            if chosen is None or interval.stop < time + 0.5 / fps - ROUNDING:  # the film may end before this time
                break
            yield chosen.frame
            count, chosen = count + 1, None
            if count == most:
                return
    if count == 0 and interval is not None:
        yield (chosen or interval).frame


def frames_at(path: Path, seconds: Sequence[float]) -> list[Frame]:
    """Decode the RGB frames shown at the given times, upright, in the given order; past the end, the last frame.

    Args:
        seconds: times from the start of the video, not negative; at least one.

    Raises:
        VideoError: a missing or damaged file, no video track, or no decodable frame.
    """
    wanted, found, interval = sorted(set(seconds)), dict[float, Frame](), None
    for interval in _intervals(path, wanted[0]):
        while wanted and wanted[0] < interval.stop - ROUNDING:
            found[wanted.pop(0)] = interval.frame
        if not wanted:
            break
    if wanted and interval is not None:
        found |= {time: interval.frame for time in wanted}
    return [found[time] for time in seconds]


def _intervals(path: Path, start: float) -> Iterator[_Interval]:
    """Yield the frames of a film in order of time, from one at or before `start` if there is one."""
    return _animation(path) if path.suffix.lower() in ANIMATED_SUFFIXES else _decoded(path, start)


def _animation(path: Path) -> Iterator[_Interval]:
    if not path.is_file():
        raise VideoError(f"{path}: no such video file", "missing")
    start = 0.0
    try:
        with Image.open(path) as file:
            for picture in ImageSequence.Iterator(file):
                image = to_rgb(picture.copy())
                untimed = UNTIMED if getattr(file, "is_animated", False) else 0.0
                seconds = float(picture.info.get("duration") or 0) / 1000 or untimed
                yield _Interval(start, start + seconds, image)
                start += seconds
    except UNREADABLE as error:
        raise VideoError(f"{path}: damaged or not an animated picture ({first_line(error)})") from error


def _decoded(path: Path, start: float) -> Iterator[_Interval]:
    with _opened(path) as container:
        track = _picture_track(path, container)
        begin = _begin(track)
        if begin + start >= SEEK_FROM and track.time_base:
            container.seek(int((begin + start) / track.time_base), stream=track)
        shown, end, gap = None, 0.0, 0.0
        for packet in container.demux():
            if packet.pts is not None and packet.time_base:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            for frame in packet.decode() if packet.stream is track else ():
                if frame.time is None:
                    continue
                time = frame.time - begin
                if shown is not None:
                    shown.stop, gap = time, time - shown.start
                    yield shown
                shown = _Interval(time, time, frame)
        _check_length(path, container, end)
        if shown is None:
            raise VideoError(f"{path}: no frame could be decoded")
        last = shown.source
        shown.stop += float(last.duration * last.time_base) if last.duration else gap
        yield shown


def _begin(track: "VideoStream") -> float:
    """Time of the first frame in seconds, which is not 0 in every file."""
    return float((track.start_time or 0) * (track.time_base or 0))


def _length(track: "VideoStream") -> float:
    """Duration of a track in seconds, 0 if unknown; Matroska and WebM keep it among the tags, as 00:00:10.000."""
    if track.duration:
        return float(track.duration * (track.time_base or 0))
    try:
        hours, minutes, seconds = map(float, track.metadata.get("DURATION", "").split(":"))
    except ValueError:
        return 0.0
    return 3600 * hours + 60 * minutes + seconds


def _check_length(path: Path, container: "InputContainer", end: float) -> None:
    """Raise a VideoError if no track reaches the end that the header announces; `end` is that of the last packet."""
    announced = ((container.start_time or 0) + (container.duration or 0)) / 1_000_000
    if container.duration and announced - end > LENGTH_TOLERANCE:
        message = f"its header announces {announced:.2f} s, but it ends after {end:.2f} s: download it again"
        raise VideoError(f"{path}: cut: {message}", "cut video")


def _picture_track(path: Path, container: "InputContainer") -> "VideoStream":
    """Return the first video track that is not the cover picture of a sound file."""
    from av.stream import Disposition

    for track in container.streams.video:
        if not track.disposition & Disposition.attached_pic:
            return track
    raise VideoError(f"{path}: no video track", "no pictures")


@contextmanager
def _opened(path: Path) -> "Iterator[InputContainer]":
    """Open a container; errors of PyAV, also inside the block, become a VideoError."""
    if not path.is_file():
        raise VideoError(f"{path}: no such video file", "missing")
    try:
        import av
    except ImportError as error:
        raise VideoError(f"{path}: videos need PyAV: {PYAV_REMEDY}", "needs PyAV") from error
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        with path.open("rb") as file, av.open(file, "r", options=options, metadata_errors="ignore") as container:
            yield container
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(f"{path}: damaged or not a video ({first_line(error)})") from error


def _audio_frame(sound: np.ndarray, start: int) -> "AudioFrame":
    """Wrap `CHUNK` samples of (channels, n) from `start` on."""
    import av

    part = np.ascontiguousarray(sound[:, start : start + CHUNK])
    frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo" if len(sound) > 1 else "mono")
    frame.sample_rate, frame.pts, frame.time_base = MUX_RATE, start, Fraction(1, MUX_RATE)
    return frame


def check_mux(video: Path) -> None:
    """Raise a VideoError unless the file is a video to which `mux` can add sound."""
    if video.suffix.lower() in ANIMATED_SUFFIXES | files.PICTURE_SUFFIXES:
        raise VideoError(f"{video}: a picture, and pictures take no sound: mux needs a video such as mp4", "no video")
    probe(video)


def mux(video: Path, wave: np.ndarray, sample_rate: int, out_path: Path, keep_sound: float | None = None) -> None:
    """Write a copy of a video with a new sound track; its pictures are copied without encoding them again.

    The sound is cut, or padded with silence, to the length of the video, and scaled down if it exceeds full scale.

    Args:
        wave: new sound (n,) or (channels, n), channels 1 or 2, in [-1, 1], at `sample_rate` in Hz.
        out_path: file to write; its suffix is the container. That of `video` always fits.
        keep_sound: gain at which the old sound is mixed in; None to replace it.

    Raises:
        VideoError: `video` is a picture, or unusable, or its pictures do not fit into the container of `out_path`.
    """
    check_mux(video)
    if out_path.suffix.lower() not in files.VIDEO_SUFFIXES | {video.suffix.lower()}:
        raise VideoError(f"{out_path}: not the name of a video: choose one such as {video.stem}.mp4", "no fit")
    channels = np.atleast_2d(wave).astype(np.float32)              # (channels, n)
    channels = soxr.resample(channels.T, sample_rate, MUX_RATE).T  # (channels, n')
    length = round(probe(video).seconds * MUX_RATE) or channels.shape[1]
    sound = _fitted(channels, length)
    if keep_sound is not None and (old := _sound_of(video, length)) is not None:
        sound = sound + keep_sound * old
    sound = audio.limit_peak(sound)[0]
    with atomic_path(out_path) as temporary, _Output(temporary) as file:
        try:
            with _opened(video) as source:
                _write(source, _picture_track(video, source), sound, out_path, file)
        except VideoError as error:
            raise file.error or error  # noqa: B904  # a full disk is no damaged video


class _Output(io.FileIO):
    """A file that remembers why it could not be written: PyAV hides it."""

    error: OSError | None = None

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w")

    def write(self, data: Any) -> int:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
            raise
        return len(data)


def _sound_of(video: Path, length: int) -> np.ndarray | None:
    """Read the sound of a video from its first frame on, (2, length) float32 at MUX_RATE; None if it is mute."""
    with _opened(video) as container:
        if not container.streams.audio:
            return None
        track = container.streams.audio[0]
        late = float((track.start_time or 0) * (track.time_base or 0)) - _begin(_picture_track(video, container))
    old, shift = audio.load(video, MUX_RATE, mono=False), round(late * MUX_RATE)
    stereo = old[:2] if len(old) > 1 else np.repeat(old, 2, axis=0)
    return _fitted(np.pad(stereo, ((0, 0), (max(shift, 0), 0)))[:, max(-shift, 0) :], length)


def _fitted(sound: np.ndarray, length: int) -> np.ndarray:
    """Cut or pad (channels, n) with silence to (channels, length)."""
    return np.pad(sound[:, :length], ((0, 0), (0, max(0, length - sound.shape[1]))))


def _write(source: "InputContainer", track: "VideoStream", sound: np.ndarray, out_path: Path, file: io.FileIO) -> None:
    """Copy the packets of the pictures, from time 0 on, interleaved with the encoded sound (channels, n)."""
    import av

    begin, tick, done = track.start_time or 0, float(track.time_base or 0), 0
    with av.open(file, "w") as target:  # the container is that of the file's suffix
        try:
            pictures = target.add_stream_from_template(track)
            codec, layout = SOUND_CODECS.get(out_path.suffix.lower(), "aac"), "stereo" if len(sound) > 1 else "mono"
            tone: Any = target.add_stream(codec, rate=MUX_RATE, layout=layout)
            target.start_encoding()
        except (av.FFmpegError, ValueError) as error:
            message = f"takes no pictures in {track.codec_context.name}: choose another type of file, such as mkv"
            raise VideoError(f"{out_path}: {message}", "no fit") from error
        for packet in source.demux(track):
            if packet.dts is None and not packet.size:  # the end
                continue
            packet.pts, packet.dts = (None if time is None else time - begin for time in (packet.pts, packet.dts))
            reached = round((packet.dts or 0) * tick * MUX_RATE)
            packet.stream = pictures
            target.mux(packet)
            while done < min(reached, sound.shape[1]):
                target.mux(tone.encode(_audio_frame(sound, done)))
                done += CHUNK
        for start in range(done, sound.shape[1], CHUNK):
            target.mux(tone.encode(_audio_frame(sound, start)))
        target.mux(tone.encode(None))
