"""The shipped part performs as its card says: speech of unseen voices and wordings becomes the right pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sonolume.models.a2i import loading
from sonolume.models.a2i.pipeline import SETTINGS_FILE
from sonolume.models.mini.judges import picture_shares
from sonolume.models.s2i.wavy.encoder import RECIPE
from sonolume.preprocessors.miniworld import world
from sonolume.preprocessors.miniworld.spoken import utterances
from sonolume.preprocessors.miniworld.voice import TEST_VOICES

RECORDINGS = 12


@pytest.fixture(scope="module")
def shipped(root: Path) -> Path:
    return root / "pretrained" / "mini" / "wavy"


def test_it_is_small_half_precision_and_names_the_shipped_parts(shipped: Path) -> None:
    assert sum(path.stat().st_size for path in shipped.rglob("*") if path.is_file()) <= 0.8e6
    for path in shipped.rglob("*.safetensors"):
        assert {weight.dtype for weight in load_file(path).values()} == {torch.float16}
    for path in shipped.rglob("config.json"):
        assert not json.loads(path.read_text()).get("_name_or_path")
    settings = json.loads((shipped / SETTINGS_FILE).read_text())
    assert settings["stable_diffusion"] == "pretrained/mini/stable_diffusion"
    assert settings["hubert"] == "pretrained/mini/hubert" and settings["image_encoder"] == "pretrained/mini/clip"


def test_unseen_speech_becomes_pictures_of_the_right_kind(shipped: Path) -> None:
    """At least 75 %; chance is 1 in 12."""
    pipe, _ = loading.load(str(shipped), RECIPE, "cpu")
    pipe.sd.set_progress_bar_config(disable=True)
    pipe.use_preset("fast")
    scenes = list(world.scenes("test", RECORDINGS, seed=5, pairs=False))
    spoken = [utterances(scene, 1, "test", mention=1.0)[0] for scene in scenes]
    assert {one.voice for one in spoken} == set(TEST_VOICES)
    generators = [torch.Generator().manual_seed(number) for number in range(RECORDINGS)]
    images = pipe([one.render() for one in spoken], generator=generators).images
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 255
    assert picture_shares(pixels, scenes)["single"].right >= 0.75 * RECORDINGS
