import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from sonolume.bins import train
from sonolume.utils import cli

Train = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def run(tiny_config: Callable[..., Path], capsys: Any) -> Train:
    """run(recipe, *arguments) -> (exit code, last line of stdout, error lines), two steps of training."""

    def run(recipe: str, *arguments: str, **sections: Any) -> tuple[int, str, list[str]]:
        config = tiny_config(recipe, **sections)
        capsys.readouterr()
        code = cli.run(train.main, ["--config", str(config), "train.max_steps=2", *arguments])
        captured = capsys.readouterr()
        errors = [line for line in captured.err.splitlines() if line.startswith(("error", "Traceback"))]
        return code, captured.out.strip().splitlines()[-1] if captured.out.strip() else "", errors

    return run


def test_both_stages_and_resume(run: Train, tmp_path: Path):
    code, vae, _ = run("tta/autoencoderkl", "exp_name=vae")
    assert code == 0 and Path(vae) == tmp_path / "vae" / "pipeline"
    assert json.loads((Path(vae) / "mel.json").read_text())["frames"] == 16
    code, printed, _ = run("tta/audioldm", f"model.autoencoder_path={vae}", "exp_name=ldm")
    assert code == 0 and json.loads((Path(printed) / "model_index.json").read_text())["unet"]
    code, _, (error,) = run("tta/audioldm", f"model.autoencoder_path={vae}", "exp_name=ldm")
    assert code == 2 and "--resume" in error
    more = ["exp_name=ldm", "train.max_steps=3", "--resume"]
    code, again, _ = run("tta/audioldm", f"model.autoencoder_path={vae}", *more)
    assert (code, again) == (0, printed)


def test_a_log_file_has_a_line_for_each_validation_and_no_bars(
    tiny_config: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(tiny_config("tta/autoencoderkl")), "train.max_steps=2"]
    assert cli.run(train.main, arguments) == 0
    printed = capsys.readouterr().err
    assert "batch 4 of 4: val/loss" in printed and "%|" not in printed


@pytest.mark.parametrize(
    ("recipe", "arguments", "message"),
    [
        ("tta/autoencoderkl", ["--resum"], "did you mean --resume?"),
        ("tta/autoencoderkl", ["--resume"], "last.ckpt: "),
        ("tta/autoencoderkl", ["train.lrr=1"], "train.lrr: no such field (did you mean 'adam.lr'?)"),
        ("tta/autoencoderkl", ["dataset=[rain]"], "rain/train.json: no such file"),
        ("tta/audioldm", ["model.autoencoder_path=ckpts/no/vae"], "path ckpts/no/vae: no such folder"),
        ("tta/audioldm", ["model.text_encoder=ckpts/no/t5"], "model.text_encoder ckpts/no/t5: no such folder"),
        ("tta/audioldm", ["model.vocoder=ckpts/no/gan"], "model.vocoder ckpts/no/gan: no such folder"),
        ("tta/audioldm", ["model.text_encoder=no/t5"], "model.text_encoder no/t5: neither a folder nor available"),
        ("tta/audioldm", ["model.audioldm.context_dim=24"], "model.audioldm.context_dim"),
        ("tta/audioldm", [f"model.audioldm.{name}_channels=8" for name in ("in", "out")], "is 8"),
        ("tta/autoencoderkl", ["train.accelerator=toaster"], "`accelerator='toaster'`"),
        ("tta/autoencoderkl", ["train.accelerator=cpu", "train.devices=-1"], "train.accelerator, devices"),
        ("tta/autoencoderkl", ["train.precision=12-bit"], "train.precision '12-bit' is none of 32-true, bf16-mixed"),
        ("tta/autoencoderkl", ["preprocess.n_mel=64"], "(80, 16)"),
    ],
)
def test_a_mistake_is_one_line(run: Train, tmp_path: Path, recipe: str, arguments: list[str], message: str):
    code, _, (error,) = run(recipe, *arguments)
    assert code == 2 and message in error
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("damage", ["cut", "other bands"])
def test_a_bad_mel_is_one_line(run: Train, tiny_data: Path, tmp_path: Path, damage: str):
    import numpy as np

    shutil.copytree(tiny_data / "noise", tmp_path / "data" / "noise", ignore=shutil.ignore_patterns("cache"))
    path = tmp_path / "data" / "noise" / "mel" / "train3.npy"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        np.save(path, np.zeros((40, 16), np.float32))
    for recipe in ("tta/autoencoderkl", "tta/audioldm"):
        code, _, (error,) = run(recipe, "train.max_steps=6", preprocess={"processed_dir": str(tmp_path / "data")})
        assert code == 2 and "train3.npy" in error
    assert not list(tmp_path.rglob("moments.npy"))


def test_a_full_disk_leaves_no_half_checkpoint(run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(trainer: Any, path: Path, *args: Any, **kwargs: Any) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:668] . PytorchStreamWriter failed writing file data/3")

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", full)
    code, _, (error,) = run("tta/autoencoderkl")
    assert code == 1 and "no space left on the device" in error
    assert not [path for path in (tmp_path / "run" / "checkpoints").iterdir()]


@pytest.mark.parametrize(("bands", "code"), [(80, 0), (64, 2)])
def test_a_vocoder_goes_into_the_pipeline(run: Train, tmp_path: Path, bands: int, code: int):
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    config = SpeechT5HifiGanConfig(
        model_in_dim=bands, upsample_initial_channel=16, upsample_rates=[8, 8, 2, 2],
        upsample_kernel_sizes=[16, 16, 4, 4], normalize_before=False,
    )  # fmt: skip
    SpeechT5HifiGan(config).save_pretrained(tmp_path / "vocoder")
    found, printed, errors = run("tta/audioldm", f"model.vocoder={tmp_path / 'vocoder'}")
    assert found == code
    if code:
        assert "n_mel 64" in errors[0]
    else:
        index = json.loads((Path(printed) / "model_index.json").read_text())
        assert index["vocoder"] == ["transformers", "SpeechT5HifiGan"]
