"""Evaluation of AudioToken."""

from sonolume.config.a2i.audiotoken import Config, EvaluationOptions
from sonolume.models.a2i import evaluate
from sonolume.models.a2i.audiotoken.encoder import load
from sonolume.models.a2i.audiotoken.inference import SHIPPED


def run(config: Config, options: EvaluationOptions) -> None:
    """Score the pictures of held-out sounds."""
    evaluate.run(config, options, load, SHIPPED)
