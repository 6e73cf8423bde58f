import math

import pytest
import torch

from sonolume.modules.metrics.interval import JACKKNIFE_GROUPS, T95, Share, bootstrap_mean, jackknife


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
        low, high = bootstrap_mean(torch.rand(60, generator=random), draws=400)
        hits += low <= 0.5 <= high
    assert 0.88 < hits / 200 < 0.995


def test_equal_values_leave_no_doubt_and_draws_repeat() -> None:
    assert bootstrap_mean(torch.full((5,), 2.0)) == (2, 2)
    values = torch.rand(30, generator=torch.Generator().manual_seed(2))
    assert bootstrap_mean(values) == bootstrap_mean(values)


def test_leaving_out_one_value_at_a_time_gives_the_standard_error_of_a_mean() -> None:
    values = torch.randn(JACKKNIFE_GROUPS, generator=torch.Generator().manual_seed(3)).double()
    error = T95 * float(values.std()) / JACKKNIFE_GROUPS**0.5
    mean = float(values.mean())
    assert jackknife(lambda rows: float(rows.mean()), values) == pytest.approx((mean - error, mean + error), rel=1e-9)


def test_the_jackknife_covers_what_is_no_mean_as_often_as_it_says() -> None:
    random = torch.Generator().manual_seed(4)
    hits = 0
    for _ in range(150):
        low, high = jackknife(lambda rows: float(rows.mean().exp()), torch.randn(200, generator=random))
        hits += low <= 1 <= high
    assert 0.88 < hits / 150 < 0.995


def test_no_bound_of_the_jackknife_is_below_what_can_be() -> None:
    values = torch.randn(JACKKNIFE_GROUPS, generator=torch.Generator().manual_seed(3)).double()
    assert jackknife(lambda rows: float(rows.mean().square()), values)[0] < 0
    assert jackknife(lambda rows: float(rows.mean().square()), values, lowest=0)[0] == 0


def test_the_jackknife_needs_a_row_for_each_group() -> None:
    with pytest.raises(ValueError, match="20 groups needs as many rows, got 19"):
        jackknife(lambda rows: 0.0, torch.zeros(JACKKNIFE_GROUPS - 1))


def test_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="undefined"):
        bootstrap_mean(torch.tensor([]))


def test_wilson_interval() -> None:
    """Values of Newcombe (1998), Statistics in Medicine 17, table I, method 3."""
    assert [round(number, 4) for number in Share(81, 263).cell[1:]] == [0.2553, 0.3662]
    value, low, high = Share(0, 20).cell
    assert (value, low, round(high, 4)) == (0, 0, 0.1611)
    assert Share.of(torch.tensor([True, False, True])) == Share(2, 3)
    assert all(math.isnan(number) for number in Share(0, 0).cell)
