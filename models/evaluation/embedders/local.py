"""Embedders without anything of their own to download.

Judges of the miniature world, which know its twelve kinds only; statistics of log-mel spectrograms, which need no
weights, for tests and first curves; pairs of other embedders that share a space, such as Wav2CLIP and CLIP; and any
model of sounds as a TorchScript file: VGGish, PANNs, PaSST ...
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image, Resampling
from torch import Tensor, nn

from sonolume.models.evaluation.embedders.base import Embedder, Features, pad
from sonolume.models.evaluation.embedders.load import load as load_embedder
from sonolume.modules.judges import Judge, PictureJudge, SoundJudge, judge_version
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.preprocessors.miniworld.captions import kinds_in
from sonolume.utils import checkpoint, paths
from sonolume.utils.cache import content_hash
from sonolume.utils.errors import UserError, first_line

KINDS = {
    "mel": ("", r""),
    "mini": ("sound_judge, sound_judge_second, picture_judge, world or a FOLDER", r".+"),
    "pair": ("SOUND_SPEC|PICTURE_SPEC in quotes", r"(?P<sound_embedder>[^|]+)\|(?P<picture_embedder>[^|]+)"),
    "torchscript": ("FILE.pt@RATE, with the sample rate that the model expects", r".+@\d+"),
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


class PairEmbedder(Embedder):
    """Sounds by one embedder, pictures by the other, texts by the picture embedder if it takes them, else by the other.

    That both were trained into one space is the caller's claim: only the widths are checked.

    Raises:
        UserError: one does not take its medium, or their widths differ.
    """

    def __init__(self, sound: Embedder, picture: Embedder) -> None:
        sound.require("sounds")
        picture.require("pictures")
        if sound.dim != picture.dim:
            widths = f"{sound.name} has width {sound.dim}, {picture.name} {picture.dim}"
            raise UserError(f"embedder pair: {widths}: not one space")
        self.sound, self.picture = sound, picture
        self.text = next((one for one in (picture, sound) if "texts" in one.takes), None)
        self.takes = ("sounds", "pictures", "texts") if self.text else ("sounds", "pictures")
        self.name, self.dim = f"pair:{sound.name}+{picture.name}", sound.dim
        self.sample_rate, self.window, self.ragged = sound.sample_rate, sound.window, sound.ragged
        self.labels = sound.labels if sound.labels == picture.labels else ()
        self.unit = sound.unit

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        return self._comparable(self.sound.audio_features(waves))

    def image_features(self, pictures: list[Image]) -> Features:
        return self._comparable(self.picture.image_features(pictures))

    def text_features(self, texts: list[str]) -> Tensor:
        assert self.text is not None
        return self.text.text_features(texts)

    def _comparable(self, features: Features) -> Features:
        """Drop the logits if the two have different classes."""
        return features if self.labels else Features(features.embeddings, None)


class TorchScriptEmbedder(Embedder):
    """Called with float32 (B, n); must return (B, d), or (B, T, d), which is averaged over T.

    Sounds shorter than a second are padded with silence. The mean makes one sample of a sound, while published FAD on
    VGGish counts every frame: such numbers are not comparable with published ones.

    Loading a file runs its graph: no Python is imported or unpickled, but every operator of torch may be used, which
    can read files and fill the memory. Take files from people that you trust.
    """

    takes = ("sounds",)
    ragged = False  # the effect of padding is unknown

    def __init__(self, path: Path, sample_rate: int, device: torch.device | str) -> None:
        if not path.is_file():
            raise UserError(f"embedder torchscript:{path}: no such file")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # torch recommends torch.export
                self.model = torch.jit.load(path, map_location=device).eval()
        except checkpoint.DAMAGED as error:
            reason = f"not a TorchScript file, as torch.jit.save writes them ({first_line(error, 120)})"
            raise UserError(f"embedder torchscript:{path}: {reason}") from error
        self.device, self.sample_rate = device, sample_rate
        self.name = f"torchscript:{path.name}@{content_hash(path)}"
        self.dim = self.audio_features([np.zeros(sample_rate, np.float32)]).embeddings.shape[-1]

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"frames": "mean of a sound"}

    @torch.no_grad()
    def audio_features(self, waves: list[np.ndarray]) -> Features:
        wave = pad(waves, shortest=self.sample_rate).to(self.device)  # (B, n)
        try:
            output = self.model(wave)
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1][:120]
            raise UserError(f"{self.name} does not take float32 of shape {tuple(wave.shape)}: {last}") from error
        if not isinstance(output, Tensor) or output.ndim not in (2, 3) or len(output) != len(wave):
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UserError(f"{self.name} returned {shape} for {tuple(wave.shape)}, not (B, d) or (B, T, d)")
        return Features(output if output.ndim == 2 else output.mean(1), None)


def load(kind: str, source: str, device: torch.device | str) -> Embedder:
    """Load an embedder; a judge by its name if shipped, else by the folder that training exported."""
    if kind == "mel":
        return MelStatistics(device)
    if kind == "pair":
        sound, picture = (load_embedder(spec, device) for spec in source.split("|"))
        return PairEmbedder(sound, picture)
    if kind == "torchscript":
        path, _, rate = source.rpartition("@")
        return TorchScriptEmbedder(paths.expand(path), int(rate), device)
    if source == "world":
        return WorldEmbedder(device)
    shipped = paths.resolve(SHIPPED) / source
    folder = shipped if shipped.is_dir() else paths.expand(source).resolve()
    if not folder.is_dir():
        raise UserError(f"embedder mini:{source}: no such judge or folder: write mini:{KINDS[kind][0]}")
    return _judge(folder, device)


def _judge(folder: Path, device: torch.device | str) -> JudgeEmbedder:
    judge_class = PictureJudge if paths.kind_of(folder) == "PictureJudge" else SoundJudge
    return JudgeEmbedder(judge_class.from_pretrained(folder), folder, device)
