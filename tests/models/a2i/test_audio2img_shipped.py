"""The shipped encoder performs as its card says: pictures of test sounds are of the right kind."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sonolume.models.a2i import loading
from sonolume.models.a2i.audio2img.encoder import RECIPE
from sonolume.models.a2i.pipeline import SETTINGS_FILE
from sonolume.models.mini.judges import picture_shares
from sonolume.preprocessors.miniworld import world

SOUNDS = 24


@pytest.fixture(scope="module")
def shipped(root: Path) -> Path:
    return root / "pretrained" / "mini" / "audio2img"


def test_it_is_small_half_precision_and_names_the_shipped_parts(shipped: Path, root: Path) -> None:
    assert sum(path.stat().st_size for path in shipped.rglob("*") if path.is_file()) <= 2.2e6
    assert sum(path.stat().st_size for path in (root / "pretrained/mini").rglob("*") if path.is_file()) <= 36e6
    weights = load_file(shipped / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    settings = json.loads((shipped / SETTINGS_FILE).read_text())
    assert settings["stable_diffusion"] == "pretrained/mini/stable_diffusion"
    assert (settings["window"], settings["prompt"]) == (3.775, "<*>")


def test_unseen_sounds_become_pictures_of_the_right_kind(shipped: Path) -> None:
    """At least 75 %; chance is 1 in 12."""
    pipe, _ = loading.load(str(shipped), RECIPE, "cpu")
    pipe.sd.set_progress_bar_config(disable=True)
    pipe.use_preset("fast")
    scenes = list(world.scenes("test", SOUNDS, seed=5, pairs=False))
    generators = [torch.Generator().manual_seed(number) for number in range(SOUNDS)]
    sounds = [world.render(scene) for scene in scenes]
    images = [np.asarray(image) for image in pipe(sounds, generator=generators).images]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255
    assert picture_shares(pixels, scenes)["single"].right >= 0.75 * SOUNDS
