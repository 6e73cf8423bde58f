"""Data of the sound judge: prepared log-mels of the miniature world, and the scenes they came from."""

import argparse

from torch import Tensor
from torch.utils.data import Dataset, default_collate

from sonolume.config.base import PreprocessConfig
from sonolume.config.mini.sound_judge import Config
from sonolume.models.mini.truth import sound_truth
from sonolume.models.training import TrainingData
from sonolume.models.tta.features import load_mel, mel_path, read_rows
from sonolume.modules.judges import STRIDE, SoundJudgement
from sonolume.preprocessors import text_audio
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.utils.errors import UserError


def preprocess(config: Config, args: argparse.Namespace) -> None:
    """Scenes -> manifest and mel features."""
    text_audio.prepare(config.preprocess, args.dataset, args.input, audio_dir=args.audio_dir)


def training_data(config: Config) -> TrainingData:
    """Batches: mel (B, M, T) and truth."""
    train, valid = (SceneMels(config.preprocess, config.dataset, split) for split in ("train", "valid"))
    return TrainingData(train, valid, default_collate)


class SceneMels(Dataset[tuple[Tensor, SoundJudgement]]):
    """Log-mels (M, T) with the truth about their scenes.

    Raises:
        UserError: a row that is not of the miniature world.
    """

    def __init__(self, config: PreprocessConfig, datasets: list[str], split: str) -> None:
        self.config = config
        self.rows = read_rows(config, datasets, split)
        strange = next((row for row in self.rows if row.scene is None), None)
        if strange:
            raise UserError(f"{strange.dataset}: {strange.uid} has no Scene: judges know the miniature world only")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, SoundJudgement]:
        row = self.rows[item[1]]
        assert row.scene is not None
        mel = load_mel(mel_path(self.config, row), self.config.n_mel, self.config.frames)[0]
        return mel, sound_truth(Scene.from_dict(row.scene), self.config.frames // STRIDE)
