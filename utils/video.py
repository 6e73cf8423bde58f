"""Read frames of video files at given times. Needs PyAV (the extra `video`)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from sonolume.utils.audio import PYAV_REMEDY
from sonolume.utils.errors import UserError, first_line

if TYPE_CHECKING:
    from av.container import InputContainer

FORMATS = "mov,matroska,avi,mpeg,mpegts,flv"  # video containers; playlists and lists of files are not followed
SEEK_FROM = 5.0  # seconds from which seeking to the key frame before is faster than decoding from the start


class VideoError(UserError):
    """An unusable video; `reason` is a short category for counting."""

    def __init__(self, message: str, reason: str = "unreadable video") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Facts:
    """Metadata of a video file."""

    seconds: float  # duration of the video track; 0 if unknown
    fps: float  # average frame rate; 0 if unknown
    width: int
    height: int
    has_sound: bool


class Frame(NamedTuple):
    """One image and its time."""

    seconds: float
    picture: Image.Image


def probe(path: Path) -> Facts:
    """Read the metadata of a video without decoding it; a VideoError if the file is unusable."""
    with _opened(path) as container:
        track = container.streams.video[0]
        length = (track.duration or 0) * (track.time_base or 0) or (container.duration or 0) / 1_000_000
        rate = track.average_rate or 0
        return Facts(float(length), float(rate), track.width, track.height, bool(container.streams.audio))


def frames_at(path: Path, seconds: Sequence[float]) -> list[Frame]:
    """Decode the RGB frames shown at the given times, upright, in the given order; past the end, the last frame.

    Args:
        seconds: times from the start of the video, not negative; at least one.

    Raises:
        VideoError: a missing or damaged file, no video track, or no decodable frame.
    """
    wanted, found, shown = sorted(set(seconds)), {}, None
    with _opened(path) as container:
        track = container.streams.video[0]
        begin = float((track.start_time or 0) * (track.time_base or 0))  # the first frame is not at 0 in every file
        if begin + wanted[0] >= SEEK_FROM and track.time_base:
            container.seek(int((begin + wanted[0]) / track.time_base), stream=track)
        for frame in container.decode(track):
            if frame.time is None:
                continue
            while wanted and shown is not None and frame.time - begin > wanted[0]:
                found[wanted.pop(0)] = _to_frame(shown, begin)
            if not wanted:
                break
            shown = frame
        if shown is None:
            raise VideoError(f"{path}: no frame could be decoded")
        found |= {time: _to_frame(shown, begin) for time in wanted}
    return [found[time] for time in seconds]


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
            if not container.streams.video:
                raise VideoError(f"{path}: no video track", "no pictures")
            yield container
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(f"{path}: damaged or not a video ({first_line(error)})") from error


def _to_frame(frame: Any, begin: float) -> Frame:
    """Convert a frame to an image, rotated as the metadata of phone videos demands."""
    picture = frame.to_image()
    return Frame(frame.time - begin, picture.rotate(frame.rotation, expand=True) if frame.rotation else picture)
