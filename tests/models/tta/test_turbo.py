"""The preset turbo: a LoRA in the folder of a pipeline, merged while the preset is used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sonolume.config.tta.audioldm import EvaluationOptions, InferenceOptions
from sonolume.models.tta.audioldm.inference import LoadedModel, default_preset
from sonolume.models.tta.audioldm.pipeline import TURBO, TextToAudioPipeline
from sonolume.modules.lora import FILE
from sonolume.modules.sampling import generators

HEADER = {"steps": "4", "guidance_scale": "3.0", "teacher": "0123", "cache_interval": "2"}


@pytest.fixture(scope="module")
def folder(make_pipeline: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flow pipeline with a LoRA of random weights."""
    folder = tmp_path_factory.mktemp("turbo") / "pipeline"
    pipe = make_pipeline(objective="flow")
    pipe.save_pretrained(folder)
    weight = pipe.unet.conv_in.weight                                                          # (o, i, k, k)
    lora = {
        "unet.conv_in.lora_A.weight": torch.full((2, *weight.shape[1:]), 0.3),
        "unet.conv_in.lora_B.weight": torch.full((len(weight), 2, 1, 1), 0.3),
    }
    (folder / TURBO).mkdir()
    save_file(lora, folder / TURBO / FILE, HEADER)
    return folder


@pytest.fixture
def pipe(folder: Path) -> TextToAudioPipeline:
    found = TextToAudioPipeline.from_pretrained(folder)
    found.set_progress_bar_config(disable=True)
    return found


def sound(pipe: Any, **options: Any) -> np.ndarray:
    return pipe("a dog", num_inference_steps=2, generator=generators([5]), **options).audios


def test_other_presets_bring_the_network_back(pipe: TextToAudioPipeline) -> None:
    before, defaults = sound(pipe), (pipe.config.num_steps, pipe.config.guidance_scale, dict(pipe.config.distilled))
    assert pipe.use_preset("turbo") == 4 and type(pipe.scheduler).__name__ == "FlowMatchLCMScheduler"
    facts = {"steps": 4, "guidance_scale": 3.0, "teacher": "0123", "cache_interval": 2}
    assert dict(pipe.config.distilled) == facts
    turbo = sound(pipe)
    pipe.use_preset("turbo")
    assert sound(pipe).tobytes() == turbo.tobytes() != before.tobytes()
    with pytest.raises(ValueError, match="guidance of 3 is built in"):
        pipe("a dog", guidance_scale=4)
    pipe.use_preset("balanced")
    assert (pipe.config.num_steps, pipe.config.guidance_scale, dict(pipe.config.distilled)) == defaults
    assert sound(pipe).tobytes() == before.tobytes()
    pipe.use_preset("turbo")
    pipe.use_scheduler("flow-unipc")
    assert sound(pipe).tobytes() == before.tobytes()


def test_the_cache_interval_of_the_header_is_the_default(pipe: TextToAudioPipeline) -> None:
    plain = sound(pipe)
    assert sound(pipe, cache_interval=1).tobytes() == plain.tobytes() != sound(pipe, cache_interval=2).tobytes()
    pipe.use_preset("turbo")
    turbo = sound(pipe)
    assert sound(pipe, cache_interval=2).tobytes() == turbo.tobytes() != sound(pipe, cache_interval=1).tobytes()
    pipe.unet.compile()
    assert pipe.default_cache_interval == 1  # a compiled network runs as a whole


def test_a_pipeline_saved_in_the_preset_is_a_distilled_one(pipe: TextToAudioPipeline, tmp_path: Path) -> None:
    pipe.use_preset("turbo")
    pipe.save_pretrained(tmp_path)
    saved = TextToAudioPipeline.from_pretrained(tmp_path)
    assert saved.turbo_file is None and saved.config.distilled["steps"] == 4
    assert sound(saved).tobytes() == sound(pipe).tobytes()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, TURBO),
        ({"num_steps": 2}, TURBO),
        ({"num_steps": 20}, None),
        ({"negative_text": "rain"}, None),
        ({"guidance_scale": 4.0}, None),
        ({"scheduler": "flow-euler"}, None),
        ({"preset": "fast"}, "fast"),
    ],
)
def test_the_preset_of_a_command(
    pipe: TextToAudioPipeline, given: dict[str, Any], expected: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert default_preset(pipe, InferenceOptions(text=["rain"], **given)) == expected
    printed = capsys.readouterr().err
    is_named = f"--{next(iter(given), '')}" in printed and "not possible with the preset turbo" in printed
    assert is_named == (expected is None)


def test_the_sampler_of_a_loaded_model_follows_each_command(pipe: TextToAudioPipeline) -> None:
    model = LoadedModel(pipe, "folder", pipe.scheduler, pipe.config.num_steps)
    before = sound(pipe)
    for steps, expected in ((None, 4), (20, pipe.config.num_steps), (1, 4)):
        model.choose_sampler(InferenceOptions(text=["rain"], num_steps=steps))
        assert pipe.config.num_steps == expected
    model.choose_sampler(InferenceOptions(text=["rain"], guidance_scale=4.0))
    assert sound(pipe).tobytes() == before.tobytes()


def test_a_model_without_the_file_has_no_preset_turbo(make_pipeline: Callable[..., Any]) -> None:
    pipe = make_pipeline(objective="flow")
    assert default_preset(pipe, EvaluationOptions()) is None
    with pytest.raises(ValueError, match="not distilled: make a distilled one with run_distill.sh"):
        pipe.use_preset("turbo")


def test_a_file_of_another_kind_is_refused(folder: Path, pipe: TextToAudioPipeline, tmp_path: Path) -> None:
    weights = {"unet.conv_in.lora_A.weight": torch.zeros(1, 1), "unet.conv_in.lora_B.weight": torch.zeros(1, 1)}
    save_file(weights, tmp_path / FILE)
    with pytest.raises(ValueError, match="belongs to another network"):
        pipe._load_turbo(tmp_path / FILE)
    (tmp_path / FILE).write_bytes((folder / TURBO / FILE).read_bytes())
    save_file({"unet.conv_in.lora_A.weight": torch.zeros(1, *pipe.unet.conv_in.weight.shape[1:]),
               "unet.conv_in.lora_B.weight": torch.zeros(len(pipe.unet.conv_in.weight), 1, 1, 1)},
              tmp_path / FILE)  # fmt: skip
    with pytest.raises(ValueError, match="lacks the steps and guidance_scale"):
        pipe._load_turbo(tmp_path / FILE)
