import pytest
import torch

from sonolume.modules.metrics.interval import bootstrap_mean


def test_the_interval_has_the_width_of_the_normal_approximation() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)) + 3
    low, high = bootstrap_mean(values)
    error = float(values.std()) / 20
    mean = float(values.mean())
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.2 * error)


def test_it_covers_the_true_mean_as_often_as_it_says() -> None:
    random = torch.Generator().manual_seed(1)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_mean(torch.rand(60, generator=random), level=0.9, draws=400)
        hits += low <= 0.5 <= high
    assert 0.83 < hits / 200 < 0.96


def test_equal_values_leave_no_doubt_and_seeds_repeat() -> None:
    assert bootstrap_mean(torch.full((5,), 2.0)) == (2, 2)
    values = torch.rand(30, generator=torch.Generator().manual_seed(2))
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)


def test_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        bootstrap_mean(torch.tensor([]))
