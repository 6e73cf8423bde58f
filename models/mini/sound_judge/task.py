"""Training of the sound judge, on real renderings that are made a little blurred and noisy."""

import torch
from torch import Tensor

from sonolume.config.mini.sound_judge import Config
from sonolume.models.mini.judge_task import JudgeTask, blur, noise, uniform
from sonolume.modules.judges import SoundJudge
from sonolume.preprocessors.miniworld import WORLD
from sonolume.preprocessors.miniworld.scene import KINDS

GAIN = 0.15  # of ln magnitude, either way: 1.3 dB, too little to make a quiet sound loud
NOISE = 0.3  # of ln magnitude
FLOOR = (-11.6, -9.0)  # ln magnitude: generated silence is not quite silent


class Task(JudgeTask):
    def __init__(self, config: Config) -> None:
        torch.manual_seed(config.train.random_seed)
        model, preprocess = config.model, config.preprocess
        judge = SoundJudge(
            list(KINDS), model.architecture.value, model.width, preprocess.n_mel, preprocess.frames, WORLD
        )
        super().__init__(judge, config.train, smear)


def smear(mel: Tensor, random: torch.Generator) -> Tensor:
    """(B, M, T) -> the same with some blur, a noise floor, gain and noise, each of random strength."""
    amount = uniform(mel, -1, 1, random).clamp(min=0)  # half of them stay sharp
    mel = mel + amount * (blur(mel[:, None])[:, 0] - mel)
    mel = torch.maximum(mel, uniform(mel, *FLOOR, random))
    mel = mel + uniform(mel, -GAIN, GAIN, random)
    return mel + uniform(mel, 0, NOISE, random) * noise(mel, random)
