"""Vectors of recordings and pictures in the space that speech was aligned with, and search among them.

N recordings, M pictures, V width of the image encoder's vectors, J width of the common space, n samples of a wave.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sonolume.config.options import Spans
from sonolume.models.a2i import loading
from sonolume.models.a2i.clips import Clip, read_clips
from sonolume.models.a2i.sound_encoder import LongSounds
from sonolume.models.s2i.wavy.encoder import RECIPE, WINDOW, SpeechVectors, load_images, load_vectors
from sonolume.models.s2i.wavy.image_encoder import ImageEncoder
from sonolume.preprocessors.sound_pictures import SMALLEST_SIDE
from sonolume.utils.audio import SoundError
from sonolume.utils.image import PictureError, open_image

RECORDINGS = 64  # that are read before they are encoded
PICTURES = 32  # of one forward pass
READER_THREADS = 4


class DualEncoder:
    """Encoders of recordings and of pictures into one space.

    Its attributes are those of a `SoundInput` (models/a2i/sound_encoder.py): whole recordings only.
    """

    window, long_sounds = WINDOW, LongSounds.refuse

    def __init__(self, speech: SpeechVectors, images: ImageEncoder) -> None:
        self.speech, self.images = speech, images
        self.sample_rate, self.min_seconds, self.width = speech.sample_rate, speech.min_seconds, speech.width

    @torch.no_grad()
    def project_images(self, vectors: Tensor) -> Tensor:
        """Take vectors of the image encoder (M, V) into the common space: unit vectors (M, J) on the CPU."""
        network = self.speech.speech_encoder
        return network.project_images(vectors.to(network.device, network.dtype)).float().cpu()


def load(source: str, device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[DualEncoder, dict[str, Any]]:
    """Load the encoders of an exported folder or hub id of either stage, and return its settings; no Stable Diffusion.

    Raises:
        UserError: a part is missing, damaged, or does not fit the others.
    """
    folder, settings = loading.read_settings(source, [RECIPE], "--checkpoint")
    vectors = load_vectors(folder, settings, device, dtype)
    return DualEncoder(vectors, load_images(folder, settings, vectors, device, dtype)), settings


def encode_recordings(
    encoder: DualEncoder, paths: Sequence[Path], spans: Spans | None = None
) -> tuple[Tensor, list[Clip], dict[Path, SoundError]]:
    """Read and encode recordings -> unit vectors (N, J) on the CPU, their clips, and the errors of all others.

    `spans` are those of --span.
    """
    found, clips, errors = [torch.zeros(0, encoder.width)], list[Clip](), dict[Path, SoundError]()
    with tqdm(total=len(paths), desc="recordings", leave=None, disable=len(paths) < 2) as bar:
        for start in range(0, len(paths), RECORDINGS):
            waves = []
            for path in paths[start : start + RECORDINGS]:
                try:
                    ((clip, wave),) = read_clips(path, encoder, spans=spans)
                except SoundError as error:
                    errors[path] = error
                else:
                    clips.append(clip)
                    waves.append(torch.from_numpy(wave))
                bar.update()
            if waves:
                found.append(encoder.speech.encode(waves).cpu())
    return torch.cat(found), clips, errors


def encode_pictures(
    images: ImageEncoder, paths: Sequence[Path]
) -> tuple[Tensor, list[Path], dict[Path, PictureError]]:
    """Read and encode picture files -> vectors (M, V) on the CPU, their paths, and the errors of all others."""
    found, kept, errors = [torch.zeros(0, images.width)], list[Path](), dict[Path, PictureError]()
    with (
        tqdm(total=len(paths), desc="pictures", leave=None, disable=len(paths) < 2) as bar,
        ThreadPoolExecutor(READER_THREADS) as pool,
    ):
        for start in range(0, len(paths), PICTURES):
            batch = paths[start : start + PICTURES]
            opened = dict(zip(batch, pool.map(_open, batch), strict=True))
            errors |= {path: one for path, one in opened.items() if isinstance(one, PictureError)}
            pictures = {path: one for path, one in opened.items() if isinstance(one, Image.Image)}
            if pictures:
                found.append(images.encode_images(list(pictures.values())).cpu())
            kept += pictures
            bar.update(len(batch))
    return torch.cat(found), kept, errors


def _open(path: Path) -> Image.Image | PictureError:
    try:
        picture = open_image(path)
    except PictureError as error:
        return error
    if min(picture.size) < SMALLEST_SIDE:
        sizes = f"{picture.width} x {picture.height} pixels, below {SMALLEST_SIDE} x {SMALLEST_SIDE}"
        return PictureError(f"{path}: {sizes}", "too small")
    return picture


def nearest(vectors: Tensor, among: Tensor, count: int) -> list[list[tuple[int, float]]]:
    """Numbers of the `count` rows of `among` (M, J) nearest to each vector (N, J), and their cosines; the best first.

    All vectors have length 1. Of equal cosines, the first row comes first.
    """
    found = []
    for vector in vectors:
        cosines, numbers = (among @ vector).sort(descending=True, stable=True)
        found.append(list(zip(numbers[:count].tolist(), cosines[:count].tolist(), strict=True)))
    return found
