"""Official BEATs checkpoints become a folder of the same function; anything else is named as what it is."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sonolume.bins import convert as entry
from sonolume.models.convert import beats
from sonolume.modules.beats.beats import BEATs
from sonolume.utils import cli
from sonolume.utils.errors import UserError

MIDS = ["/m/05tny_", "/m/06mb1", "/m/09x0r", "/m/04rlf", "/t/dd00135", "a", "b", "c", "d", "e"]


@pytest.fixture
def checkpoint(goldens: SimpleNamespace) -> dict[str, Any]:
    """As a finetuned one is published, in the golden files' small size."""
    return goldens.beats_checkpoint("small") | {"label_dict": dict(enumerate(MIDS))}


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], Path]:
    def save(content: Any) -> Path:
        path = tmp_path / "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt"
        torch.save(content, path)
        return path

    return save


def refused(message: str, path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        beats.read(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_finetuned_checkpoint(
    goldens: SimpleNamespace, checkpoint: dict[str, Any], saved: Any, tmp_path: Path, capsys: Any
):
    """By the command, named by its folder; the outputs are those of the official code."""
    saved(checkpoint)
    folder = tmp_path / "out"
    assert cli.run(entry.main, ["beats", str(tmp_path), str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder)
    model = BEATs.from_pretrained(folder).eval()
    golden = np.load(goldens.AUDIOTOKEN / "beats_small.npz")
    wave = goldens.audiotoken_waves()[:1]
    layers = torch.cat(model(wave, layers=(4, 8, 12)).layers, -1)
    goldens.assert_close(layers.detach(), torch.from_numpy(golden["cat"])[:1], 1e-4)
    goldens.assert_close(model.tags(wave), torch.from_numpy(golden["probs"])[:1], 1e-4)
    assert list(model.config.labels) == MIDS and model.labels[:2] == ("Bark", "Rain")
    assert json.loads((folder / "source.json").read_text())["system"] == "beats"
    assert not [path for path in folder.iterdir() if path.suffix not in (".json", ".safetensors", ".md")]


def test_without_a_head(checkpoint: dict[str, Any], saved: Any):
    """As before finetuning, and as AudioToken keeps it: the class count of its cfg does not matter."""
    weights = {name: tensor for name, tensor in checkpoint["model"].items() if not name.startswith("predictor")}
    model = beats.read(saved({"cfg": checkpoint["cfg"] | {"finetuned_model": False}, "model": weights}))
    assert model.predictor is None and model.labels == () and not model.training


def test_with_a_head_but_no_label_map(checkpoint: dict[str, Any], saved: Any):
    del checkpoint["label_dict"]
    model = beats.read(saved(checkpoint))
    assert model.labels == () and model.config.predictor_class == 10


def test_the_table_of_the_first_layer_is_enough(checkpoint: dict[str, Any], saved: Any):
    weights = checkpoint["model"]
    whole = {name: tensor.clone() for name, tensor in beats.read(saved(checkpoint)).state_dict().items()}
    checkpoint["model"] = {n: w for n, w in weights.items() if "relative_attention_bias" not in n or ".0.self" in n}
    assert all(tensor.equal(whole[name]) for name, tensor in beats.read(saved(checkpoint)).state_dict().items())


def test_settings_come_from_the_file(checkpoint: dict[str, Any], saved: Any):
    checkpoint["cfg"]["max_distance"] = 48
    assert beats.read(saved(checkpoint)).config.max_distance == 48
    del checkpoint["cfg"]["max_distance"]
    refused("not BEATs as published: its cfg has no max_distance", saved(checkpoint))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["cfg"].update(layer_norm_first=True), "layer_norm_first True of its cfg"),
        (lambda c: c["cfg"].update(encoder_layers=11), "it has encoder.layers.11"),
        (lambda c: c["cfg"].update(encoder_attention_heads=5), "not BEATs as published: .*must divide"),
        (lambda c: c["label_dict"].pop(3), "its label map has 9 classes, its head 10"),
        (lambda c: c["model"].pop("encoder.layers.3.fc1.bias"), "it has no encoder.layers.3.fc1.bias"),
        (lambda c: c["model"].pop("encoder.pos_conv.0.weight_g"), "it has no encoder.pos_conv.0.weight"),
        (lambda c: c["model"]["encoder.layers.2.self_attn.relative_attention_bias.weight"].add_(1), "differs"),
        (lambda c: c["model"]["layer_norm.bias"].fill_(torch.nan), "layer_norm.bias contains NaN"),
        (lambda c: c.pop("cfg"), "BEATs' weights but no 'cfg'"),
    ],
)
def test_differences_from_published_files(checkpoint: dict[str, Any], saved: Any, change: Any, message: str):
    change(checkpoint)
    refused(message, saved(checkpoint))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"cfg": {}, "model": {"quantize.embedding.weight": torch.ones(1)}}, "BEATs' tokenizer"),
        ({"fga.reduce_potentials.0.weight": torch.ones(1)}, "AudioToken's embedder"),
        ({"model": {"quant_conv.weight": torch.ones(1)}}, "Amphion's autoencoder"),
        ({"state_dict": {"a": torch.ones(1)}}, "of Lightning: .* pipeline/"),
        ({"epoch": 3, "loss": 0.5}, "no weights .*; it holds epoch, loss"),
        ([1, 2], "holds a list"),
    ],
)
def test_other_files_are_named(saved: Any, content: Any, message: str):
    refused(message, saved(content))


def test_a_file_that_runs_code_is_refused(saved: Any, tmp_path: Path):
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "it ran",))

    refused("not a plain checkpoint, refused", saved({"cfg": {}, "model": Trap()}))
    assert not (tmp_path / "it ran").exists()


def test_a_folder_must_leave_no_choice(checkpoint: dict[str, Any], saved: Any, tmp_path: Path):
    with pytest.raises(UserError, match="no BEATs.*it holds: nothing"):
        beats.find(tmp_path)
    path = saved(checkpoint)
    assert beats.find(tmp_path) == path
    path.with_name("BEATs_iter2.pt").touch()
    with pytest.raises(UserError, match=r"several .*BEATs_iter2.pt, BEATs_iter3.*: name the file"):
        beats.find(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        beats.find(tmp_path / "none")
    beats.convert(path, tmp_path / "out")
    with pytest.raises(UserError, match="nothing to convert"):
        beats.find(tmp_path / "out")
