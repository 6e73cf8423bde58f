"""Any model of sounds as a TorchScript file: VGGish, PANNs, PaSST ..."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sonolume.models.evaluation.embedders.base import Embedder, Features, pad
from sonolume.utils import checkpoint
from sonolume.utils.cache import content_hash
from sonolume.utils.errors import UserError, first_line

KINDS = {"torchscript": ("FILE.pt@RATE, with the sample rate that the model expects", r".+@\d+")}


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
    path, _, rate = source.rpartition("@")
    return TorchScriptEmbedder(Path(path).expanduser(), int(rate), device)
