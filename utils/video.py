"""Pictures out of video files, by their time. Needs PyAV (the extra `video`)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from sonolume.utils.audio import PYAV_REMEDY
from sonolume.utils.errors import UserError, first_line

if TYPE_CHECKING:
    from av.container import InputContainer

FORMATS = "mov,matroska,avi,mpeg,mpegts,flv"  # containers of video; playlists and lists of files are not followed
SEEK_FROM = 5.0  # seconds from which jumping to the key frame before is faster than decoding from the beginning


class VideoError(UserError):
    """A video that cannot be used; `reason` says why in a few words, to be counted by."""

    def __init__(self, message: str, reason: str = "unreadable video") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Facts:
    """What a video file says of itself."""

    seconds: float
    """length of the pictures' track; 0 where the file does not say"""
    fps: float
    """pictures a second, on average; 0 where the file does not say"""
    width: int
    height: int
    has_sound: bool


@dataclass(frozen=True)
class Frame:
    """One picture, and when it appears."""

    seconds: float
    picture: Image.Image


def probe(path: Path) -> Facts:
    """What the file says, without decoding it.

    Raises:
        VideoError: absent, unreadable, or without pictures.
    """
    with _opened(path) as container:
        pictures = container.streams.video[0]
        length = (pictures.duration or 0) * (pictures.time_base or 0) or (container.duration or 0) / 1_000_000
        rate = pictures.average_rate or 0
        return Facts(float(length), float(rate), pictures.width, pictures.height, bool(container.streams.audio))


def frames_at(path: Path, seconds: Sequence[float]) -> list[Frame]:
    """The RGB pictures shown at these times, upright, in their order; past the end it is the last picture.

    Args:
        seconds: from the beginning of the video, not negative, not empty.

    Raises:
        VideoError: absent, damaged, without pictures, or not one could be decoded.
    """
    wanted, found, shown = sorted(set(seconds)), {}, None
    with _opened(path) as container:
        begin = _begin(container)
        for frame in _decoded(container, begin + wanted[0]):
            while wanted and shown is not None and frame.time - begin > wanted[0]:
                found[wanted.pop(0)] = _picture(shown, begin)
            if not wanted:
                break
            shown = frame
        if shown is None:
            raise VideoError(f"{path}: not one picture could be decoded")
        found |= {time: _picture(shown, begin) for time in wanted}
    return [found[time] for time in seconds]


@contextmanager
def _opened(path: Path) -> "Iterator[InputContainer]":
    """The container; errors of the library, also those inside the block, become one line."""
    if not path.is_file():
        raise VideoError(f"{path}: no such video", "missing")
    try:
        import av
    except ImportError as error:
        raise VideoError(f"{path}: videos need PyAV: {PYAV_REMEDY}", "needs PyAV") from error
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        with path.open("rb") as file, av.open(file, "r", options=options, metadata_errors="ignore") as container:
            if not container.streams.video:
                raise VideoError(f"{path}: holds no pictures", "no pictures")
            yield container
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(f"{path}: damaged, or no video ({first_line(error)})") from error


def _begin(container: "InputContainer") -> float:
    """The time of the first picture, which is not 0 in every container."""
    pictures = container.streams.video[0]
    return float((pictures.start_time or 0) * (pictures.time_base or 0))


def _decoded(container: "InputContainer", first: float) -> Iterator[Any]:
    """Frames with a time, from the key frame before `first` seconds on."""
    pictures = container.streams.video[0]
    if first >= SEEK_FROM and pictures.time_base:
        container.seek(int(first / pictures.time_base), stream=pictures)
    return (frame for frame in container.decode(pictures) if frame.time is not None)


def _picture(frame: Any, begin: float) -> Frame:
    """Phones store upright pictures lying, with a note on how to turn them."""
    picture = frame.to_image()
    return Frame(frame.time - begin, picture.rotate(frame.rotation, expand=True) if frame.rotation else picture)
