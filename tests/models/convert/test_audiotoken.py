"""Fabricated files with the published names and shapes become folders that load; others are named as what they are."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sonolume.bins import convert as bins_convert
from sonolume.config.audio_to_image import STABLE_DIFFUSION
from sonolume.models import lora
from sonolume.models.a2i.pipeline import SETTINGS_FILE
from sonolume.models.convert import audiotoken
from sonolume.modules.audiotoken import AudioTokenEmbedder
from sonolume.utils import cli
from sonolume.utils.errors import UserError

FOLDER = Path(__file__).parents[2] / "goldens" / "audiotoken"


def official(goldens: SimpleNamespace, name: str) -> dict[str, Tensor]:
    shapes = json.loads((FOLDER / f"keys_{name}.json").read_text())["keys"]
    return {key: goldens.value_for(key, tuple(shape)) for key, shape in shapes.items()}


@pytest.fixture
def embedder(goldens: SimpleNamespace, tmp_path: Path) -> Path:
    path = tmp_path / "embedder_learned_embeds.bin"
    torch.save(official(goldens, "embedder_768"), path)
    return path


def test_the_published_embedder_becomes_a_folder(embedder: Path, goldens: SimpleNamespace, tmp_path: Path):
    target = tmp_path / "made"
    assert cli.run(bins_convert.main, ["audiotoken", str(embedder), str(target), "--beats", "my/beats"]) == 0
    settings = json.loads((target / SETTINGS_FILE).read_text())
    assert settings == {
        "recipe": "a2i/audiotoken", "stable_diffusion": "CompVis/stable-diffusion-v1-4", "beats": "my/beats",
        "prompt": "a photo of <*>, 4k, high resolution", "window": 10.0,
    }  # fmt: skip
    model: Any = AudioTokenEmbedder.from_pretrained(target / "embedder")
    for name, weight in official(goldens, "embedder_768").items():
        assert model.state_dict()[name].equal(weight), name
    assert not list(target.rglob("*.bin"))


def test_one_of_stable_diffusion_2_names_it(goldens: SimpleNamespace, tmp_path: Path):
    shapes = json.loads((FOLDER / "keys_embedder_1024.json").read_text())["keys"]
    path = tmp_path / "learned_embeds.bin"
    torch.save({key: torch.ones(shape) for key, shape in shapes.items()}, path)
    audiotoken.convert(path, tmp_path / "made", "beats", None, None)
    settings = json.loads((tmp_path / "made" / SETTINGS_FILE).read_text())
    assert settings["stable_diffusion"] == STABLE_DIFFUSION[1024]


def test_the_last_step_of_a_folder_is_taken(tmp_path: Path):
    for name in ("AudioToken_learned_embeds-9000.bin", "AudioToken_learned_embeds-10000.bin",
                 "AudioToken_lora_layers_learned_embeds-11000.bin"):  # fmt: skip
        (tmp_path / name).touch()
    assert audiotoken.find(tmp_path).name == "AudioToken_learned_embeds-10000.bin"
    (tmp_path / "AudioToken_learned_embeds.bin").touch()
    assert audiotoken.find(tmp_path).name == "AudioToken_learned_embeds.bin"
    (tmp_path / "embedder_learned_embeds.bin").touch()
    assert audiotoken.find(tmp_path).name == "embedder_learned_embeds.bin"


def test_every_adapter_of_the_published_file_is_used(goldens: SimpleNamespace, tmp_path: Path):
    """256 tensors: 128 products, each merged into the layer of its name."""
    weights = official(goldens, "lora_sd14")
    path = tmp_path / "lora_layers_learned_embeds.bin"
    torch.save(weights, path)
    found = audiotoken.read_lora(path)
    assert len(found) == 256 and sum(weight.numel() for weight in found.values()) == 797_184
    layers = {name.rpartition(".lora_")[0].removeprefix("unet.") for name in found}
    assert len(layers) == 128
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)  # Stable Diffusion 1
    shapes = {name: weight.shape for name, weight in unet.named_parameters()}
    for layer in layers:
        down, up = found[f"unet.{layer}.lora_A.weight"], found[f"unet.{layer}.lora_B.weight"]
        assert (up @ down).shape == shapes[f"{layer}.weight"], layer
    block = "mid_block.attentions.0.transformer_blocks.0.attn2"
    assert found[f"unet.{block}.to_out.0.lora_A.weight"].equal(weights[f"{block}.processor.to_out_lora.down.weight"])


def test_a_merged_adapter_is_the_product(tmp_path: Path):
    """Scale 1: W + up down."""
    layer = torch.nn.Linear(3, 5)
    block = torch.nn.ModuleDict({"attn1": torch.nn.ModuleDict({"to_q": layer})})
    unet = torch.nn.ModuleDict({"mid_block": block})
    before = layer.weight.detach().clone()
    down, up = torch.randn(4, 3), torch.randn(5, 4)
    names = {f"mid_block.attn1.processor.to_q_lora.{half}.weight": w for half, w in (("down", down), ("up", up))}
    torch.save(names, tmp_path / "lora.bin")
    from safetensors.torch import save_file

    save_file(audiotoken.read_lora(tmp_path / "lora.bin"), tmp_path / lora.FILE, {"format": "pt"})
    lora.load(SimpleNamespace(unet=unet), tmp_path)
    torch.testing.assert_close(layer.weight.detach(), before + up @ down)


def test_lora_goes_beside_the_embedder(embedder: Path, goldens: SimpleNamespace, tmp_path: Path):
    file = tmp_path / "lora.bin"
    torch.save(official(goldens, "lora_sd14"), file)
    audiotoken.convert(embedder, tmp_path / "made", "beats", "sd", file)
    assert (tmp_path / "made/lora" / lora.FILE).is_file()


class Evil:
    def __reduce__(self):  # noqa: ANN204
        return print, ("executed",)


def test_what_is_no_embedder_is_named(
    embedder: Path, goldens: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def refusal(content: Any, *arguments: Any) -> str:
        path = tmp_path / "file.bin"
        torch.save(content, path)
        with pytest.raises(UserError) as error:
            audiotoken.convert(path, tmp_path / "no", "beats", None, *(arguments or (None,)))
        assert not (tmp_path / "no").exists()
        return str(error.value)

    weights = torch.load(embedder, weights_only=True)
    assert "it has no fga" in refusal({name: w for name, w in weights.items() if "reduce_potentials" not in name})
    assert "holds the LoRA" in refusal(official(goldens, "lora_sd14"))
    assert "with the weights a, not AudioToken" in refusal({"a": torch.ones(1)})
    assert "NaN" in refusal(weights | {"fc1.bias": torch.full((2304,), torch.nan)})
    lora_file = tmp_path / "lora.bin"
    torch.save(dict(list(official(goldens, "lora_sd14").items())[:3]), lora_file)
    assert "only one of lora_A and lora_B" in refusal(weights, lora_file)
    torch.save(weights, lora_file)
    assert "not AudioToken's LoRA" in refusal(weights, lora_file)
    torch.save({"fc1.weight": Evil()}, tmp_path / "evil.bin")
    with pytest.raises(UserError, match="refused"):
        audiotoken.convert(tmp_path / "evil.bin", tmp_path / "no", "beats", None, None)
    assert "executed" not in capsys.readouterr().out
