"""Shapes, sizes and folders of the judges."""

import json
from pathlib import Path

import pytest
import torch

from sonolume.modules.judges import BACKBONES, WEIGHTS_FILE, PictureJudge, SoundJudge
from sonolume.utils.errors import UserError

KINDS = [f"kind{index}" for index in range(12)]
WIDTHS = {"conv_gru": 16, "patch_transformer": 80}


def sound_judge(architecture: str = "conv_gru", width: int = 4) -> SoundJudge:
    torch.manual_seed(0)
    return SoundJudge(KINDS, architecture, width).eval()


@pytest.mark.parametrize("architecture", BACKBONES)
def test_sound_judgement_shapes(architecture: str) -> None:
    judge = sound_judge(architecture, WIDTHS[architecture])
    shapes = {name: tuple(value.shape) for name, value in judge(torch.randn(2, 80, 160))._asdict().items()}
    assert shapes == {
        "presence": (2, 12), "activity": (2, 12, 20), "repeats": (2, 3),
        "pitch": (2, 2), "loudness": (2, 2), "direction": (2, 2),
    }  # fmt: skip
    assert sum(parameter.numel() for parameter in judge.parameters()) <= 350_000


def test_picture_judgement_shapes() -> None:
    judge = PictureJudge(KINDS, 24).eval()
    shapes = {name: tuple(value.shape) for name, value in judge(torch.rand(2, 3, 64, 64))._asdict().items()}
    assert shapes == {"presence": (2, 12), "layout": (2, 3), "panels": (2, 2, 12), "repeats": (2, 3)}
    assert sum(parameter.numel() for parameter in judge.parameters()) <= 350_000


@pytest.mark.parametrize("architecture", BACKBONES)
def test_saving_and_loading(architecture: str, tmp_path: Path) -> None:
    judge = sound_judge(architecture)
    judge.save_pretrained(tmp_path / "judge")
    again = SoundJudge.from_pretrained(tmp_path / "judge")
    mel = torch.randn(2, 80, 160)
    assert not again.training and not any(parameter.requires_grad for parameter in again.parameters())
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    assert again.kinds == KINDS and again.world == 1
    for before, after in zip(judge(mel), again(mel), strict=True):
        torch.testing.assert_close(before, after, atol=1e-2, rtol=1e-2)


def test_weights_on_disk_have_half_precision(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    sound_judge().save_pretrained(tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / WEIGHTS_FILE).values()} == {torch.float16, torch.int64}
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["_class_name"], config["world"], config["kinds"]) == ("SoundJudge", 1, KINDS)


def test_a_wrong_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        SoundJudge.from_pretrained(tmp_path / "nothing")
    PictureJudge(KINDS, 4).save_pretrained(tmp_path / "picture")
    with pytest.raises(UserError, match="PictureJudge.*SoundJudge"):
        SoundJudge.from_pretrained(tmp_path / "picture")


def test_a_damaged_folder_is_named(tmp_path: Path) -> None:
    sound_judge().save_pretrained(tmp_path)
    weights = tmp_path / WEIGHTS_FILE
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"width": 8}))
    with pytest.raises(UserError, match="does not fit"):
        SoundJudge.from_pretrained(tmp_path)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="cut or damaged"):
        SoundJudge.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match="incomplete SoundJudge"):
        SoundJudge.from_pretrained(tmp_path)


def test_impossible_sizes_are_rejected() -> None:
    with pytest.raises(ValueError, match="cnn"):
        SoundJudge(KINDS, "cnn", 16)
    with pytest.raises(ValueError, match="frames 100 of 8"):
        SoundJudge(KINDS, "conv_gru", 16, frames=100)
