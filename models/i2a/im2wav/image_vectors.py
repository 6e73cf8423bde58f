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

from sonolume.config.base import TrainConfig
from sonolume.config.i2a.im2wav import FilmsConfig
from sonolume.models.a2i.frozen import cached_features
from sonolume.models.i2a.im2wav.features import encode_videos, load_features, read_video_pickle
from sonolume.models.i2a.im2wav.windows import Draws, Place
from sonolume.modules.im2wav.windows import window_frames
from sonolume.preprocessors.sound_pictures import VECTORS_SUFFIX, pictures_of
from sonolume.preprocessors.stages import device_of
from sonolume.utils import paths
from sonolume.utils.errors import UserError
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

    Attributes:
        rows: the rows whose videos could be read.

    Raises:
        UserError: a given file of image vectors is damaged or of another CLIP, or no video can be read.
    """

    def __init__(
        self, rows: Sequence[Row], config: FilmsConfig, train: TrainConfig, clip: Any, folder: Path, split: str
    ) -> None:
        self.config, self.width = config, clip.width
        given = {row_key(row): path for row in rows if (path := vectors_file(row, config))}
        for path in list(given.values())[:1]:  # all are of one CLIP, as a rule
            read_video_pickle(path, clip.width)
        films = [] if config.clip_features else [row for row in rows if row.video and row_key(row) not in given]
        needed = {row_key(row): row.video for row in films if row.video}
        clip.vision.to(device_of(train))
        encoded = encode_videos(needed, clip, folder, config.fps)
        clip.vision.to("cpu")
        lost = {one.uid for one in encoded.left_out}
        self.rows = [row for row in rows if row_key(row) not in lost]
        if rows and not self.rows:
            raise UserError(f"none of the {len(rows)} videos can be read: {encoded.left_out[0].detail}")
        self.videos = [(given | encoded.paths).get(row_key(row)) for row in self.rows]
        shown = [n for n, video in enumerate(self.videos) if video is None or config.still_fraction]
        self.stills = {number: index for index, number in enumerate(n for n in shown if self.rows[n].image)}
        pictures = Pictures([pictures_of(self.rows[number])[0][1] for number in self.stills])
        self.vectors = cached_features(
            folder, f"picture vectors of {split}", pictures, clip.vision, clip.encode_pictures, train, exact=True,
            collate=list, identity=clip.content_hash,
        )  # fmt: skip

    def window(self, place: Place, drawn: Draws) -> Tensor:
        """Vectors (F, V) of a window: of the frames of its video, or F times that of a picture.

        The last frame is repeated where the video ends before the window. In place of a video, `still_fraction` of the
        items have the still picture of their sound, or else one frame of the window.
        """
        config, video = self.config, self.videos[place.sound]
        rows = window_frames(place.offset, config.window, config.fps, config.sample_rate)
        is_still = video is None or drawn.picture < config.still_fraction
        if is_still and place.sound in self.stills:
            vector = self.vectors[self.stills[place.sound]].astype(np.float32)
            return torch.from_numpy(vector).expand(rows.stop - rows.start, -1)
        assert video is not None
        vectors = read_vectors(video, self.width)
        index = np.arange(rows.start, rows.stop)
        if is_still:
            index[:] = rows.start + int(drawn.moment * len(index))
        return torch.from_numpy(vectors[np.minimum(index, len(vectors) - 1)].astype(np.float32))


def has_images(row: Row, config: FilmsConfig) -> bool:
    """Whether a row has image vectors, or a video or picture to compute them from."""
    video = vectors_file(row, config) or (None if config.clip_features else row.video)
    return bool((row.image and row.image.is_dir()) or (video and video.is_file()))


def vectors_file(row: Row, config: FilmsConfig) -> Path | None:
    """The file of image vectors that was given for a row."""
    if config.clip_features:
        path = paths.resolve(config.clip_features) / f"{Path(row.uid).name}{VECTORS_SUFFIX}"
        return path if path.is_file() else None
    return row.video if row.video and row.video.suffix == VECTORS_SUFFIX else None


def read_vectors(path: Path, width: int) -> np.ndarray:
    """Read image vectors (frames, V) from the cache or a given file."""
    return read_video_pickle(path, width) if path.suffix == VECTORS_SUFFIX else load_features(path, width)


def row_key(row: Row) -> str:
    """A name of a row among the rows of several data sets."""
    return f"{row.dataset}/{row.uid}"
