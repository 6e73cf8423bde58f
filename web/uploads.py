"""Checks of uploaded files by their headers, before a model decodes them. Imports no gradio."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import soundfile
from PIL import Image

from sonolume.utils import audio, video
from sonolume.utils.errors import UserError
from sonolume.utils.image import UNREADABLE
from sonolume.web.settings import Settings

MAX_PIXELS = 50_000_000  # of a picture
MAX_ANIMATION_PIXELS = 5 * MAX_PIXELS  # of all frames of an animated picture, which are decoded to know its length
MAX_FRAME_PIXELS = 4096 * 2304  # of a video: 4K
MAX_FPS = 240.0
MAX_SAMPLE_RATE = 384_000  # Hz
MAX_CHANNELS = 8
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # of Pillow; others run programs, or are rarely tested


def check_sound(path: Any, settings: Settings) -> Path:
    """Return the path of an uploaded sound, or of a video with one, that is at most `max_seconds` long.

    Raises:
        UserError: no upload, not a sound, too long, or a strange sample rate or number of channels.
    """
    file = check_upload(path, "sound")
    try:
        facts = soundfile.info(audio.encoded(file))
    except soundfile.SoundFileError:
        _check_sound_track(file, settings)  # of a container that libsndfile does not read: its header proves nothing
        return file
    _check_rate(file, facts.samplerate, facts.channels)
    _check_seconds(file, facts.frames / facts.samplerate, settings)
    return file


def check_picture(path: Any, settings: Settings) -> Path:
    """Return the path of an uploaded picture of at most `MAX_PIXELS`; of an animated one, all frames count.

    Raises:
        UserError: no upload, not a picture, or too large.
    """
    del settings  # the limits of pictures are fixed
    file = check_upload(path, "picture")
    try:
        with Image.open(file, formats=PICTURE_FORMATS) as picture:
            pixels = picture.width * picture.height
            if pixels > MAX_PIXELS:  # before the frames are counted
                raise UserError(f"{file.name}: has {pixels / 1e6:.0f} megapixels, at most {MAX_PIXELS / 1e6:.0f} are "
                                "read: make it smaller")  # fmt: skip
            frames = getattr(picture, "n_frames", 1)
    except Image.DecompressionBombError as error:
        raise UserError(f"{file.name}: has too many pixels: make it smaller") from error
    except UNREADABLE as error:
        raise UserError(f"{file.name}: not a readable picture: convert it to png or jpg") from error
    if frames * pixels > MAX_ANIMATION_PIXELS:
        raise UserError(f"{file.name}: its {frames} frames are too many of {pixels / 1e6:.1f} megapixels: shorten it")
    return file


def check_video(path: Any, settings: Settings) -> Path:
    """Return the path of an uploaded video or animated picture that is at most `max_seconds` long.

    Raises:
        UserError: no upload, not a video, too long, or too large or fast frames.
    """
    file = check_upload(path, "video")
    if file.suffix.lower() in video.ANIMATED_SUFFIXES:
        check_picture(file, settings)
        _check_seconds(file, video.probe(file).seconds, settings)
        return file
    _check_picture_track(file, settings)
    if _has_sound(file):
        _check_sound_track(file, settings)
    return file


def check_upload(path: Any, what: str) -> Path:
    """Return the resolved path of a regular file in the folder of uploads and results, GRADIO_TEMP_DIR.

    Raises:
        UserError: it is another file, or none; the message does not tell which.
    """
    if not isinstance(path, str | Path) or not str(path):
        raise UserError(f"there is no {what}: upload one")
    try:
        file = Path(path).resolve(strict=True)
        below = file.is_relative_to(Path(os.environ["GRADIO_TEMP_DIR"]).resolve(strict=True))
    except (OSError, ValueError, RuntimeError) as error:  # a missing file, a name with a null character, a loop
        raise UserError(f"the {what} is no longer on the server: upload it again") from error
    if not below or not file.is_file():
        raise UserError(f"the {what} is no longer on the server: upload it again")
    if not file.stat().st_size:
        raise UserError(f"{file.name}: empty file")
    return file


def _check_seconds(file: Path, seconds: float, settings: Settings) -> None:
    if not math.isfinite(seconds) or seconds > settings.max_seconds:
        raise UserError(f"{file.name}: is {_format_seconds(seconds)} long, at most {settings.max_seconds:g} s are "
                        "read: cut it")  # fmt: skip


def _format_seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 3600 else f"{seconds / 3600:.3g} hours"


def _check_rate(file: Path, sample_rate: int, channels: int) -> None:
    if not audio.MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise UserError(f"{file.name}: its header has a sample rate of {sample_rate} Hz: convert it to wav")
    if channels > MAX_CHANNELS:
        raise UserError(f"{file.name}: has {channels} channels, at most {MAX_CHANNELS} are read: convert it to mono")


def _check_sound_track(file: Path, settings: Settings) -> None:
    """Check the header of a container, then count what its first sound track holds, block by block."""
    seconds = 0.0
    _check_header_seconds(file, settings)
    try:
        for rate, block in audio.blocks(file):
            _check_rate(file, rate, block.shape[1])
            seconds += len(block) / rate
            if seconds > settings.max_seconds:
                raise UserError(f"{file.name}: its sound is longer than {settings.max_seconds:g} s: cut it")
    except audio.SoundError as error:
        raise UserError(str(error).replace(str(file), file.name)) from error


def _check_header_seconds(file: Path, settings: Settings) -> None:
    with _container(file) as container:
        for track in container.streams.audio[:1]:
            _check_rate(file, track.codec_context.sample_rate or audio.MIN_SAMPLE_RATE, track.codec_context.channels)
        _check_seconds(file, (container.duration or 0) / 1_000_000, settings)


def _check_picture_track(file: Path, settings: Settings) -> None:
    """Check the header, then times and number of the pictures, which are not decoded."""
    try:
        facts = video.probe(file)
    except video.VideoError as error:
        raise UserError(str(error).replace(str(file), file.name)) from error
    _check_seconds(file, facts.seconds, settings)
    count, end, most = 0, 0.0, math.ceil(settings.max_seconds * MAX_FPS)
    with _container(file) as container:
        for track in container.streams.video:
            width, height = track.codec_context.width, track.codec_context.height
            if width * height > MAX_FRAME_PIXELS or facts.fps > MAX_FPS:
                raise UserError(f"{file.name}: its {width} x {height} pixels at {facts.fps:g} frames a second are too "
                                "many: make it smaller")  # fmt: skip
        for packet in container.demux(container.streams.video):
            count += 1
            if packet.pts is not None and packet.time_base:
                end = max(end, float(packet.pts * packet.time_base) - (container.start_time or 0) / 1_000_000)
            if count > most or end > settings.max_seconds:
                raise UserError(f"{file.name}: is longer than {settings.max_seconds:g} s: cut it")


def _has_sound(file: Path) -> bool:
    with _container(file) as container:
        return bool(container.streams.audio)


@contextmanager
def _container(file: Path) -> Iterator[Any]:
    """Open a container without following the files that it names; errors of PyAV become a UserError."""
    try:
        import av
    except ImportError as error:
        raise UserError(f"{file.name}: this server reads wav, flac, ogg and mp3 only: convert it") from error
    options = {"format_whitelist": f"{audio.PYAV_FORMATS},{video.FORMATS}", "protocol_whitelist": "file"}
    try:
        with file.open("rb") as source, av.open(source, options=options, metadata_errors="ignore") as container:
            yield container
    except (av.FFmpegError, ValueError) as error:
        raise UserError(f"{file.name}: not a sound or video, or damaged: convert it") from error
