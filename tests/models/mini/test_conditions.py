"""Conditions of scenes: what the shipped audio-to-image models make of their sounds and spoken captions."""

import pytest
import torch

from sonolume.models.a2i.pipeline import AudioToImagePipeline
from sonolume.models.mini import conditions
from sonolume.preprocessors.miniworld import world
from sonolume.preprocessors.miniworld.spoken import utterances
from sonolume.utils.errors import UserError


@pytest.mark.parametrize("name", ["audio2img", "wavy"])
def test_they_are_those_of_the_pipeline(name: str) -> None:
    source, (scene,) = f"pretrained/mini/{name}", list(world.scenes("train", 1, seed=0))
    found, negative = conditions.of_sounds(source, [scene], 4.0)
    wave = utterances(scene, 1, "train")[0].render() if name == "wavy" else world.render(scene)
    pipe = AudioToImagePipeline.from_pretrained(source)
    assert pipe.guidance_scale == 4
    expected = pipe.encode_prompt([torch.as_tensor(wave, dtype=torch.float32)])
    assert found.equal(expected[0]) and negative.equal(expected[1])


def test_another_guidance_scale() -> None:
    with pytest.raises(UserError, match=r"is used with guidance 4, model.distill.guidance_scale is 3: make them equal"):
        conditions.of_sounds("pretrained/mini/audio2img", [], 3.0)


def test_the_models_that_an_encoder_names_decide_too() -> None:
    """Not BEATs in the folder of the model, but next to it."""
    assert len(conditions.versions("pretrained/mini/audiotoken")) == 2  # itself, beats
