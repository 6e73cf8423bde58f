"""Evaluation of audio2img."""

from sonolume.models.a2i.evaluate import run as run
