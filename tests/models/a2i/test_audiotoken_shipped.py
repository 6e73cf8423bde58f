"""The shipped embedder performs as its card says: pictures of test sounds are of the right kind."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sonolume.models.a2i import loading
from sonolume.models.a2i.audiotoken.encoder import RECIPE
from sonolume.models.a2i.pipeline import SETTINGS_FILE
from sonolume.models.mini.judges import picture_shares
from sonolume.preprocessors.miniworld import world

SOUNDS = 24


@pytest.fixture(scope="module")
def shipped(root: Path) -> Path:
    return root / "pretrained" / "mini" / "audiotoken"


def test_it_is_small_half_precision_and_names_the_shipped_parts(shipped: Path):
    assert sum(path.stat().st_size for path in shipped.rglob("*") if path.is_file()) < 1e6
    weights = load_file(next((shipped / "embedder").glob("*.safetensors")))
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    settings = json.loads((shipped / SETTINGS_FILE).read_text())
    assert settings["stable_diffusion"] == "pretrained/mini/stable_diffusion"
    assert settings["beats"] == "pretrained/mini/beats" and settings["window"] == 2.56


def test_unseen_sounds_become_pictures_of_the_right_kind(shipped: Path):
    """At least 60 %, and 0.75 of what the same Stable Diffusion draws of the true captions; chance is 1 in 12."""
    pipe, _ = loading.load(str(shipped), RECIPE, "cpu")
    pipe.sd.set_progress_bar_config(disable=True)
    pipe.use_preset("fast")
    scenes = list(world.scenes("test", SOUNDS, seed=5, pairs=False))
    audio_tokens = pipe.encode_audio([world.render(scene) for scene in scenes])
    captions = [world.captions(scene, 1, "test")[0] for scene in scenes]

    def right(**options: Any) -> int:
        generators = [torch.Generator().manual_seed(number) for number in range(SOUNDS)]
        images = [np.asarray(image) for image in pipe(audio_tokens, generator=generators, **options).images]
        return picture_shares(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255, scenes)["single"].right

    found = right()
    assert found >= 0.6 * SOUNDS
    assert found >= 0.75 * right(text=captions, mix=1.0)
