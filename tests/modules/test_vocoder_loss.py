import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import spectral_norm, weight_norm

from sonolume.modules.mel import MelSpectrogram
from sonolume.modules.vocoder_loss import (
    PeriodDiscriminator,
    WaveformDiscriminator,
    discriminator_loss,
    feature_loss,
    generator_loss,
    mel_loss,
    official_weights,
    stft_loss,
)


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


PERIODS = (2, 3, 5, 7, 11)


def wave(samples: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, samples, generator=torch.Generator().manual_seed(0))


def test_the_published_size():
    """By hand: kernels, then a bias and (but under spectral norm) a gain for each channel."""
    with torch.device("meta"):
        judge = WaveformDiscriminator()
    one = 5 * (32 + 32 * 128 + 128 * 512 + 512 * 1024 + 1024 * 1024) + 3 * 1024 + 2 * (32 + 128 + 512 + 2 * 1024 + 1)
    assert sum(weight.numel() for weight in judge.mpd.parameters()) == 5 * one == 41_105_770
    grouped = 128 * 128 // 4 + (128 * 256 + 256 * 512 + 512 * 1024 + 1024 * 1024) // 16
    kernels, channels = 15 * 128 + 41 * grouped + 5 * 1024 * 1024 + 3 * 1024, 128 + 128 + 256 + 512 + 3 * 1024 + 1
    assert sum(weight.numel() for weight in judge.msd.parameters()) == 3 * kernels + 5 * channels == 29_618_821


@pytest.mark.parametrize("samples", [1024, 1021])
@pytest.mark.parametrize("period", PERIODS)
def test_period_features(period: int, samples: int):
    """Every layer divides the steps of a period by 3, the last two by 1; incomplete periods are completed."""
    logits, features = PeriodDiscriminator(period, width=1 / 16)(wave(samples))
    steps = [math.ceil(samples / period)]
    for stride in (3, 3, 3, 3, 1, 1):
        steps.append(math.ceil(steps[-1] / stride))
    wanted = list(zip((2, 8, 32, 64, 64, 1), steps[1:], strict=True))
    assert [(f.shape[1], f.shape[2]) for f in features] == wanted
    assert all(f.shape[0] == 2 and f.shape[3] == period for f in features)
    assert logits.shape == (2, steps[-1] * period)


def test_a_period_sees_its_own_samples_only():
    """Every p-th sample is a column: changing one leaves the other columns as they were."""
    judge = PeriodDiscriminator(5, width=1 / 16)
    sound, changed = wave(1000), wave(1000)
    changed[:, 502] += 1
    moved = (judge(sound)[1][-1] - judge(changed)[1][-1]).abs().amax(dim=(0, 1, 2))
    assert (moved > 0).tolist() == [False, False, True, False, False]


def test_scale_features():
    judge = WaveformDiscriminator((), 3, width=1 / 16)
    logits, features = judge(wave(4096))
    assert len(logits) == 3 and len(features) == 3 * 8
    assert [f.shape[1] for f in features[:8]] == [8, 8, 16, 32, 64, 64, 64, 1]
    assert [f.shape[2] for f in features[:8]] == [4096, 2048, 1024, 256, 64, 64, 64, 64]
    assert [features[8 * scale].shape[2] for scale in range(3)] == [4096, 2049, 1025]


def test_norms_are_the_published_ones():
    judge = WaveformDiscriminator((), 2, width=1 / 16).msd
    names = set(judge.state_dict())
    assert "discriminators.0.convs.0.parametrizations.weight.original" in names  # spectral
    assert "discriminators.1.convs.0.parametrizations.weight.original0" in names  # weight norm


def test_parts_can_be_left_out():
    assert len(WaveformDiscriminator([2, 3], 0, 1 / 16)(wave(1024))[0]) == 2
    assert len(WaveformDiscriminator([], 1, 1 / 16)(wave(1024))[0]) == 1


def official(judge: WaveformDiscriminator) -> dict[str, Any]:
    """The same layers under torch's older norms, as official training has them, with weights of their own."""
    torch.manual_seed(1)
    parts: dict[str, Any] = {}
    for part in ("mpd", "msd"):
        network = nn.Module()
        network.discriminators = nn.ModuleList()
        for number, theirs in enumerate(getattr(judge, part).discriminators):
            norm = spectral_norm if part == "msd" and number == 0 else weight_norm
            one = nn.Module()
            one.convs = nn.ModuleList(norm(bare(conv)) for conv in theirs.convs)
            one.conv_post = norm(bare(theirs.conv_post))
            network.discriminators.append(one)
        parts[part] = network
    return parts


def bare(conv: Any) -> nn.Module:
    kind = nn.Conv2d if conv.weight.ndim == 4 else nn.Conv1d
    return kind(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, groups=conv.groups)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_official_weights_fit_and_mean_the_same():
    judge = WaveformDiscriminator((2, 3), 2, 1 / 16).eval()
    networks = official(judge)
    for network in networks.values():
        network.eval()
    saved = {part: network.state_dict() for part, network in networks.items()}
    judge.load_state_dict(official_weights(saved), strict=True)
    x = wave(512)[:, None]
    for part in ("mpd", "msd"):
        for number, theirs in enumerate(networks[part].discriminators):
            ours = getattr(judge, part).discriminators[number].convs[0]
            x_in = x.unflatten(-1, (-1, 2)) if part == "mpd" else x
            for hook in theirs.convs[0]._forward_pre_hooks.values():
                hook(theirs.convs[0], None)  # the older norms compute their weight before a forward pass
            assert torch.allclose(ours(x_in), theirs.convs[0](x_in), atol=1e-6)
