import pytest
import torch

from sonolume.modules.guidance import Guidance


def test_scale():
    unconditional, conditional = torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2)
    assert Guidance(3.0).combine(unconditional, conditional).eq(3).all()
    assert Guidance(1.0).combine(unconditional, conditional).eq(1).all()
    assert not Guidance(1.0).is_used and not Guidance(1.0).is_on(0.5) and Guidance(0.0).is_on(0.5)


def test_rescale_brings_the_deviation_back():
    """Each sound by its own deviation, equations 15 and 16."""
    unconditional, conditional = torch.randn(2, 3, 4, 5, 6)
    conditional[1] *= 5
    plain = Guidance(4.0).combine(unconditional, conditional)
    whole = Guidance(4.0, rescale=1.0).combine(unconditional, conditional)
    axes = (1, 2, 3)
    torch.testing.assert_close(whole.std(axes), conditional.std(axes))
    assert (plain.std(axes) > 1.5 * whole.std(axes)).all()
    part = Guidance(4.0, rescale=0.7).combine(unconditional, conditional)
    torch.testing.assert_close(part, 0.7 * whole + 0.3 * plain)


def test_interval_includes_its_ends():
    guidance = Guidance(4.0, interval=(0.2, 0.8))
    assert [guidance.is_on(time) for time in (0.0, 0.19, 0.2, 0.5, 0.8, 0.81, 1.0)] == [0, 0, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("rescale", [-0.1, 1.1, float("nan")])
def test_a_wrong_rescale_is_refused(rescale: float):
    with pytest.raises(ValueError, match="guidance_rescale must be from 0 to 1"):
        Guidance(4.0, rescale)


@pytest.mark.parametrize("interval", [(0.8, 0.2), (0.5, 0.5), (-0.1, 0.5), (0.5, 1.1), (0.0, float("nan"))])
def test_a_wrong_interval_is_refused(interval: tuple[float, float]):
    with pytest.raises(ValueError, match="guidance_interval must be LOW HIGH with"):
        Guidance(4.0, 0.0, interval)
