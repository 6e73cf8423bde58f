"""Training of the miniature Stable Diffusion from its parts to a stock folder, at the smallest sizes."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from sonolume.bins import train
from sonolume.config.load import load_config
from sonolume.models.mini import stable_diffusion as recipe
from sonolume.models.mini.clip_text import make_text
from sonolume.models.mini.picture_vae import edge_error
from sonolume.models.mini.scene_data import draw
from sonolume.preprocessors.miniworld.scene import scenes
from sonolume.utils import cli
from sonolume.utils.errors import ConfigError, UserError
from tests.runs import change_weights, saved

FEW = ["miniworld.train_scenes=8", "miniworld.valid_scenes=2", "train.batch_size=2", "train.max_steps=2"]
VAE = ["model.block_out_channels=[8,8]", "model.norm_num_groups=4"]
TEXT = ["model.hidden_size=16", "model.num_hidden_layers=1", "model.intermediate_size=16", "model.max_tokens=16"]
UNET = [
    "model.unet.block_out_channels=[8,8]", "model.unet.cross_attention=[false,true]", "model.unet.num_heads=2",
    "model.unet.norm_num_groups=4",
]  # fmt: skip


def _train(root: Path, name: str, *overrides: str) -> int:
    return cli.run(train.main, ["--config", str(root / "egs" / "mini" / f"{name}.json"), *FEW, *overrides])


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The overrides that name an untrained autoencoder and text encoder, and the folder of the runs."""
    folder = tmp_path_factory.mktemp("runs")
    logs = f"log_dir={folder}"
    assert _train(root, "picture_vae", logs, *VAE) == 0
    assert _train(root, "clip_text", logs, *TEXT) == 0
    vae, text = folder / "picture_vae" / "pipeline", folder / "clip_text" / "pipeline"
    names = [f"model.vae={vae}", f"model.text_encoder={text}", f"cache_dir={folder / 'cache'}"]
    return {"folder": folder, "overrides": [logs, *names, *UNET]}


def test_a_run_exports_a_stock_pipeline(root: Path, trained: dict[str, Any]):
    assert _train(root, "stable_diffusion", *trained["overrides"]) == 0
    pipe = StableDiffusionPipeline.from_pretrained(trained["folder"] / "stable_diffusion" / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    made: Any = pipe("a photo of a dog", num_inference_steps=2, output_type="np")
    assert made.images.shape == (1, 64, 64, 3) and np.isfinite(made.images).all()
    assert pipe.vae.config.scaling_factor != 1 and pipe.scheduler.config.prediction_type == "v_prediction"
    assert (trained["folder"] / "stable_diffusion" / "pipeline" / "tokenizer" / "merges.txt").is_file()
    configs = (trained["folder"] / "stable_diffusion" / "pipeline").rglob("*.json")
    assert not any(str(trained["folder"]) in path.read_text() for path in configs)  # no path of this machine


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_a_run_resumes_beside_the_weights_that_it_began_with(
    part: str, root: Path, trained: dict[str, Any], tmp_path: Path
):
    """One of them was trained anew at the same path."""
    begun = {"vae": trained["folder"] / "picture_vae", "text_encoder": trained["folder"] / "clip_text"}
    copies = {name: shutil.copytree(folder / "pipeline", tmp_path / name) for name, folder in begun.items()}
    names = [f"model.{name}={copy}" for name, copy in copies.items()]
    config = load_config(root / "egs" / "mini" / "stable_diffusion.json", [*FEW, *trained["overrides"], *names])

    def task() -> recipe.Task:
        return recipe.Task(config, recipe.load_frozen(config))

    content = saved(task())
    task().on_load_checkpoint(content)
    change_weights(copies[part])
    with pytest.raises(UserError, match=f"model.{part} {copies[part]}.*: these are not the weights that the run began"):
        task().on_load_checkpoint(content)


def test_nothing_frozen_is_computed_twice(root: Path, trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    config = load_config(root / "egs" / "mini" / "stable_diffusion.json", [*FEW, *trained["overrides"]])
    frozen = recipe.load_frozen(config)
    first = recipe.training_data(config, frozen).train
    monkeypatch.setattr(recipe, "encode_pictures", None)
    monkeypatch.setattr(recipe, "encode_texts", None)
    again = recipe.training_data(config, frozen).train
    for mine, other in zip(first[0, 1], again[0, 1], strict=True):
        torch.testing.assert_close(mine, other)


def test_items_are_the_latents_and_states_of_one_scene(root: Path, trained: dict[str, Any]):
    config = load_config(root / "egs" / "mini" / "stable_diffusion.json", [*FEW, *trained["overrides"]])
    frozen = recipe.load_frozen(config)
    items, vae, text = recipe.training_data(config, frozen).train, frozen["vae"], frozen["text_encoder"]
    scene = next(scenes("train", 1))
    posterior = vae.encode(2 * draw(scene)[None] - 1).latent_dist
    torch.testing.assert_close(items[0, 0][0][:4], posterior.mean[0], atol=0.05, rtol=0.05)  # bf16 made the cached ones
    wanted = text([make_text(scene, number, held_out=False) for number in range(3)])
    found = [items[epoch, 0][1] for epoch in range(8)]
    near = [(wanted - state).abs().amax((1, 2)).min() < 0.01 for state in found]
    assert any(near) and len({float(state.sum()) for state in found}) > 1


def test_some_captions_are_emptied_in_training(root: Path, trained: dict[str, Any]):
    always = [*FEW, *trained["overrides"], "model.cond_mask_prob=0.999"]
    config = load_config(root / "egs" / "mini" / "stable_diffusion.json", always)
    frozen = recipe.load_frozen(config)
    sets, empty = recipe.training_data(config, frozen), frozen["text_encoder"]([""])[0]
    assert all((sets.train[0, index][1] - empty).abs().max() < 0.01 for index in range(8))
    assert all((sets.valid[0, index][1] - empty).abs().max() > 0.01 for index in range(2))


def test_latents_get_a_deviation_of_one(root: Path, trained: dict[str, Any]):
    config = load_config(root / "egs" / "mini" / "stable_diffusion.json", [*FEW, *trained["overrides"]])
    vae = recipe.load_frozen(config)["vae"]
    moments = np.zeros((5, 8, 4, 4), np.float32)
    moments[:, :4] = 3 * np.random.default_rng(0).standard_normal((5, 4, 4, 4))
    moments[:, 4:] = np.log(16.0)
    recipe.measure_latents(vae, moments)
    assert vae.config.scaling_factor == pytest.approx(1 / 5, rel=0.1)


def test_missing_parts_are_named(root: Path, trained: dict[str, Any], tmp_path: Path):
    overrides = [*FEW, *trained["overrides"], f"model.vae={tmp_path / 'none'}"]
    with pytest.raises(UserError, match=r"model\.vae .*picture_vae\.json"):
        recipe.load_frozen(load_config(root / "egs" / "mini" / "stable_diffusion.json", overrides))
    swapped = [*FEW, *trained["overrides"], f"model.text_encoder={trained['folder'] / 'picture_vae' / 'pipeline'}"]
    with pytest.raises(UserError, match="CLIPTextModel"):
        recipe.load_frozen(load_config(root / "egs" / "mini" / "stable_diffusion.json", swapped))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.unet.cross_attention=[true]", "cross_attention has 1"),
        ("model.unet.cross_attention=[false,false,false]", "cross_attention"),
        ("model.unet.num_heads=5", "not divisible by num_heads 5"),
        ("model.noise_scheduler.prediction_type=flow", "prediction_type flow"),
        ("model.cond_mask_prob=1.5", "cond_mask_prob"),
        ("model.vae=''", "model.vae must not be empty"),
    ],
)
def test_configs_that_cannot_be_are_rejected(root: Path, override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(root / "egs" / "mini" / "stable_diffusion.json", [override])


def test_edges_count_what_pixels_alone_do_not():
    sharp = torch.zeros(1, 1, 4, 4)
    sharp[..., 2:] = 1
    assert edge_error(sharp, sharp) == 0
    assert edge_error(sharp, sharp + 0.3) == pytest.approx(0, abs=1e-6)  # the same edges on another level
    assert edge_error(sharp, torch.full_like(sharp, 0.5)) == pytest.approx(1 / 3)
