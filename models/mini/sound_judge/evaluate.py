"""How much the sound judge gets right of real renderings."""

import argparse

import numpy as np
import torch

from sonolume.config.mini.sound_judge import Config
from sonolume.models import inference
from sonolume.models.mini import real_scores, scores
from sonolume.models.mini.sound_judge import pipeline
from sonolume.modules.mel import MelSpectrogram
from sonolume.preprocessors.miniworld import world


def run(config: Config, args: argparse.Namespace) -> None:
    """Listen to held-out scenes, and write report.json and report.md."""
    where = real_scores.find_judge(config, args)
    judge = pipeline.load(where).to(inference.pick_device(args.device))
    scenes, mel = real_scores.test_scenes(args.num_samples), MelSpectrogram()
    waves = torch.from_numpy(np.stack([world.render(scene) for scene in scenes]))  # (N, samples)
    mels = torch.cat([mel(some) for some in waves.split(64)])                      # (N, M, T)
    real_scores.write(args, where, scenes, scores.rows(pipeline.listen(judge, mels), scenes), "sounds")
