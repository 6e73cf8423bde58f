"""The losses and their scales equal the official ones."""

from types import SimpleNamespace

import pytest
import torch

from sonolume.modules.im2wav.losses import (
    RESOLUTIONS,
    SCALE_RESOLUTION,
    LossScales,
    reconstruction_loss,
    spectral_convergence,
    spectral_distance,
)


def test_losses(im2wav: SimpleNamespace):
    golden, (target, output) = im2wav.golden("losses"), im2wav.loss_pair()
    loss = reconstruction_loss(target, output, LossScales(**im2wav.SCALES))
    several = torch.stack([spectral_distance(target, output, resolution) for resolution in RESOLUTIONS]).mean(dim=0)
    for got, name in (
        (loss.l1, "l1"),
        (loss.l2, "l2"),
        (loss.linf, "linf"),
        (loss.total - loss.spectral, "lmix"),
        (several, "multispectral"),
        (spectral_distance(target, output, SCALE_RESOLUTION), "spectral"),
        (spectral_convergence(target, output), "convergence"),
    ):
        torch.testing.assert_close(got, golden[name], rtol=1e-5, atol=0)
    torch.testing.assert_close(loss.spectral, golden["multispectral"].mean() / 40, rtol=1e-5, atol=0)


def test_scales(im2wav: SimpleNamespace):
    golden, scales = im2wav.golden("losses"), LossScales.estimate(im2wav.scale_clips())
    wanted = [float(golden[f"bandwidth_{name}"]) for name in ("l1", "l2", "spec")]
    assert list(scales) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("clips", [[], [torch.zeros(2, 4096)]])
def test_scales_need_sound(clips: list[torch.Tensor]):
    with pytest.raises(ValueError, match="silent"):
        LossScales.estimate(clips)


def test_the_gradient_of_silence_is_finite():
    output = torch.zeros(1, 4096, requires_grad=True)
    reconstruction_loss(torch.zeros(1, 4096), output, LossScales(1.0, 1.0, 1.0)).total.backward()
    assert output.grad.isfinite().all()
