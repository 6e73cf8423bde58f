"""Subjects of generation: pictures, videos, texts and stored image vectors, as CLIP vectors with their duration."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolume.config.i2a.im2wav import InferenceOptions
from sonolume.models.i2a.im2wav.features import read_image_pickle, read_video_pickle
from sonolume.models.i2a.im2wav.image_encoder import ImageEncoder
from sonolume.models.i2a.im2wav.pipeline import Im2WavPipeline
from sonolume.utils import files
from sonolume.utils.errors import UserError
from sonolume.utils.image import open_image
from sonolume.utils.video import check_mux, films_in, is_still, probe

SHORTEST = 0.1  # seconds of a video; --duration accepts no less either
IMAGES_STEM = "CLIP"  # the official script for pictures writes CLIP.pickle, the one for videos {stem}.pickle

LoadEncoder = Callable[[], ImageEncoder]


@dataclass(frozen=True)
class Subject:
    """One input; several samples may be made of it.

    Args:
        name: stem of the files of its results.
        frames: (F, V) unit vectors of its frames; F = 1 for a picture or a text.
        seconds: duration of a video; None for other inputs.
        source: entry of the sidecar, such as {"image": "dog.png"}.
    """

    name: str
    frames: Tensor
    seconds: float | None
    source: dict[str, Any]
    video: Path | None = None


def collect(options: InferenceOptions, pipe: Im2WavPipeline, load_encoder: LoadEncoder) -> list[Subject]:
    """Encode all inputs of a command, in the order --image, --video, --text, --clip_features.

    Args:
        load_encoder: loads CLIP; called if there are pictures, videos or texts.

    Raises:
        UserError: an input cannot be used, or a folder contains none.
    """
    pictures = files.find_files(options.image, files.pictures_in, "pictures", "--image")
    videos = files.find_files(options.video, films_in, "videos", "--video")
    for path in pictures:
        if files.is_video(path):
            raise UserError(f"--image {path}: a video: name it with --video")
    for path in videos:
        _check_video(path, options, pipe)
    if any(not text.strip() for text in options.text):
        raise UserError("--text is empty: describe a sound, such as 'a dog barks'")
    found: list[Subject] = []
    if pictures or videos or options.text:
        encoder = load_encoder()
        found += [_picture(encoder, path) for path in pictures]
        found += [_video(encoder, path, pipe, options.duration) for path in videos]
        found += [Subject(text, encoder.encode_texts([text]), None, {"text": text}) for text in options.text]
    pickles = files.find_files(options.clip_features, _pickles_in, "pickles", "--clip_features")
    return found + [subject for path in pickles for subject in _stored(path, pipe.fps, pipe.image_width)]


def negative(options: InferenceOptions, load_encoder: LoadEncoder) -> Tensor | None:
    """Vector (1, V) of --negative_text or --negative_image, or None."""
    if options.negative_text:
        return load_encoder().encode_texts([options.negative_text])
    if options.negative_image:
        return load_encoder().encode_pictures([open_image(options.negative_image)])
    return None


def _pickles_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.pickle"))


def _picture(encoder: ImageEncoder, path: Path) -> Subject:
    return Subject(path.stem, encoder.encode_pictures([open_image(path)]), None, {"image": str(path)})


def _check_video(path: Path, options: InferenceOptions, pipe: Im2WavPipeline) -> None:
    """Refuse a video before any video is encoded."""
    if is_still(path):
        raise UserError(f"--video {path}: a still picture: name it with --image")
    if options.mux:
        check_mux(path)
    seconds = options.duration or probe(path).seconds  # 0 if unknown
    if 0 < seconds < SHORTEST:
        raise UserError(f"--video {path}: only {seconds:.3f} s long: choose the length of its sound with --duration")
    try:
        pipe.check_length(max(1, round(seconds * pipe.sample_rate)))
    except ValueError as error:
        raise UserError(f"--video {path}: {error}: choose a shorter part with --duration") from error


def _video(encoder: ImageEncoder, path: Path, pipe: Im2WavPipeline, duration: float | None) -> Subject:
    """Encode a video, with a `duration` only as far as the windows of the sound reach."""
    reach = None if duration is None else max(duration, pipe.window / pipe.sample_rate) + 1 / pipe.fps
    frames = encoder.encode_video(path, pipe.fps, seconds=reach)                         # (F, V)
    return Subject(path.stem, frames, probe(path).seconds or len(frames) / pipe.fps, {"video": str(path)}, path)


def _stored(path: Path, fps: float, width: int) -> Iterator[Subject]:
    """Vectors in a pickle of the official scripts: frames of a video, or pictures of named objects."""
    if path.stem == IMAGES_STEM:
        for name, rows in read_image_pickle(path, width).items():
            for index, vector in enumerate(torch.from_numpy(rows)):
                yield Subject(f"{name}_{index}", vector[None], None, {"clip_features": f"{path}: {name} {index}"})
    else:
        vectors = torch.from_numpy(read_video_pickle(path, width))                       # (F, V)
        yield Subject(path.stem, vectors, len(vectors) / fps, {"clip_features": str(path)})
