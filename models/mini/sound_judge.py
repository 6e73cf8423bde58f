"""mini/sound_judge: classify log-mels of the miniature world. Trained on real renderings with mild blur and noise."""

import numpy as np
import torch
from torch import Tensor

from sonolume.config.base import PreprocessConfig
from sonolume.config.mini.sound_judge import Config
from sonolume.config.options import PreprocessOptions, ReportOptions
from sonolume.models.mini.judges import sound_target
from sonolume.models.mini.picture_judge import JudgeTask, evaluate, noise, soften, uniform
from sonolume.models.training import Frozen, TrainingData
from sonolume.models.tta.features import MelDataset
from sonolume.modules.judges import STRIDE, SoundJudge, SoundJudgement
from sonolume.modules.mel import MelSpectrogram
from sonolume.preprocessors import text_audio
from sonolume.preprocessors.miniworld import WORLD, world
from sonolume.preprocessors.miniworld.scene import KINDS, Scene
from sonolume.utils.errors import UserError

MAX_GAIN = 0.15  # ln magnitude, up or down: 1.3 dB, too little to make a quiet sound loud
MAX_NOISE = 0.3  # ln magnitude
FLOOR = (-11.6, -9.0)  # ln magnitude: generated silence is not quite silent


def preprocess(config: Config, options: PreprocessOptions) -> None:
    """Render scenes into a manifest and mel features."""
    assert options.dataset is not None
    text_audio.prepare(config.preprocess, options.dataset, options.input, audio_dir=options.audio_dir)


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Batches of mels (B, M, T) and their targets."""
    return TrainingData.of(lambda split: SceneMels(config.preprocess, config.dataset, split))


class SceneMels(MelDataset):
    """Log-mels (M, T) with the targets of their scenes; a row without a scene is a UserError."""

    def __init__(self, config: PreprocessConfig, datasets: list[str], split: str) -> None:
        super().__init__(config, datasets, split)
        for row in self.rows:
            if row.scene is None:
                raise UserError(f"{row.dataset}: {row.uid} has no Scene: judges need data of the miniature world")

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, SoundJudgement]:  # type: ignore[override]
        scene = Scene.from_dict(self.rows[item[1]].scene)  # type: ignore[arg-type]
        return super().__getitem__(item)[0], sound_target(scene, self.config.frames // STRIDE)


class Task(JudgeTask):
    def __init__(self, config: Config, frozen: Frozen) -> None:
        model, data = config.model, config.preprocess
        judge = SoundJudge(list(KINDS), model.architecture.value, model.width, data.n_mel, data.frames, WORLD)
        super().__init__(judge, config, augment)


def augment(mel: Tensor, random: torch.Generator) -> Tensor:
    """Apply blur, a noise floor, gain and noise of random strength to mels (B, M, T)."""
    mel = soften(mel[:, None], random)[:, 0]
    mel = torch.maximum(mel, uniform(mel, *FLOOR, random))
    mel = mel + uniform(mel, -MAX_GAIN, MAX_GAIN, random)
    return mel + uniform(mel, 0, MAX_NOISE, random) * noise(mel, random)


def run(config: Config, options: ReportOptions) -> None:
    """Evaluate the judge on real renderings of held-out scenes."""
    evaluate(config, options, SoundJudge, _mels, "real sounds")


def _mels(scenes: list[Scene]) -> Tensor:
    """(N, M, T) natural-log mels."""
    mel, waves = MelSpectrogram(), torch.from_numpy(np.stack([world.render(scene) for scene in scenes]))
    return torch.cat([mel(batch) for batch in waves.split(64)])
