"""Inference of audio2img: pictures of sounds."""

from dataclasses import replace

from sonolume.config.a2i.audio2img import Config, InferenceOptions
from sonolume.models.a2i import generate
from sonolume.models.a2i.audio2img.encoder import SHIPPED as SHIPPED


def run(config: Config, options: InferenceOptions) -> None:
    """Draw pictures of the sounds; the preset "reference" has white noise as negative sound, as published."""
    if options.preset == "reference" and not options.negative_audio and not options.negative_text:
        options = replace(options, negative_audio="noise")
    generate.run(config, options)
