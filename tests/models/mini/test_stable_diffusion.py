"""The shipped miniature Stable Diffusion: a small stock folder whose pictures match their captions."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)

from sonolume.bins import evaluate
from sonolume.models.mini import judges
from sonolume.models.mini.scene_data import draw
from sonolume.preprocessors.miniworld import world
from sonolume.preprocessors.miniworld.captions import NAMES
from sonolume.utils import cli

CAPTIONS, STEPS = 24, 10


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return root / "pretrained" / "mini" / "stable_diffusion"


@pytest.fixture(scope="module")
def pipe(folder: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)


def _pictures(pipe: Any, texts: list[str], steps: int, **more: Any) -> torch.Tensor:
    """(N, 3, 64, 64) in 0..1."""
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(number) for number in range(len(texts))]
    how = {"num_inference_steps": steps, "guidance_scale": 4.0, "output_type": "np"} | more
    return torch.from_numpy(pipe(texts, generator=generators, **how).images).permute(0, 3, 1, 2)


def _kinds(pictures: torch.Tensor) -> list[str]:
    """The most likely kind of each picture."""
    judge = judges.load_judge(judges.PictureJudge, judges.paths.root() / judges.PICTURE_JUDGE)
    return [judge.kinds[index] for index in judges.run_judge(judge, pictures).presence.argmax(-1).tolist()]


def test_it_is_at_most_8_megabytes_in_half_precision(folder: Path, pipe: StableDiffusionPipeline):
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "turbo"]
    assert sum(path.stat().st_size for path in files) <= 8e6
    networks = (pipe.vae, pipe.text_encoder, pipe.unet)
    assert sum(weight.numel() for network in networks for weight in network.parameters()) <= 4e6
    index = json.loads((folder / "model_index.json").read_text())
    assert index["safety_checker"] == index["feature_extractor"] == [None, None]


def test_others_may_rely_on_its_shapes(pipe: StableDiffusionPipeline):
    assert pipe.unet.config.cross_attention_dim == pipe.text_encoder.config.hidden_size == 128
    assert pipe.tokenizer.model_max_length == pipe.text_encoder.config.max_position_embeddings == 48
    assert (pipe.unet.config.sample_size, pipe.vae_scale_factor, pipe.unet.config.in_channels) == (16, 4, 4)


def test_captions_become_pictures_of_the_right_kind(pipe: StableDiffusionPipeline):
    scenes = list(world.scenes("test", CAPTIONS, seed=5, pairs=False))
    pictures = _pictures(pipe, [world.captions(scene, 1, "test")[0] for scene in scenes], STEPS)
    assert judges.picture_shares(pictures, scenes)["single"].right >= 0.75 * CAPTIONS  # by chance one in twelve


def test_prompts_name_the_kind(pipe: StableDiffusionPipeline):
    wanted = ["rain", "clock", "siren", "bell", "engine", "thunder"]
    found = _kinds(_pictures(pipe, [f"a photo of {NAMES[kind]}" for kind in wanted], STEPS))
    assert sum(kind == other for kind, other in zip(found, wanted, strict=True)) >= 4


@pytest.mark.parametrize("scheduler", [PNDMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler])
def test_other_schedulers_work_too(pipe: StableDiffusionPipeline, scheduler: Any):
    parts = pipe.components | {"scheduler": scheduler.from_config(pipe.scheduler.config)}
    pictures = _pictures(StableDiffusionPipeline(**parts, requires_safety_checker=False), ["a photo of rain"] * 2, 10)
    assert pictures.isfinite().all() and "rain" in _kinds(pictures)


def test_a_picture_may_be_the_beginning(pipe: StableDiffusionPipeline):
    other = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    start = draw(next(iter(world.scenes("test", 1, seed=5))))[None]
    near, far = (_pictures(other, ["a bird"], 10, image=start, strength=strength) for strength in (0.2, 0.9))
    assert (near - start).abs().mean() < 0.12 and (near - start).abs().mean() < (far - start).abs().mean()


def test_its_evaluation_writes_the_common_report(root: Path, folder: Path, tmp_path: Path):
    argv = ["--config", str(root / "egs" / "mini" / "stable_diffusion.json"), "--checkpoint", str(folder)]
    argv += ["--output_dir", str(tmp_path), "--num_samples", "6", "--num_steps", "3", "--device", "cpu"]
    assert cli.run(evaluate.main, argv) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    rows = {row["name"]: row for row in report["scores"]}
    assert rows["right kind of picture"]["baselines"]["real"][0] == 1 and rows["right kind of picture"]["headline"]
    assert (tmp_path / "samples.png").is_file()
