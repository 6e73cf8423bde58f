"""run_eval.sh of a2i/audiotoken."""

import argparse

from sonolume.config.a2i.audiotoken import Config
from sonolume.models.a2i import evaluate
from sonolume.models.a2i.audiotoken.encoder import load
from sonolume.models.a2i.audiotoken.inference import SHIPPED


def run(config: Config, args: argparse.Namespace) -> None:
    """Score the pictures of unseen sounds."""
    evaluate.run(config, args, load, SHIPPED)
