"""Official Im2Wav checkpoints: fabricated files of the reduced networks, with the names and types of published ones."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sonolume.bins import convert
from sonolume.models.i2a.im2wav.pipeline import Im2WavPipeline, Request
from sonolume.modules.im2wav.sampler import TokenSampling
from sonolume.utils import cli


@pytest.fixture(scope="module")
def im2wav(root: Path) -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(root / "tests" / "goldens" / "im2wav" / "inputs.py")))


def official_file(im2wav: SimpleNamespace, name: str, path: Path, **changes: Any) -> None:
    """A file as the official code saves it: numpy scalars, half-precision `.w`, optimizer, prefixes."""
    hps = im2wav.hyperparameters(f"small.{name}") | {"bandwidth": {"l2": np.float64(0.02), "spec": np.float32(40)}}
    weights = im2wav.weights_for(f"small.{name}")
    model = {f"module.{key}": one.half() if key.endswith(".w") else one for key, one in weights.items()}
    torch.save({"hps": hps | changes, "model": model, "opt": {"state": torch.zeros(1000)}, "step": 7}, path)


@pytest.fixture(scope="module")
def tars(im2wav: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pre_trained")
    for name in ("vqvae", "low", "up"):
        official_file(im2wav, name, folder / f"{name}.tar")
    return folder


def test_three_files_become_a_pipeline(
    im2wav: SimpleNamespace, tars: Path, tmp_path: Path
) -> None:
    assert cli.run(convert.main, ["im2wav", str(tars), str(tmp_path / "model")]) == 0
    pipe = Im2WavPipeline.from_pretrained(tmp_path / "model")
    assert (pipe.window, pipe.sample_rate, pipe.guidance_scale) == (8192, 16000, 3.0)
    assert "non-commercial" in (tmp_path / "model" / "README.md").read_text()
    assert json.loads((tmp_path / "model" / "source.json").read_text())["system"] == "im2wav"
    wave = pipe(Request(torch.randn(1, 9, 512), [0], 8000), sampling=TokenSampling(temperature=0, guidance=3.0))
    assert wave.shape == (1, 8000) and wave.isfinite().all()
    weights = im2wav.weights_for("small.low")["prior.transformer._attn_mods.0.attn.c_attn.w"]
    assert torch.equal(pipe.low.transformer.blocks[0].attention.qkv.weight, weights.half().float().T)


@pytest.mark.parametrize("name", ["vqvae", "low", "up"])
def test_one_file_becomes_one_network(tars: Path, tmp_path: Path, name: str) -> None:
    assert cli.run(convert.main, [f"im2wav-{name}", str(tars / f"{name}.tar"), str(tmp_path / "model")]) == 0
    assert sorted(path.name for path in (tmp_path / "model").iterdir() if path.is_dir()) == [name]


def test_mistakes_are_named(
    im2wav: SimpleNamespace, tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for name in ("vqvae", "low", "up"):
        (mixed / f"{name}.tar").write_bytes((tars / f"{name}.tar").read_bytes())
    official_file(im2wav, "low", mixed / "low.tar", downs_t=(3, 3))
    no_hps = tmp_path / "no_hps.tar"
    torch.save({"model": im2wav.weights_for("small.low")}, no_hps)
    (tmp_path / "cut.tar").write_bytes((tars / "up.tar").read_bytes()[:-500])
    for arguments, message in (
        (["im2wav-low", tars / "up.tar"], "im2wav-up"),
        (["im2wav", mixed], "downs_t"),
        (["im2wav-low", no_hps], "hps"),
        (["im2wav-up", tmp_path / "cut.tar"], "cut"),
        (["im2wav", tmp_path / "missing"], "no such file or folder"),
    ):
        assert cli.run(convert.main, [*map(str, arguments), str(tmp_path / "never")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "never").exists()
