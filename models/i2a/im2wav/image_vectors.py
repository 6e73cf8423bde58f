"""Image vectors of the videos and pictures of prepared sounds, cached, and those of a window.

F frames of a window, V width of the image vectors.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from sonolume.config.base import TrainConfig
from sonolume.config.i2a.im2wav import FilmsConfig
from sonolume.models.a2i.frozen import cached_features
from sonolume.models.i2a.im2wav.windows import Draws, Place
from sonolume.modules.im2wav.windows import window_frames
from sonolume.preprocessors.sound_films import VECTORS_SUFFIX
from sonolume.preprocessors.sound_pictures import pictures_of
from sonolume.utils import files, paths
from sonolume.utils.cache import content_hash
from sonolume.utils.image import open_image
from sonolume.utils.manifest import Row


class Pictures(Dataset[Image.Image]):
    """Still pictures as images."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Image.Image:
        return open_image(self.files[number])

    def versions(self) -> list[Any]:
        """Everything that decides the images, for the key of a cache."""
        return [(str(path), path.stat().st_mtime_ns) for path in self.files]


class ImageVectors:
    """Image vectors of each row: of its video, of its still picture, or of both; computed at construction.

    Args:
        rows: each with a video or a picture, see `has_images`.
        clip: an `ImageEncoder`.
        folder: folder of the caches.
        split: name of the rows, for the cache.
    """

    def __init__(
        self, rows: Sequence[Row], config: FilmsConfig, train: TrainConfig, clip: Any, folder: Path, split: str
    ) -> None:
        self.config = config
        self.videos = [vectors_file(row, config) for row in rows]
        for number, row in enumerate(tqdm(rows, f"image vectors of {split}", unit="video", disable=not len(rows))):
            if self.videos[number] is None and row.video:
                self.videos[number] = video_features(clip, row.video, config.fps, folder)
        shown = [number for number, video in enumerate(self.videos) if video is None or config.still_fraction]
        self.stills = {number: index for index, number in enumerate(n for n in shown if rows[n].image)}
        pictures = Pictures([pictures_of(rows[number])[0][1] for number in self.stills])
        self.vectors = cached_features(
            folder, f"picture vectors of {split}", pictures, clip, clip.encode_pictures, train, exact=True, collate=list
        )

    def of(self, place: Place, drawn: Draws) -> Tensor:
        """Vectors (F, V) of a window: of the frames of its video, or F times that of a picture.

        The last frame is repeated where the video ends before the window. In place of a video, `still_fraction` of the
        items see the still picture of their sound, or else one frame of the window.
        """
        config, video = self.config, self.videos[place.sound]
        rows = window_frames(place.offset, config.window, config.fps, config.sample_rate)
        sees_picture = video is None or drawn.picture < config.still_fraction
        if sees_picture and place.sound in self.stills:
            vector = self.vectors[self.stills[place.sound]]
            return torch.from_numpy(vector.astype(np.float32)).expand(rows.stop - rows.start, -1)
        assert video is not None
        vectors = read_vectors(video)
        index = np.arange(rows.start, rows.stop)
        if sees_picture:
            index[:] = rows.start + int(drawn.moment * len(index))
        return torch.from_numpy(vectors[np.minimum(index, len(vectors) - 1)].astype(np.float32))


def has_images(row: Row, config: FilmsConfig) -> bool:
    """Whether a row has image vectors, or a video or picture to compute them from."""
    if row.image and row.image.is_dir():
        return True
    return vectors_file(row, config) is not None or bool(row.video and row.video.is_file() and not config.clip_features)


def vectors_file(row: Row, config: FilmsConfig) -> Path | None:
    """The file of image vectors that was given for a row."""
    if config.clip_features:
        path = paths.resolve(config.clip_features) / f"{Path(row.uid).name}{VECTORS_SUFFIX}"
        return path if path.is_file() else None
    return row.video if row.video and row.video.suffix == VECTORS_SUFFIX else None


def video_features(clip: Any, path: Path, fps: float, folder: Path) -> Path:
    """Write the image vectors of a video to a file of its own, unless it is there."""
    written = path.stat()
    key = content_hash(clip.content_hash, fps, str(path.absolute()), written.st_size, written.st_mtime_ns)
    place = folder / "video vectors" / f"{path.stem}-{key}.npz"
    if not place.is_file():
        vectors = np.asarray(clip.encode_video(path, fps), np.float16)
        with files.atomic_path(place) as temporary, temporary.open("wb") as file:
            np.savez(file, vectors=vectors)
    return place


def read_vectors(path: Path) -> np.ndarray:
    """Read image vectors (frames, V)."""
    return np.load(path)["vectors"]
