import math

import pytest
import torch

from sonolume.modules.mel import MelSpectrogram
from sonolume.modules.vocoder_loss import discriminator_loss, feature_loss, generator_loss, mel_loss, stft_loss


def constants(*values: float) -> list[torch.Tensor]:
    """Logits of several discriminators, of several lengths."""
    return [torch.full((2, 3 + index), float(value)) for index, value in enumerate(values)]


def noise(seed: int, samples: int = 4096) -> torch.Tensor:
    return 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("real", "fake", "discriminator", "generator"),
    [
        ((1.0, 1.0), (0.0, 0.0), 0.0, 2.0),  # told apart
        ((0.0, 1.0), (1.0, 1.0), 1 + 1 + 1, 0.0),  # deceived
        ((0.5,), (0.5,), 0.25 + 0.25, 0.25),  # undecided
        ((3.0,), (-2.0,), 4 + 4, 9.0),
    ],
)
def test_least_squares_gan(real: tuple[float], fake: tuple[float], discriminator: float, generator: float):
    assert discriminator_loss(constants(*real), constants(*fake)).item() == pytest.approx(discriminator)
    assert generator_loss(constants(*fake)).item() == pytest.approx(generator)


def test_feature_loss_is_a_sum_of_means():
    assert feature_loss(constants(1, 2), constants(1, 2)).item() == 0
    assert feature_loss(constants(1, 2), constants(1.5, 0)).item() == pytest.approx(0.5 + 2)


def test_losses_of_two_discriminators_need_two():
    with pytest.raises(ValueError, match="zip"):
        discriminator_loss(constants(1), constants(1, 1))


def test_mel_loss():
    mel = MelSpectrogram()
    assert mel_loss(noise(0), noise(0), mel).item() == 0
    assert mel_loss(noise(0), noise(0) * 2, mel).item() == pytest.approx(math.log(2), rel=1e-4)


def test_stft_loss_of_a_louder_copy():
    """|S - 2 S| / |S| + ln 2, at every resolution."""
    assert stft_loss(noise(0), noise(0)).item() == 0
    assert stft_loss(noise(0), noise(0) * 2).item() == pytest.approx(1 + math.log(2), rel=1e-2)


def test_losses_of_silence_are_finite_and_pull():
    fake = noise(1).requires_grad_()
    for loss in (mel_loss(torch.zeros(2, 4096), fake, MelSpectrogram()), stft_loss(torch.zeros(2, 4096), fake)):
        (gradient,) = torch.autograd.grad(loss, fake)
        assert loss.isfinite() and gradient.isfinite().all() and gradient.abs().sum() > 0
