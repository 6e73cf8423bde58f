"""Distillation of a pipeline: both stages resume exactly, the result loads in stock diffusers, mistakes are a line."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from sonolume.bins import distill
from sonolume.config.load import merge
from sonolume.config.sources import overrides, read
from sonolume.config.tta.audioldm import DistillOptions
from sonolume.models.tta.audioldm import distill as stages
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.modules.sampling import generators
from sonolume.utils import cli
from tests import runs

CAPTIONS = [f"sound number {number}" for number in range(12)]
SMALL = [
    "model.distill.valid_paths=2", "model.distill.path_steps=3", "train.batch_size=2", "train.max_steps=3",
    "model.distill.matching_steps=4", "train.valid_interval=4", "train.save_checkpoints_steps=2",
    "train.save_summary_steps=1", "train.warmup_steps=1", "train.accelerator=cpu", "train.devices=1",
    "train.precision=32-true", "train.adam.lr=1e-2",
]  # fmt: skip


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("captions") / "captions.txt"
    path.write_text("\n".join(CAPTIONS))
    return path


@pytest.fixture(scope="module", params=[pytest.param("epsilon", marks=pytest.mark.full), "flow"])
def teacher(request: pytest.FixtureRequest, make_pipeline: Callable[..., Any], tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "pipeline"
    pipe = make_pipeline(objective=request.param, text_mask=request.param == "flow")
    pipe.register_to_config(guidance_scale=3.0)
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def arguments(teacher: Path, captions: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    config = Path(__file__).resolve().parents[2] / "egs/tta/audioldm/distill.json"
    return ["--config", str(config), "--checkpoint", str(teacher), "--text_file", str(captions), *SMALL,
            f"log_dir='{tmp_path_factory.mktemp('runs')}'"]  # fmt: skip


def configs(arguments: list[str], exp_name: str) -> list[Any]:
    """The configs of both stages, as the command makes them."""
    flags = dict(zip(arguments[:6:2], arguments[1:6:2], strict=True))
    given = [*read(Path(flags["--config"])), *overrides([*arguments[6:], f"exp_name={exp_name}"])]
    options = DistillOptions(checkpoint=flags["--checkpoint"], text_file=Path(flags["--text_file"]))
    return stages.configure(merge(given), options, given)


@pytest.fixture(scope="module")
def trained(arguments: list[str]) -> tuple[Path, Path]:
    """The folders of the runs of both stages, trained by the command."""
    assert cli.run(distill.main, [*arguments, "exp_name=whole"]) == 0
    first, second = configs(arguments, "whole")
    return first.run_dir, second.run_dir


def test_the_result_loads_in_stock_diffusers(
    arguments: list[str], trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained[1] / "pipeline"
    pipe = TextToAudioPipeline.from_pretrained(folder)
    stock = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    sounds = []
    for one in (pipe, stock):
        one.set_progress_bar_config(disable=True)
        sounds.append(one(["a sound", "b"], generator=generators([3, 4])).audios)
    assert np.array_equal(*sounds)
    assert (pipe.config.num_steps, pipe.config.guidance_scale) == (4, 1)
    assert pipe.config.distilled["steps"] == 4 and pipe.config.distilled["guidance_scale"] == 3.0
    for wrong, expected in (
        ({"num_inference_steps": 3}, "1, 2, 4 steps, got 3"), ({"guidance_scale": 4.0}, "guidance of 3 is built in"),
        ({"negative_prompt": "rain"}, "no negative text"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=expected):
            pipe("a sound", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has one sampler"):
        pipe.use_scheduler("flow-euler" if pipe.objective == "flow" else "ddim")
    again = [*arguments[:2], "--checkpoint", str(folder), *arguments[4:], "exp_name=again"]
    assert cli.run(distill.main, again) == 2
    assert "is distilled already" in capsys.readouterr().err


@pytest.mark.parametrize("number", [0, 1])
def test_a_stage_resumes_exactly(arguments: list[str], trained: tuple[Path, Path], number: int) -> None:
    config = configs(arguments, f"broken{number}")[number]
    config.model.distill.student = str(trained[0] / "pipeline") if number else ""
    with pytest.raises(runs.PowerCut):
        runs.train(config, at=(2, runs.cut_power))
    runs.assert_same_training(trained[number], runs.train(config, resume=True))


def test_adapters_are_one_file_that_the_teacher_takes_as_turbo(
    arguments: list[str], teacher: Path, tmp_path: Path
) -> None:
    changes = ["train.max_steps=1", "model.distill.matching_steps=1", "exp_name=adapters", "model.lora.rank=2",
               "model.distill.cache_interval=2"]  # fmt: skip
    assert cli.run(distill.main, [*arguments[:6], "--method", "lora", *arguments[6:], *changes]) == 0
    merged = Path(arguments[-1].removeprefix("log_dir=").strip("'")) / "adapters" / "pipeline"
    shutil.copytree(teacher, tmp_path / "pipeline")
    shutil.copytree(merged / "lora", tmp_path / "pipeline" / "turbo")
    found = [TextToAudioPipeline.from_pretrained(folder) for folder in (merged, tmp_path / "pipeline")]
    assert found[1].use_preset("turbo") == 4 and dict(found[0].config.distilled) == dict(found[1].config.distilled)
    sounds = []
    for pipe in found:
        pipe.set_progress_bar_config(disable=True)
        sounds.append(pipe(["a sound"], generator=generators([3])).audios)
    assert sounds[0].tobytes() == sounds[1].tobytes()
    assert [pipe.default_cache_interval for pipe in found] == [2, 2]
    before = TextToAudioPipeline.from_pretrained(teacher).unet.state_dict()
    assert any(not torch.equal(before[name], weight) for name, weight in found[0].unet.state_dict().items())


@pytest.mark.full
def test_a_stage_with_adapters_resumes_exactly(arguments: list[str], teacher: Path) -> None:
    changes = [*arguments, "train.max_steps=2", "model.distill.matching_steps=4", "model.lora.rank=2",
               "model.method=lora"]  # fmt: skip
    assert cli.run(distill.main, [*changes, "exp_name=adapters_whole"]) == 0
    first = configs(changes, "adapters_whole")[0]
    second = configs(changes, "adapters_broken")[1]
    second.model.distill.student = str(first.run_dir / "pipeline")
    with pytest.raises(runs.PowerCut):
        runs.train(second, at=(2, runs.cut_power))
    runs.assert_same_training(configs(changes, "adapters_whole")[1].run_dir, runs.train(second, resume=True))


def test_the_second_stage_updates_both_networks(teacher: Path, trained: tuple[Path, Path]) -> None:
    end = runs.last(trained[1])["state_dict"]
    assert {name.split(".")[0] for name in end} == {"unet", "fake"}
    for network, start in (("unet", trained[0] / "pipeline"), ("fake", teacher)):
        before = load_file(next((start / "unet").glob("*.safetensors")))
        assert any(not torch.equal(end[f"{network}.{name}"], weight) for name, weight in before.items())
    exported = {path.parent.name for path in (trained[1] / "pipeline").rglob("*.safetensors")}
    assert exported == {"unet", "vae", "text_encoder"}  # the network that followed the student is not part of it


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["model.distill.steps=3"], "must be 1, 2, 4 or 8, got 3"),
        (["model.distill.valid_paths=6"], "at least 14"),
        (["train.adam.lr=0"], "must be above 0"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], changes: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(distill.main, [*arguments, *changes]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and expected in errors[0]


def test_one_caption_is_too_few(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.txt").write_text("rain\nrain\n")
    assert cli.run(distill.main, [*arguments[:5], str(tmp_path / "one.txt"), *arguments[6:]]) == 2
    assert "distinct captions found: 1;" in capsys.readouterr().err
