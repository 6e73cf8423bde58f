import pytest

from sonolume.modules.metrics.onsets import onset_agreement, shuffled_agreement


def test_by_hand() -> None:
    generated, reference = [0.1, 1.0, 2.5], [0.15, 1.3, 2.45, 3.0]
    assert onset_agreement(generated, reference) == pytest.approx((2 / 3, 2 / 4, 4 / 7))


def test_each_onset_is_matched_once() -> None:
    assert onset_agreement([1.0, 1.02, 1.04], [1.0]) == pytest.approx((1 / 3, 1, 1 / 2))
    assert onset_agreement([1.0, 1.15], [1.1, 1.2]) == (1, 1, 1)  # not 1.0 with 1.1 and then nothing left for 1.15


def test_empty_lists() -> None:
    assert onset_agreement([], []) == (1, 1, 1)
    assert onset_agreement([], [1.0]) == (0, 0, 0)
    assert onset_agreement([1.0], []) == (0, 0, 0)


def test_shuffled_pairs_are_never_true_pairs() -> None:
    times = [[0.5], [1.5], [2.5]]
    assert shuffled_agreement(times, times) == 0
    assert shuffled_agreement([[1.0], [1.0]], [[1.0], [1.0]]) == 1  # all alike: chance is as good
    assert shuffled_agreement([[1.0], [1.0], [3.0]], [[1.0], [1.0], [3.0]]) == pytest.approx(1 / 3)  # all six pairings
    with pytest.raises(ValueError, match="at least two"):
        shuffled_agreement([[1.0]], [[1.0]])


def test_shuffled_pairs_are_the_same_ones_each_time() -> None:
    times = [[0.1 * place, 1.0 + 0.2 * place] for place in range(30)]
    assert shuffled_agreement(times, times) == shuffled_agreement(times, times)
