import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sonolume.utils import checkpoint
from sonolume.utils.errors import UserError


class Trap:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def refused(message: str, function, *args) -> None:
    with pytest.raises(UserError, match=message) as caught:
        function(*args)
    assert "\n" not in str(caught.value)


def test_a_dictionary_is_read(tmp_path: Path):
    torch.save({"state_dict": {"weight": torch.ones(2)}, "step": 3}, tmp_path / "a.ckpt")
    assert checkpoint.read(tmp_path / "a.ckpt")["step"] == 3


def test_what_cannot_be_read_is_one_line(tmp_path: Path):
    path = tmp_path / "a.ckpt"
    refused("a.ckpt: no such checkpoint", checkpoint.read, path)
    refused("no such checkpoint", checkpoint.read, tmp_path)
    torch.save({"weight": torch.ones(10_000)}, path)
    whole = path.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused("a.ckpt: (cut or damaged|not a plain checkpoint|no checkpoint of PyTorch)", checkpoint.read, path)
    path.write_bytes(b"RIFF" + bytes(1000))
    refused("a.ckpt: no checkpoint of PyTorch", checkpoint.read, path)
    torch.save([1, 2], path)
    refused("holds a list, not the dictionary", checkpoint.read, path)


def test_nothing_is_executed(tmp_path: Path):
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, tmp_path / "a.ckpt")
    refused("not a plain checkpoint, refused", checkpoint.read, tmp_path / "a.ckpt")
    assert not (tmp_path / "sprung").exists()


def test_a_checkpoint_must_be_of_this_model(tmp_path: Path):
    path = tmp_path / "last.ckpt"

    def check(saved: nn.Module, task: nn.Module) -> None:
        torch.save({"state_dict": saved.state_dict()}, path)
        checkpoint.check_training(path, task)

    refused("no such checkpoint", checkpoint.check_training, path, nn.Linear(2, 2))
    check(nn.Linear(2, 2), nn.Linear(2, 2))
    refused(r"weight is \(3, 2\), not \(2, 2\); resume with the config", check, nn.Linear(2, 3), nn.Linear(2, 2))
    refused("it has no bias", check, nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    refused("it has bias, which this model has not", check, nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    torch.save({"model": {}}, path)
    refused("not a training checkpoint", checkpoint.check_training, path, nn.Linear(2, 2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"architectures": ["T5EncoderModel"]}))
    save_file({"weight": torch.ones(5, 5)}, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "model"


def test_a_right_folder_passes(folder: Path):
    checkpoint.check_folder(folder, "T5EncoderModel")
    checkpoint.check_folder(folder, "Other", "T5EncoderModel")
    (folder / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    checkpoint.check_folder(folder, "AutoencoderKL")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": ["pipeline", "TextToAudioPipeline"]}))
    checkpoint.check_folder(folder, "TextToAudioPipeline")


@pytest.mark.parametrize("size", [0, 5, 20, 90, -1])
def test_cut_weights_are_found(folder: Path, size: int):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    refused("model.safetensors: cut or damaged", checkpoint.check_folder, folder, "T5EncoderModel")


@pytest.mark.parametrize("header", [b"[]", b'{"weight": 3}', b"\xff\xfe", b'{"weight": {}}'])
def test_a_strange_header_is_found(folder: Path, header: bytes):
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    refused("model.safetensors: cut or damaged", checkpoint.check_folder, folder, "T5EncoderModel")


def test_a_wrong_folder_is_one_line(folder: Path, tmp_path: Path):
    refused("absent: no such folder", checkpoint.check_folder, tmp_path / "absent", "X")
    refused("holds T5EncoderModel, not X", checkpoint.check_folder, folder, "X")
    nothing = "X expected, but the folder holds no exported model"
    for content, message in (("{", "not valid JSON"), ("3", "holds a int"), ("{}", nothing)):
        (folder / "config.json").write_text(content)
        refused(message, checkpoint.check_folder, folder, "X")
    (folder / "config.json").write_bytes(b"\xff\xff")
    refused("config.json:1: not UTF-8", checkpoint.check_folder, folder, "X")
    (folder / "config.json").unlink()
    refused(nothing, checkpoint.check_folder, folder, "X")
