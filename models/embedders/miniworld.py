"""The judges of the miniature world as embedders: no download, but they know its twelve kinds only."""

from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image, Resampling
from torch import Tensor, nn

from sonolume.models.embedders.base import Embedder, Features, hash_of, pad
from sonolume.modules.judges import WEIGHTS_FILE, Judge, PictureJudge, SoundJudge
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.utils import paths

SHIPPED = "pretrained/mini"
SIDE = 64  # pixels


class JudgeEmbedder(Embedder):
    """The features from which the kinds are told, and their logits: each kind's own, for several may sound at once."""

    def __init__(self, judge: Judge, folder: Path, device: torch.device | str) -> None:
        self.judge, self.device, self.labels = judge.to(device), device, tuple(judge.kinds)
        self.name = f"mini:{folder.name}@{hash_of(folder / 'config.json', folder / WEIGHTS_FILE)}"
        self._kinds: nn.Linear = judge.presence  # type: ignore[assignment]
        self.dim = self._kinds.in_features
        self._seen: list[Tensor] = []
        self._kinds.register_forward_pre_hook(lambda _, inputs: self._seen.append(inputs[0]))

    def _judge(self, inputs: Tensor) -> Features:
        logits = self.judge(inputs.to(self.device)).presence  # (B, K)
        return Features(self._seen.pop(), logits)


class SoundJudgeEmbedder(JudgeEmbedder):
    """Silence fills up short sounds, as in training."""

    takes = ("sounds",)

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        judge = SoundJudge.from_pretrained(folder)
        super().__init__(judge, folder, device)
        self.mel = MelSpectrogram(MelSettings(n_mel=judge.settings["n_mel"]))
        self.samples = judge.settings["frames"] * self.mel.settings.hop_size
        self.sample_rate = self.mel.settings.sample_rate
        self.window = self.samples / self.sample_rate

    def _hear(self, waves: list[np.ndarray]) -> Features:
        return self._judge(self.mel(pad(waves, self.samples)))


class PictureJudgeEmbedder(JudgeEmbedder):
    """Pictures of any size are scaled to 64 x 64."""

    takes = ("pictures",)

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        super().__init__(PictureJudge.from_pretrained(folder), folder, device)

    def _look(self, pictures: list[Image]) -> Features:
        small = [np.asarray(picture.resize((SIDE, SIDE), Resampling.BICUBIC)) for picture in pictures]
        return self._judge(torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2) / 255)  # (B, 3, 64, 64)


def load(source: str, device: torch.device | str = "cpu") -> JudgeEmbedder:
    """A shipped judge by its name, or a folder that training one exported; raises a UserError where there is none."""
    shipped = paths.resolve(SHIPPED) / source
    folder = shipped if shipped.is_dir() else Path(source).expanduser().resolve()
    is_picture = "PictureJudge" in _class_name(folder)
    return (PictureJudgeEmbedder if is_picture else SoundJudgeEmbedder)(folder, device)


def _class_name(folder: Path) -> str:
    """Errors are left to `from_pretrained`, which names them."""
    config = folder / "config.json"
    return config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
