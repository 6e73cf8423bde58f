"""Sizes of the published networks, and defaults without a file."""

import pytest
import torch

from sonolume.config.base import PreprocessConfig, TrainConfig
from sonolume.config.tta import audioldm, autoencoderkl
from sonolume.modules.autoencoder_loss import PatchDiscriminator
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


def test_a_discriminator_that_halves_its_input_away() -> None:
    """Its last convolutions would fail in the first step that uses it."""
    size, loss = PreprocessConfig(frames=16), autoencoderkl.LossConfig(disc_num_layers=3)
    model = autoencoderkl.ModelConfig(loss=loss)
    autoencoderkl.Config(preprocess=size, model=model, train=TrainConfig(max_steps=loss.disc_start))  # never used
    with pytest.raises(ConfigError, match="disc_num_layers 3 halve preprocess.n_mel or frames, 16, too often"):
        autoencoderkl.Config(preprocess=size, model=model, train=TrainConfig(max_steps=loss.disc_start + 1))
    loss.disc_num_layers = 2
    autoencoderkl.Config(preprocess=size, model=model)


def test_the_smallest_input_of_a_discriminator() -> None:
    for layers in (1, 2, 3):
        least = autoencoderkl.SMALLEST_PATCHES << layers
        assert PatchDiscriminator(1, 2, layers)(torch.zeros(1, 1, least, least)).shape == (1, 1, 1, 1)
        with pytest.raises((RuntimeError, ValueError)):
            PatchDiscriminator(1, 2, layers)(torch.zeros(1, 1, least - 1, least - 1))
