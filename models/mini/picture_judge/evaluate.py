"""How much the picture judge gets right of real pictures."""

import argparse

import torch

from sonolume.config.mini.picture_judge import Config
from sonolume.models import inference
from sonolume.models.mini import real_scores, scores
from sonolume.models.mini.picture_judge import pipeline
from sonolume.models.mini.picture_judge.data import draw


def run(config: Config, args: argparse.Namespace) -> None:
    """Look at held-out scenes, and write report.json and report.md."""
    where = real_scores.find_judge(config, args)
    judge = pipeline.load(where).to(inference.pick_device(args.device))
    scenes = real_scores.test_scenes(args.num_samples)
    pictures = torch.stack([draw(scene) for scene in scenes])  # (N, 3, 64, 64)
    real_scores.write(args, where, scenes, scores.picture_rows(pipeline.look(judge, pictures), scenes), "pictures")
