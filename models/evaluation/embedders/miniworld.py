"""The judges of the miniature world as embedders: no download, but they know its twelve kinds only."""

from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image, Resampling
from torch import Tensor, nn

from sonolume.models.evaluation.embedders.base import Embedder, Features, hash_of, pad
from sonolume.modules.judges import WEIGHTS_FILE, Judge, PictureJudge, SoundJudge
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.preprocessors.miniworld.words import kinds_in
from sonolume.utils import paths
from sonolume.utils.errors import UserError

SHIPPED = "pretrained/mini"
EARS, EYES = "sound_judge", "picture_judge"  # of the joint space
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


class WorldEmbedder(Embedder):
    """Sounds, pictures and captions of the miniature world in one space: which kinds are there, less 1 / K each.

    Kinds by the judge of sound and the judge of pictures, and by reading a caption's words. The shift makes two
    different kinds nearly orthogonal, and puts what shows no kind at right angles to every single one. It knows
    neither counts nor order: "a bell, then a dog" is where "a dog, then a bell" is.
    """

    takes = ("sounds", "pictures", "texts")

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.ears = SoundJudgeEmbedder(paths.resolve(SHIPPED) / EARS, device)
        self.eyes = PictureJudgeEmbedder(paths.resolve(SHIPPED) / EYES, device)
        if self.ears.labels != self.eyes.labels:
            raise UserError(f"embedder mini:world: {self.ears.name} and {self.eyes.name} know different kinds")
        self.labels, self.dim = self.ears.labels, len(self.ears.labels)
        self.sample_rate, self.window = self.ears.sample_rate, self.ears.window
        self.name = f"mini:world@{self.ears.name.partition('@')[2]}{self.eyes.name.partition('@')[2]}"

    def _hear(self, waves: list[np.ndarray]) -> Features:
        return self._placed(self.ears._hear(waves))

    def _look(self, pictures: list[Image]) -> Features:
        return self._placed(self.eyes._look(pictures))

    def _read(self, texts: list[str]) -> Tensor:
        named = [kinds_in(text) for text in texts]
        return torch.tensor([[float(kind in kinds) for kind in self.labels] for kinds in named]) - 1 / self.dim

    def _placed(self, judged: Features) -> Features:
        assert judged.logits is not None
        return Features(judged.logits.sigmoid() - 1 / self.dim, judged.logits)


def load(source: str, device: torch.device | str = "cpu") -> Embedder:
    """A shipped judge by its name, `world` for both in one space, or a folder that training a judge exported.

    Raises:
        UserError: there is none.
    """
    if source == "world":
        return WorldEmbedder(device)
    shipped = paths.resolve(SHIPPED) / source
    folder = shipped if shipped.is_dir() else Path(source).expanduser().resolve()
    is_picture = "PictureJudge" in _class_name(folder)
    return (PictureJudgeEmbedder if is_picture else SoundJudgeEmbedder)(folder, device)


def _class_name(folder: Path) -> str:
    """Errors are left to `from_pretrained`, which names them."""
    config = folder / "config.json"
    return config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
