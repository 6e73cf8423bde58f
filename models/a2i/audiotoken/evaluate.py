"""run_eval.sh of a2i/audiotoken."""

import argparse

from sonolume.config.a2i.audiotoken import Config
from sonolume.models.a2i import evaluate
from sonolume.models.a2i.audiotoken.inference import SHIPPED
from sonolume.models.a2i.audiotoken.pipeline import load


def run(config: Config, args: argparse.Namespace) -> None:
    """Score the pictures of unseen sounds."""
    evaluate.run(config, args, load, SHIPPED)
