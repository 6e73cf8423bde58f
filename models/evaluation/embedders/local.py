"""Embedders without anything to download: the judges of the miniature world, which know its twelve kinds only, and
statistics of log-mel spectrograms, which need no weights, for tests and first curves.
"""

from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image, Resampling
from torch import Tensor, nn

from sonolume.models.evaluation.embedders.base import Embedder, Features, pad
from sonolume.modules.judges import Judge, PictureJudge, SoundJudge, judge_version
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.preprocessors.miniworld.captions import kinds_in
from sonolume.utils import paths
from sonolume.utils.errors import UserError

KINDS = {
    "mel": ("", r""),
    "mini": ("sound_judge, sound_judge_second, picture_judge, world or a FOLDER", r".+"),
}
SHIPPED = "pretrained/mini"
PICTURE_SIZE = 64  # px


class MelStatistics(Embedder):
    """Mean and standard deviation of each of the 80 bands over time: 160 numbers that ignore what happens when."""

    takes = ("sounds",)
    ragged = False

    def __init__(self, device: torch.device | str) -> None:
        settings = MelSettings()
        self.mel, self.device = MelSpectrogram(settings).to(device), device
        self.name, self.dim, self.sample_rate = "mel:", 2 * settings.n_mel, settings.sample_rate

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        mel = self.mel(pad(waves).to(self.device))                                  # (B, M, T)
        return Features(torch.cat([mel.mean(-1), mel.std(-1, correction=0)], -1), None)  # (B, 2 M)


class JudgeEmbedder(Embedder):
    """The input of the layer that classifies kinds, and its logits, which are independent: kinds can coincide.

    Short sounds are padded with silence, as in training; pictures of any size are scaled to 64 x 64.
    """

    def __init__(self, judge: Judge, folder: Path, device: torch.device | str) -> None:
        self.judge, self.device, self.labels = judge.to(device), device, tuple(judge.kinds)
        self.name, self.takes = f"mini:{judge_version(folder)}", ("pictures",)
        if isinstance(judge, SoundJudge):
            self.mel = MelSpectrogram(MelSettings(n_mel=judge.settings["n_mel"]))
            self.samples = judge.settings["frames"] * self.mel.settings.hop_size
            self.takes, self.sample_rate = ("sounds",), self.mel.settings.sample_rate
            self.window = self.samples / self.sample_rate
        classifier: nn.Linear = judge.presence  # type: ignore[assignment]
        self.dim, self._inputs = classifier.in_features, list[Tensor]()
        classifier.register_forward_pre_hook(lambda _, inputs: self._inputs.append(inputs[0]))

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        return self._features(self.mel(pad(waves, self.samples)))

    def image_features(self, pictures: list[Image]) -> Features:
        small = [np.asarray(picture.resize((PICTURE_SIZE, PICTURE_SIZE), Resampling.BICUBIC)) for picture in pictures]
        return self._features(torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2) / 255)  # (B, 3, 64, 64)

    def _features(self, inputs: Tensor) -> Features:
        logits = self.judge(inputs.to(self.device)).presence  # (B, K)
        return Features(self._inputs.pop(), logits)


class WorldEmbedder(Embedder):
    """Sounds, pictures and captions of the miniature world in one space: the probability of each kind, minus 1 / K.

    Kinds by the sound judge, the picture judge, and the words of a caption. The shift makes two different kinds nearly
    orthogonal, and an input without any kind orthogonal to each of them. Counts and order are not represented.
    """

    takes = ("sounds", "pictures", "texts")

    def __init__(self, device: torch.device | str) -> None:
        shipped = paths.resolve(SHIPPED)
        self.sound, self.picture = (_judge(shipped / name, device) for name in ("sound_judge", "picture_judge"))
        if self.sound.labels != self.picture.labels:
            raise UserError(f"embedder mini:world: {self.sound.name} and {self.picture.name} have different classes")
        self.labels, self.dim = self.sound.labels, len(self.sound.labels)
        self.sample_rate, self.window = self.sound.sample_rate, self.sound.window
        self.name = f"mini:world@{self.sound.name.partition('@')[2]}{self.picture.name.partition('@')[2]}"

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        return self._shifted(self.sound.audio_features(waves))

    def image_features(self, pictures: list[Image]) -> Features:
        return self._shifted(self.picture.image_features(pictures))

    def text_features(self, texts: list[str]) -> Tensor:
        named = [kinds_in(text) for text in texts]
        return torch.tensor([[float(kind in kinds) for kind in self.labels] for kinds in named]) - 1 / self.dim

    def _shifted(self, features: Features) -> Features:
        assert features.logits is not None
        return Features(features.logits.sigmoid() - 1 / self.dim, features.logits)


def load(kind: str, source: str, device: torch.device | str) -> Embedder:
    """Load `mel:`, a shipped judge by its name, `world` for all media, or a folder that training exported."""
    if kind == "mel":
        return MelStatistics(device)
    if source == "world":
        return WorldEmbedder(device)
    shipped = paths.resolve(SHIPPED) / source
    folder = shipped if shipped.is_dir() else Path(source).expanduser().resolve()
    if not folder.is_dir():
        raise UserError(f"embedder mini:{source}: no such judge or folder: write mini:{KINDS[kind][0]}")
    return _judge(folder, device)


def _judge(folder: Path, device: torch.device | str) -> JudgeEmbedder:
    config = folder / "config.json"
    is_picture = config.is_file() and "PictureJudge" in config.read_text(encoding="utf-8", errors="replace")
    return JudgeEmbedder((PictureJudge if is_picture else SoundJudge).from_pretrained(folder), folder, device)
