"""Inference of audio2img: pictures of sounds."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sonolume.config.a2i.audio2img import Config, InferenceOptions
from sonolume.models.a2i import generate as pictures
from sonolume.models.a2i.audio2img.encoder import SHIPPED as SHIPPED
from sonolume.models.a2i.generate import LoadedModel
from sonolume.models.a2i.generate import load_model as load_model
from sonolume.models.progress import OnStep


def run(config: Config, options: InferenceOptions) -> None:
    """Draw pictures of the sounds, and print their paths."""
    pictures.run(config, _as_published(options))


def generate(model: LoadedModel, options: InferenceOptions, on_step: OnStep | None = None) -> Iterator[Path]:
    """Draw pictures of the sounds, and yield their paths."""
    return pictures.generate(model, _as_published(options), on_step)


def _as_published(options: InferenceOptions) -> InferenceOptions:
    """Give the preset "reference" white noise as negative sound, as published."""
    if options.preset == "reference" and not options.negative_audio and not options.negative_text:
        return replace(options, negative_audio="noise")
    return options
