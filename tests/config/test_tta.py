"""Sizes of the published networks, and defaults without a file."""

from sonolume.config.tta import audioldm, autoencoderkl


def test_down_factors_are_the_published_ones() -> None:
    assert autoencoderkl.AutoencoderKLConfig().down_factor == 16
    assert autoencoderkl.AutoencoderKLConfig(ch_mult=[1, 2, 2, 4]).down_factor == 8


def test_defaults_stand_alone() -> None:
    assert autoencoderkl.Config().train.adam.lr == 4e-5
    assert audioldm.Config().train.adam.lr == 5e-5
    assert audioldm.Config().preprocess.cond_mask_prob == 0.1
