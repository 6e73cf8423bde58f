"""Inference of AudioToken: pictures of sounds, or with --tags their AudioSet classes."""

from sonolume.config.a2i.audiotoken import Config, InferenceOptions
from sonolume.models.a2i import generate
from sonolume.models.a2i.audiotoken.encoder import load

SHIPPED = "pretrained/mini/audiotoken"  # the miniature exported folder, used where the run has none


def run(config: Config, options: InferenceOptions) -> None:
    """Draw pictures of the sounds (`models/a2i/generate.py`), or print their tags (`tags.py`)."""
    if options.tags:
        from sonolume.models.a2i.audiotoken import tags

        tags.run(config, options, SHIPPED)
    else:
        generate.run(config, options, load, SHIPPED)
