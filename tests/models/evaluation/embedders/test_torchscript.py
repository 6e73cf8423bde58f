import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sonolume.models.evaluation.embedders.load import load
from sonolume.utils.errors import UserError


class Blocks(nn.Module):
    """(B, n) -> means and peaks of each half second, (B, T, 2), or (B, 2) of the whole."""

    def __init__(self, framed: bool) -> None:
        super().__init__()
        self.framed = framed

    def forward(self, wave: Tensor) -> Tensor:
        blocks = wave.unfold(1, 4000, 4000)
        rows = torch.stack([blocks.mean(2), blocks.amax(2)], dim=2)
        return rows if self.framed else rows.mean(1)


class Wrong(nn.Module):
    def forward(self, wave: Tensor) -> Tensor:
        return wave.sum()


class Strict(nn.Module):
    def forward(self, wave: Tensor) -> Tensor:
        return wave.reshape(1, 123)


def saved(model: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(model).save(path)
    return path


@pytest.mark.parametrize("framed", [True, False])
def test_embeddings_are_the_mean_over_time(tmp_path: Path, framed: bool) -> None:
    embedder = load(f"torchscript:{saved(Blocks(framed), tmp_path / 'm.pt')}@8000")
    wave = np.concatenate([np.full(4000, 0.25), np.full(4000, 0.75)]).astype(np.float32)
    found = embedder.encode_audio([wave, wave[:4000], wave]).embeddings
    assert found.tolist() == [[0.5, 0.5], [0.125, 0.125], [0.5, 0.5]]
    assert (embedder.dim, embedder.sample_rate, embedder.window) == (2, 8000, None)
    assert embedder.name.startswith("torchscript:m.pt@")
    assert embedder.facts()["frames"] == "mean of a sound"  # why it differs from published FAD


def test_another_file_has_another_name(tmp_path: Path) -> None:
    names = [load(f"torchscript:{saved(Blocks(framed), tmp_path / 'm.pt')}@8000").name for framed in (True, False)]
    assert names[0] != names[1]


@pytest.mark.parametrize(
    ("model", "problem"), [(Wrong(), r"returned \(\) for \(1, 8000\)"), (Strict(), "does not take")]
)
def test_a_model_of_another_form(tmp_path: Path, model: nn.Module, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        load(f"torchscript:{saved(model, tmp_path / 'm.pt')}@8000")


def test_what_is_no_torchscript(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "weights.pt")
    (tmp_path / "text.pt").write_text("hello")
    for name in ("weights.pt", "text.pt"):
        with pytest.raises(UserError, match=f"{name}: not a TorchScript file") as error:
            load(f"torchscript:{tmp_path / name}@16000")
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no such file"):
        load(f"torchscript:{tmp_path / 'gone.pt'}@16000")
    with pytest.raises(UserError, match="sample rate"):
        load(f"torchscript:{tmp_path / 'text.pt'}")
