"""LoRA files: what training adds, what is saved, and what a pipeline makes of it."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sonolume.config.base import LoraConfig, LoraTarget
from sonolume.models import lora
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.utils.errors import UserError

CONFIG = LoraConfig(rank=3, alpha=6.0, targets=list(LoraTarget))


@pytest.fixture(scope="module")
def base(make_pipeline: Callable[..., Any]) -> Any:
    return make_pipeline().unet


@pytest.fixture
def pipe(base: Any) -> Any:
    """The part of a pipeline that `load` uses."""
    return SimpleNamespace(unet=copy.deepcopy(base))


@torch.no_grad()
def answer(unet: Any) -> torch.Tensor:
    """Output of a network for a fixed input."""
    generator = torch.Generator().manual_seed(0)
    x, text = torch.randn(2, 6, 20, 8, generator=generator), torch.randn(2, 3, 16, generator=generator)
    return unet(x, torch.tensor([10, 900]), text).sample


@pytest.fixture(scope="module")
def adapted(base: Any) -> Any:
    """A copy of the U-Net with adapters that have an effect."""
    unet = copy.deepcopy(base)
    for number, weight in enumerate(lora.add(unet, CONFIG).parameters()):
        torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(number))
    return unet


@pytest.fixture
def file(adapted: Any, tmp_path: Path) -> Path:
    lora.save(adapted, tmp_path / lora.FILE, CONFIG, "some/pipeline")
    return tmp_path / lora.FILE


def test_new_adapters_change_nothing_and_are_all_that_learns(pipe: Any) -> None:
    before, plain = answer(pipe.unet), dict(pipe.unet.named_parameters())
    adapters = lora.add(pipe.unet, LoraConfig(rank=2))
    assert answer(pipe.unet).equal(before)
    learning = {id(weight) for weight in pipe.unet.parameters() if weight.requires_grad}
    assert learning == {id(weight) for weight in adapters.parameters()}
    assert not learning & {id(weight) for weight in plain.values()}
    assert {name.rpartition("/")[2] for name in adapters} == {"to_q", "to_k", "to_v", "0"}  # of attention alone


@pytest.mark.parametrize("target", list(LoraTarget))
def test_targets_choose_layers(pipe: Any, target: LoraTarget) -> None:
    adapters = lora.add(pipe.unet, LoraConfig(rank=2, targets=[target]))
    kinds = {type(pipe.unet.get_submodule(name.replace("/", ".")).base_layer) for name in adapters}
    convolutions = (LoraTarget.convolution, LoraTarget.projection)
    assert kinds == {torch.nn.Conv2d if target in convolutions else torch.nn.Linear}


def test_a_loaded_file_does_what_the_adapters_did(pipe: Any, adapted: Any, file: Path) -> None:
    before, wanted = answer(pipe.unet), answer(adapted)
    assert (wanted - before).abs().max() > 0.1
    lora.load(pipe, file)
    torch.testing.assert_close(answer(pipe.unet), wanted, atol=1e-4, rtol=1e-4)


def test_the_scale(pipe: Any, file: Path) -> None:
    base = copy.deepcopy(pipe.unet.state_dict())
    lora.load(pipe, file, scale=0)
    assert all(weight.equal(base[name]) for name, weight in pipe.unet.state_dict().items())
    whole, halves = copy.deepcopy(pipe), copy.deepcopy(pipe)
    lora.load(whole, file)
    lora.load(halves, file, scale=0.5)
    assert (answer(whole.unet) - answer(halves.unet)).abs().max() > 0.1
    lora.load(halves, file.parent, scale=0.5)  # its folder will do; files add up
    torch.testing.assert_close(answer(halves.unet), answer(whole.unet), atol=1e-4, rtol=1e-4)


def test_diffusers_reads_the_file(pipe: Any, file: Path) -> None:
    """As `load_lora_weights` of a diffusers pipeline does; alpha is not the rank here, so it must be understood too."""
    other = copy.deepcopy(pipe)
    with safe_open(file, "pt") as opened:
        header = opened.metadata()
    other.unet.load_lora_adapter(load_file(file), prefix="unet", metadata=json.loads(header[lora.SETTINGS]))
    lora.load(pipe, file)
    torch.testing.assert_close(answer(other.unet), answer(pipe.unet), atol=1e-4, rtol=1e-4)
    facts = {name: header[name] for name in ("rank", "alpha", "base_model")}
    assert facts == {"rank": "3", "alpha": "6.0", "base_model": "some/pipeline"} and header["sonolume_version"]


def test_a_pipeline_with_lora_is_saved_whole(make_pipeline: Callable[..., Any], file: Path, tmp_path: Path) -> None:
    pipe = make_pipeline()
    lora.load(pipe, file)
    pipe.save_pretrained(tmp_path / "merged")
    again = TextToAudioPipeline.from_pretrained(tmp_path / "merged")
    assert answer(again.unet).equal(answer(pipe.unet))


def test_a_file_without_a_header_means_a_factor_of_one(pipe: Any, file: Path, tmp_path: Path) -> None:
    save_file(load_file(file), tmp_path / "bare.safetensors")
    bare = copy.deepcopy(pipe)
    lora.load(bare, tmp_path / "bare.safetensors")
    lora.load(pipe, file, scale=0.5)  # alpha / rank is 2
    torch.testing.assert_close(answer(bare.unet), answer(pipe.unet), atol=1e-5, rtol=1e-5)


def test_half_precision(pipe: Any, file: Path) -> None:
    pipe.unet.to(torch.bfloat16)
    before = copy.deepcopy(pipe.unet.state_dict())
    lora.load(pipe, file)
    after = pipe.unet.state_dict()
    assert {weight.dtype for weight in after.values()} == {torch.bfloat16}
    assert any(not after[name].equal(before[name]) for name in after)


def rename(old: str, new: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda weights: {name.replace(old, new): weight for name, weight in weights.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename("unet.", ""), "not a LoRA of this kind of model: .* is not 'unet.LAYER.lora_A.weight'"),
        (rename("unet.", "text_encoder."), "not a LoRA of this kind of model: 'text_encoder"),
        (rename("lora_A", "lora_C"), "not a LoRA of this kind of model"),
        (rename("mid_block", "middle"), "belongs to another network: this U-Net has no middle"),
        (lambda weights: {}, "holds no weights"),
        (lambda weights: dict(list(weights.items())[1:]), "has only one of lora_A and lora_B"),
        (lambda weights: {name: weight.repeat(2, *[1] * (weight.ndim - 1)) for name, weight in weights.items()},
         r"belongs to another network: .* is \(.*\) in this U-Net, \(.*\) in the file"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_line_and_changes_nothing(pipe: Any, file: Path, change: Any, message: str) -> None:
    save_file(change(load_file(file)), file)
    before = answer(pipe.unet)
    with pytest.raises(UserError, match=message) as caught:
        lora.load(pipe, file)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)
    assert answer(pipe.unet).equal(before)


def test_a_network_without_such_layers(pipe: Any, file: Path) -> None:
    plain = UNet2DConditionModel(
        in_channels=6, block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        mid_block_type=None, norm_num_groups=4,
    )  # fmt: skip
    pipe.unet = plain
    with pytest.raises(UserError, match="belongs to another network: this U-Net has no down_blocks"):
        lora.load(pipe, file)
    with pytest.raises(UserError, match="model.lora.targets: "):
        lora.add(plain, LoraConfig())


def test_files_that_cannot_be_read(pipe: Any, file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:5], b"", b"not a LoRA at all, but text"):
        file.write_bytes(content)
        with pytest.raises(UserError, match="cut, damaged or no safetensors file"):
            lora.load(pipe, file)
    with pytest.raises(UserError, match="no such LoRA file"):
        lora.load(pipe, tmp_path / "absent.safetensors")
    with pytest.raises(UserError, match="must be a finite number, got nan"):
        lora.load(pipe, file, scale=float("nan"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [('{"unet.use_dora": true}', "use_dora: a kind of LoRA"), ("{", "header is damaged"), ("[]", "header is damaged")],
)
def test_a_header_that_is_not_understood(pipe: Any, file: Path, settings: str, message: str) -> None:
    save_file(load_file(file), file, {lora.SETTINGS: settings})
    with pytest.raises(UserError, match=message):
        lora.load(pipe, file)
