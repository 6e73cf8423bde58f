"""Training of the picture judge, on real pictures that are made a little blurred and noisy."""

import torch
from torch import Tensor

from sonolume.config.mini.picture_judge import Config
from sonolume.models.mini.judge_task import JudgeTask, blur, noise, uniform
from sonolume.modules.judges import PictureJudge
from sonolume.preprocessors.miniworld import WORLD
from sonolume.preprocessors.miniworld.scene import KINDS

BRIGHTNESS = 0.05  # either way
NOISE = 0.06


class Task(JudgeTask):
    def __init__(self, config: Config) -> None:
        torch.manual_seed(config.train.random_seed)
        super().__init__(PictureJudge(list(KINDS), config.model.width, WORLD), config.train, smear)


def smear(picture: Tensor, random: torch.Generator) -> Tensor:
    """(B, 3, H, W) in 0..1 -> the same with some blur, another brightness and noise, each of random strength."""
    amount = uniform(picture, -1, 1, random).clamp(min=0)  # half of them stay sharp
    picture = picture + amount * (blur(picture) - picture)
    picture = picture + uniform(picture, -BRIGHTNESS, BRIGHTNESS, random)
    return (picture + uniform(picture, 0, NOISE, random) * noise(picture, random)).clamp(0, 1)
