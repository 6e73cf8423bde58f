"""Evaluation of AudioToken."""

from sonolume.models.a2i.evaluate import run as run
