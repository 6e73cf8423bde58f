"""LoRAs for few steps: how they are recognised, and that they leave no trace after the preset."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from sonolume.models.a2i import few_steps
from sonolume.models.a2i.few_steps import LCM, FewSteps, Turbo
from sonolume.models.a2i.pipeline import AudioToImagePipeline
from sonolume.modules.lora import FILE
from sonolume.utils.errors import UserError


@pytest.mark.parametrize("name", ["latent-consistency/lcm-lora-sdv1-5", "LCM_LoRA.safetensors", "my_lcm", "sd-lcm-2/"])
def test_lcm_loras_are_known_by_their_name(name: str) -> None:
    assert few_steps.of_lora(name, {}) is LCM


@pytest.mark.parametrize("name", ["some/style", "falcm-lora", "calcmodel.safetensors"])
def test_others_are_not(name: str) -> None:
    assert few_steps.of_lora(name, {"rank": "4"}) is None


def test_ours_are_known_by_their_header() -> None:
    limits = few_steps.of_lora("turbo", {"steps": "4", "guidance_scale": "4.0"})
    assert limits is not None and (limits.most_steps, limits.built_in, limits.steps) == (4, 4.0, 4)
    assert [limits.takes_steps(number) for number in (0, 1, 2, 3, 4, 8)] == [False, True, True, False, True, False]
    with pytest.raises(UserError, match="its header is damaged"):
        few_steps.of_lora("turbo", {"steps": "many"})


def test_limits() -> None:
    LCM.check(8, 1.5, has_negatives=True)
    with pytest.raises(ValueError, match="an LCM-LoRA takes a guidance scale of at most 2, got 2.5"):
        LCM.check(4, 2.5, has_negatives=False)
    with pytest.raises(ValueError, match="this LoRA takes 1, 2 steps, got 4"):
        FewSteps("this LoRA", 2, 1.0, 4.0).check(4, 1.0, has_negatives=False)


@pytest.fixture
def pipe(tiny_stable_diffusion: Path, formula_encoder: Callable[..., Any], tmp_path: Path) -> AudioToImagePipeline:
    sd: Any = StableDiffusionPipeline.from_pretrained(tiny_stable_diffusion, safety_checker=None)
    found = AudioToImagePipeline(formula_encoder(), sd)
    weights = {}
    for name, layer in found.unet.named_modules():
        if type(layer) is torch.nn.Linear:
            weights |= {f"unet.{name}.lora_A.weight": torch.ones(1, layer.in_features) / 50}
            weights |= {f"unet.{name}.lora_B.weight": torch.ones(layer.out_features, 1) / 50}
    (tmp_path / "turbo").mkdir()
    save_file(weights, tmp_path / "turbo" / FILE, {"steps": "2", "guidance_scale": "4.0"})
    found.turbo = few_steps.in_folder(tmp_path)
    return found


def test_the_preset_merges_the_lora_and_others_bring_the_weights_back(pipe: AudioToImagePipeline) -> None:
    before, guidance = copy.deepcopy(pipe.unet.state_dict()), pipe.guidance_scale
    assert pipe.use_preset("turbo") == 2 and type(pipe.scheduler).__name__ == "LCMScheduler"
    assert pipe.default_guidance_scale == 1 and pipe.guidance_scale == guidance
    merged = pipe.unet.state_dict()
    assert any(not merged[name].equal(before[name]) for name in before)
    with pytest.raises(ValueError, match="ddim: the preset turbo has a sampler of its own"):
        pipe.use_scheduler("ddim")
    pipe.use_preset("balanced")
    assert all(weight.equal(before[name]) for name, weight in pipe.unet.state_dict().items())
    assert pipe.default_guidance_scale == guidance


def test_pipelines_that_share_a_network(pipe: AudioToImagePipeline) -> None:
    """Each call has the weights of its own preset, whatever the other one does."""
    tokens = torch.zeros(1, pipe.encoder.num_tokens, pipe.encoder.width)
    draw: Any = lambda one: one(tokens, num_inference_steps=2, output_type="pt",  # noqa: E731
                                generator=torch.Generator().manual_seed(0)).images  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    other = AudioToImagePipeline.from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    pipe.use_preset("turbo")
    turbo, balanced = draw(pipe), draw(other)
    assert draw(pipe).equal(turbo) and draw(other).equal(balanced) and not turbo.equal(balanced)


def test_a_folder_without_the_file(tmp_path: Path) -> None:
    assert few_steps.in_folder(tmp_path) is None
    (tmp_path / "turbo").mkdir()
    (tmp_path / "turbo" / FILE).write_bytes(b"123")
    with pytest.raises(UserError, match="cut, damaged or no safetensors file"):
        few_steps.in_folder(tmp_path)
    assert Turbo(LCM).file is None
