"""mini/picture_judge: classify pictures of the miniature world. Trained on real ones with mild blur and noise."""

import torch
from torch import Tensor
from torch.utils.data import default_collate

from sonolume.config.mini.picture_judge import Config
from sonolume.config.options import ReportOptions
from sonolume.models.mini import judge_training
from sonolume.models.mini.judge_training import JudgeTask, noise, soften, uniform
from sonolume.models.mini.judges import picture_target
from sonolume.models.mini.scene_data import SceneDataset, draw
from sonolume.models.mini.scene_data import preprocess as preprocess
from sonolume.models.training import Frozen, TrainingData
from sonolume.modules.judges import PictureJudge, PictureJudgement
from sonolume.preprocessors.miniworld import WORLD
from sonolume.preprocessors.miniworld.scene import KINDS, Scene

MAX_BRIGHTNESS = 0.05  # change up or down
MAX_NOISE = 0.06


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Batches of pictures (B, 3, 64, 64) in 0..1 and their targets."""
    train, valid = (SceneDataset(config.miniworld, split, _item) for split in ("train", "valid"))
    return TrainingData(train, valid, default_collate)


def _item(scene: Scene, epoch: int) -> tuple[Tensor, PictureJudgement]:
    return draw(scene), picture_target(scene)


class Task(JudgeTask):
    def __init__(self, config: Config, frozen: Frozen) -> None:
        super().__init__(PictureJudge(list(KINDS), config.model.width, WORLD), config, augment)


def augment(picture: Tensor, random: torch.Generator) -> Tensor:
    """Apply blur, a change of brightness and noise of random strength to pictures (B, 3, H, W) in 0..1."""
    picture = soften(picture, random)
    picture = picture + uniform(picture, -MAX_BRIGHTNESS, MAX_BRIGHTNESS, random)
    return (picture + uniform(picture, 0, MAX_NOISE, random) * noise(picture, random)).clamp(0, 1)


def run(config: Config, options: ReportOptions) -> None:
    """Evaluate the judge on real pictures of held-out scenes."""
    judge_training.evaluate(config, options, PictureJudge, _pictures, "real pictures")


def _pictures(scenes: list[Scene]) -> Tensor:
    """(N, 3, 64, 64) in 0..1."""
    return torch.stack([draw(scene) for scene in scenes])
