"""Sizes of the published networks, and defaults without a file."""

import pytest

from sonolume.config.tta import audioldm, autoencoderkl
from sonolume.utils.errors import ConfigError


def test_down_factors_are_the_published_ones() -> None:
    assert autoencoderkl.AutoencoderKLConfig().down_factor == 16
    assert autoencoderkl.AutoencoderKLConfig(ch_mult=[1, 2, 2, 4]).down_factor == 8


def test_defaults_stand_alone() -> None:
    assert autoencoderkl.Config().train.adam.lr == 4e-5
    assert audioldm.Config().train.adam.lr == 5e-5
    assert audioldm.Config().preprocess.cond_mask_prob == 0.1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rank": 0}, "model.lora.rank must be at least 1, got 0"),
        ({"alpha": 0.0}, "model.lora.alpha must be above 0, got 0.0"),
        ({"targets": []}, "model.lora.targets must not be empty"),
    ],
)
def test_lora_settings_that_mean_nothing(given: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        audioldm.LoraConfig(**given)


def test_lora_cannot_be_compiled() -> None:
    model, train = audioldm.ModelConfig(method=audioldm.Method.lora), audioldm.TrainConfig(compile=True)
    with pytest.raises(ConfigError, match="train.compile has no effect"):
        audioldm.Config("tta/audioldm", "x", dataset=[], model=model, train=train)
    model.method = audioldm.Method.full
    assert audioldm.Config("tta/audioldm", "x", dataset=[], model=model, train=train).train.compile
