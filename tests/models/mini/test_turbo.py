"""Distillation of the tiny Stable Diffusion: a few steps of it give a LoRA that the preset "turbo" takes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from sonolume.config.load import load_config
from sonolume.models import training
from sonolume.models.a2i import few_steps
from sonolume.models.mini import conditions, turbo
from sonolume.modules.lora import FILE
from sonolume.modules.sampling import generators
from sonolume.preprocessors.miniworld import world
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.utils.errors import ConfigError

FEW = [
    "model.sound_encoders=[]",
    "model.distill.miniworld_captions=3", "model.distill.valid_paths=1", "model.distill.path_steps=4",
    "model.lora.rank=2", "train.batch_size=2", "train.max_steps=2", "train.valid_interval=2",
    "train.save_checkpoints_steps=2", "train.save_summary_steps=1", "train.warmup_steps=0", "train.accelerator=cpu",
]  # fmt: skip


def test_a_short_distillation_of_all_stages_exports_the_preset(
    root: Path, tiny_stable_diffusion: Path, tmp_path: Path
) -> None:
    run = [f"model.pretrained='{tiny_stable_diffusion}'", f"cache_dir='{tmp_path}/cache'", f"log_dir='{tmp_path}/runs'"]
    first = training.run(load_config(root / "egs/mini/turbo.json", [*FEW, *run]), False)
    run += [f"model.distill.student='{first}'", "train.max_steps=4"]
    second = training.run(load_config(root / "egs/mini/turbo_matching.json", [*FEW, *run]), False)
    assert any(load_file(first / FILE)[name].ne(weight).any() for name, weight in load_file(second / FILE).items())
    own = [*FEW, *run[:3], *(f"model.{key}='{second}'" for key in ("on_policy_student", "distill.student"))]
    third = training.run(load_config(root / "egs/mini/turbo_on_policy.json", own), False)
    assert any(load_file(second / FILE)[name].ne(weight).any() for name, weight in load_file(third / FILE).items())
    third.rename(tmp_path / few_steps.FOLDER)
    made = few_steps.in_folder(tmp_path)
    assert made is not None and made.file == tmp_path / "turbo" / FILE
    assert (made.limits.most_steps, made.limits.built_in) == (4, 4.0)
    with safe_open(made.file, "pt") as file:
        header = file.metadata()
    assert header["base_model"].endswith("tiny") and header["teacher"]
    assert any(weight.any() for name, weight in load_file(made.file).items() if "lora_B" in name)


def test_conditions_come_from_texts_and_encoders_by_turns(
    root: Path, tiny_stable_diffusion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row has the states of its own scene, and inputs that are the ends before with noise."""
    run = [f"model.pretrained='{tiny_stable_diffusion}'", f"cache_dir='{tmp_path}'", "model.sound_encoders=[one]"]
    config = load_config(root / "egs/mini/turbo.json", [*FEW, *run])

    def of_sounds(source: str, scenes: list[Scene], guidance_scale: float) -> conditions.Conditions:
        assert (source, guidance_scale) == ("one", 4)
        states = torch.stack([torch.full((5, 32), float(scene.seed % 1000)) for scene in scenes])
        return states, torch.zeros(1, 5, 32)

    monkeypatch.setattr(conditions, "of_sounds", of_sounds)
    monkeypatch.setattr(conditions, "versions", lambda source: [source])
    pipe, scenes = turbo.load_frozen(config)["pipeline"], list(world.scenes("train", 4, seed=0))
    folder = turbo.make_paths(pipe, scenes, config)
    points, ends, states, state_ends, times = (
        torch.from_numpy(np.load(folder / f"{name}.npy"))
        for name in ("points", "ends", "states", "state_ends", "times")
    )  # fmt: skip
    assert points.shape == ends.shape == (4, 4, *points.shape[2:]) and times.tolist() == pytest.approx(
        [0.999, 0.759, 0.499, 0.259]
    )  # fmt: skip
    rows = [states[end - (5 if row % 2 else 77) : end] for row, end in enumerate(state_ends)]
    texts = conditions.of_texts(pipe, scenes)[0]
    for row, (found, scene) in enumerate(zip(rows, scenes, strict=True)):
        assert (found == scene.seed % 1000).all() if row % 2 else found.equal(texts[row].half())
    alpha, sigma = turbo.noise_form(pipe).coefficients(times)
    noise = (points[:, 1:].float() - alpha[1:] * ends[:, :-1]) / sigma[1:]
    assert 0.8 < noise.std() < 1.2


def test_paths_begin_at_the_inputs_of_a_students_calls(root: Path, tiny_stable_diffusion: Path) -> None:
    config = load_config(root / "egs/mini/turbo.json", [*FEW, f"model.pretrained='{tiny_stable_diffusion}'"])
    pipe, form = (frozen := turbo.load_frozen(config))["pipeline"], turbo.noise_form(frozen["pipeline"])

    class Student:
        config = pipe.unet.config

        def __call__(self, x: torch.Tensor, *_: Any, **__: Any) -> SimpleNamespace:
            return SimpleNamespace(sample=torch.ones_like(x[:, :4]))

    states, negative = conditions.of_texts(pipe, list(world.scenes("train", 2, seed=0)))
    found = turbo.sample_paths(pipe, Student(), states, negative, range(2), config)[:, 0].float()
    randoms = generators(range(2))
    expected = list[torch.Tensor]()
    for time in form.times(4):
        noise = torch.cat([torch.randn(1, *found.shape[2:], generator=one) for one in randoms])
        now, before = torch.full((2,), time), torch.full((2,), form.times(4)[len(expected) - 1])
        result = form.clean(expected[-1], torch.ones_like(noise), before) if expected else None
        expected.append(noise if result is None else form.noisy(result, noise, now))
    torch.testing.assert_close(found, torch.stack(expected, 1), rtol=1e-3, atol=1e-3)  # float16


def test_timesteps_of_a_path_contain_those_of_the_calls() -> None:
    calls = [0.999, 0.759, 0.499, 0.259]
    assert turbo.timesteps(calls, 4) == [999, 759, 499, 259]
    assert turbo.timesteps(calls, 8) == [999, 879, 759, 629, 499, 379, 259, 130]


@pytest.mark.parametrize("wrong", [
    "model.method=full", "model.distill.guidance_scale=1", "model.distill.stage=none", "model.distill.path_steps=10",
])
def test_settings_that_make_no_preset(root: Path, wrong: str) -> None:
    with pytest.raises(ConfigError):
        load_config(root / "egs/mini/turbo.json", [wrong])
