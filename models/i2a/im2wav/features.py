"""CLIP features of films: a cache of one file per video, and the pickles of the official collection scripts.

F frames, N pictures, V width of CLIP's space.
"""

import io
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from sonolume.models.i2a.im2wav.image_encoder import ImageEncoder
from sonolume.preprocessors.prepared import LeftOut
from sonolume.utils import files, pickles
from sonolume.utils.cache import content_hash, locked
from sonolume.utils.errors import UserError, first_line
from sonolume.utils.text import message
from sonolume.utils.video import VideoError

CACHE_VERSION = 1  # bump to invalidate all cached features
FPS = 30.0  # frames per second of Im2Wav
LISTED = 5  # videos that a message names


class VideoFeatures(NamedTuple):
    """Cached features of many videos."""

    paths: dict[str, Path]  # Uid -> file of its features, in the order of the videos
    left_out: list[LeftOut]  # unusable videos, with the reason
    computed: int  # number of videos that were not in the cache


def encode_videos(videos: Mapping[str, Path], encoder: ImageEncoder, folder: Path, fps: float = FPS) -> VideoFeatures:
    """Encode videos into one npz each, unless an earlier run did; unusable videos are counted and named on stderr.

    An interrupted run loses at most the video being encoded. A second process waits, then uses the files of the first.

    Args:
        videos: Uid -> video file, or animated picture.
        folder: cache, of any CLIPs and frame rates: they are part of the names of the files.
    """
    place = _folder(folder, encoder, fps)
    with locked(place / ".lock", f"encoding videos in {place}"):
        paths = {uid: _cache_file(place, video) for uid, video in videos.items()}
        missing = [uid for uid, path in paths.items() if not path.is_file()]
        left_out = dict[str, LeftOut]()
        for uid in tqdm(missing, "CLIP features", unit="video", disable=not missing):
            try:
                _encode(videos[uid], paths[uid], encoder, fps)
            except VideoError as error:
                left_out[uid] = LeftOut(uid, error.reason, str(error), str(videos[uid]))
    _report(list(left_out.values()), len(videos))
    kept = {uid: path for uid, path in paths.items() if uid not in left_out}
    return VideoFeatures(kept, list(left_out.values()), len(missing) - len(left_out))


def load_features(path: Path, width: int | None = None) -> np.ndarray:
    """Read the features (F, V) float16 of one file of the cache.

    Raises:
        UserError: missing, damaged, or of another CLIP than one of `width`.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            frames = content["frames"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged ({first_line(error, 80)}); remove it to compute it again") from error
    return _checked(frames, path, width)


def read_video_pickle(path: Path, width: int | None = None) -> np.ndarray:
    """Read the features (F, V) float32 of one video from a pickle of the official `collect_video_CLIP.py`.

    Its content is {stem: array (F, V)}: unit vectors of all frames of the video, which should have 30 a second.

    Args:
        width: V of the model that is to use them.

    Raises:
        UserError: not such a file, one that would run code, or features of a CLIP of another width.
    """
    content = pickles.read_arrays(path)
    if not isinstance(content, dict) or (path.stem not in content and len(content) != 1):
        raise UserError(f"{path}: not the features of one video: expected {{{path.stem!r}: array (frames, width)}}")
    return _checked(content.get(path.stem, next(iter(content.values()))), path, width).astype(np.float32)


def read_image_pickle(path: Path, width: int | None = None) -> dict[str, np.ndarray]:
    """Read the features of pictures, name -> (N, V) float32, from a pickle of `collect_image_CLIP.py`.

    Its content is {"image": {name: array (N, V)}}. Raises as `read_video_pickle`.
    """
    content = pickles.read_arrays(path)
    images = content.get("image") if isinstance(content, dict) else None
    if not isinstance(images, dict) or not images:
        expected = "{'image': {name: array (pictures, width)}}"
        raise UserError(f"{path}: not the features of pictures: expected {expected}")
    return {str(name): _checked(rows, path, width, str(name)).astype(np.float32) for name, rows in images.items()}


def _checked(rows: Any, path: Path, width: int | None, name: str = "") -> np.ndarray:
    """Check features (rows, V); one vector (V,) counts as one row."""
    where = f"{path}: {name}" if name else f"{path}"
    if isinstance(rows, np.ndarray) and rows.ndim == 1:
        rows = rows[None]
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or not rows.size or rows.dtype.kind != "f":
        found = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise UserError(f"{where}: expected vectors (frames, width), found {found}")
    if not np.isfinite(rows).all():
        raise UserError(f"{where}: features are NaN or infinite: collect them again")
    if width is not None and rows.shape[1] != width:
        remedy = "collect them with the CLIP of model.clip"
        raise UserError(f"{where}: features of width {rows.shape[1]}, but this model needs width {width}: {remedy}")
    return rows


def _folder(folder: Path, encoder: ImageEncoder, fps: float) -> Path:
    return folder / f"clip_{encoder.width}_{fps:g}fps_{content_hash([CACHE_VERSION, encoder.content_hash, fps])}"


def _cache_file(place: Path, video: Path) -> Path:
    """Name the features of a video by its place, size and time of change: its content is not read for it."""
    try:
        facts = video.stat()
        size, changed = facts.st_size, facts.st_mtime_ns
    except OSError:  # missing; reported when it is opened
        size, changed = 0, 0
    key = content_hash([str(video.resolve()), size, changed])
    return place / f"{files.safe_name(video.stem)}-{key}.npz"


def _encode(video: Path, path: Path, encoder: ImageEncoder, fps: float) -> None:
    frames = encoder.encode_video(video, fps).numpy().astype(np.float16)
    memory = io.BytesIO()  # numpy hides the system's error (disk full); write_bytes raises it
    np.savez(memory, frames=frames, fps=np.float32(fps), clip=encoder.content_hash, video=video.name)
    with files.atomic_path(path) as temporary:
        temporary.write_bytes(memory.getbuffer())


def _report(left_out: Sequence[LeftOut], count: int) -> None:
    """Print how many videos are unusable, why, and the first of them."""
    if not left_out:
        return
    counts = Counter(one.reason for one in left_out).most_common()
    reasons = ", ".join(f"{number} {reason}" for reason, number in counts)
    message(f"{len(left_out)} of {count} videos left out: {reasons}")
    for one in left_out[:LISTED]:
        message(f"  {one.detail}")
    if len(left_out) > LISTED:
        message(f"  and {len(left_out) - LISTED} more")
