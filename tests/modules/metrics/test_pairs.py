import itertools
import math

import pytest
import torch

from sonolume.modules.metrics.pairs import (
    cosine_matrix,
    cosines,
    is_correct,
    paired_divergence,
    rank_distribution,
    rank_share,
    ranks,
)

EYE = torch.eye(3, dtype=torch.bool)
SIMILARITY = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.1, 0.2, 0.6]])


def test_ranks_by_hand() -> None:
    assert ranks(SIMILARITY, EYE).tolist() == [1, 2, 1]


def test_a_constant_encoder_has_the_worst_ranks() -> None:
    assert ranks(torch.zeros(3, 3), EYE).tolist() == [3, 3, 3]


def test_several_right_answers_count_the_best() -> None:
    right = torch.tensor([[False, True, True], [True, False, False], [False, False, True]])
    assert ranks(SIMILARITY, right).tolist() == [2, 1, 1]


def test_a_tie_with_a_wrong_answer_costs_a_rank() -> None:
    similarity = SIMILARITY.clone()
    similarity[0, 1] = similarity[0, 0]
    assert ranks(similarity, EYE).tolist() == [2, 2, 1]


def test_chance_is_what_random_orders_give() -> None:
    assert rank_distribution(torch.eye(5, dtype=torch.bool)).tolist() == pytest.approx([0.2] * 5)
    right = torch.tensor([[True, True, False, False], [False, False, True, False]])
    counted = torch.zeros(4)
    for order in itertools.permutations([0.1, 0.2, 0.3, 0.4]):
        for rank in ranks(torch.tensor([order, order]), right).tolist():
            counted[rank - 1] += 1
    assert rank_distribution(right).tolist() == pytest.approx((counted / counted.sum()).tolist())


def test_a_query_without_a_right_answer() -> None:
    with pytest.raises(ValueError, match="no right answer"):
        ranks(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]]))


def test_cosines_of_known_directions_at_any_length() -> None:
    a = torch.tensor([[3.0, 0], [0, 2], [1, 0], [1, 1]])
    b = torch.tensor([[1.0, 0], [0, -5], [0, 7], [1, 0]])
    assert cosines(a, b).tolist() == pytest.approx([1, -1, 0, 2**-0.5])
    assert cosine_matrix(a, b).diagonal().tolist() == pytest.approx(cosines(a, b).tolist())
    assert cosine_matrix(a, b[:1]).shape == (4, 1)


def test_a_fake_encoder_of_orthonormal_axes_scores_one_zero_and_minus_one() -> None:
    """As CLAP and CLIP scores are made: one axis a meaning, whatever the length."""
    axes = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))[0]
    sounds, texts = torch.stack([3 * axes[0], axes[1], 0.1 * axes[2]]), torch.stack([axes[0], axes[2], -5 * axes[2]])
    assert cosines(sounds, texts).tolist() == pytest.approx([1, 0, -1], abs=1e-6)


def test_rank_share_by_hand() -> None:
    similarity = torch.tensor([[0.9, 0.1, 0.5], [0.4, 0.3, 0.2], [0.7, 0.7, 0.7]])
    assert rank_share(similarity).tolist() == [1.0, 0.5, 0.5]


def test_rank_share_is_a_half_by_chance() -> None:
    random = torch.rand(200, 200, generator=torch.Generator().manual_seed(0))
    assert float(rank_share(random).mean()) == pytest.approx(0.5, abs=0.07)
    assert float(rank_share(torch.zeros(5, 5)).mean()) == 0.5


def test_bad_embeddings() -> None:
    with pytest.raises(ValueError, match="3 embeddings cannot be paired with 2"):
        cosines(torch.ones(3, 2), torch.ones(2, 2))
    with pytest.raises(ValueError, match="length 0"):
        cosines(torch.zeros(1, 2), torch.ones(1, 2))
    with pytest.raises(ValueError, match="square"):
        rank_share(torch.ones(2, 3))


def logits_of(probabilities: list[list[float]]) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_divergence_of_two_distributions_by_hand() -> None:
    p, q = [0.7, 0.3], [0.5, 0.5]
    expected = 0.7 * math.log(0.7 / 0.5) + 0.3 * math.log(0.3 / 0.5)
    found = paired_divergence(logits_of([p, q]), logits_of([q, q]))
    assert found.tolist() == pytest.approx([expected, 0], abs=1e-12)
    back = 0.5 * math.log(0.5 / 0.7) + 0.5 * math.log(0.5 / 0.3)
    assert float(paired_divergence(logits_of([q]), logits_of([p]))) == pytest.approx(back)  # not symmetric


def test_divergence_of_two_bernoulli_rows_pair_by_pair() -> None:
    even, uneven = [0.5, 0.5], [0.25, 0.75]
    found = paired_divergence(logits_of([even, uneven]), logits_of([uneven, uneven]))
    assert found.tolist() == pytest.approx([0.1438410, 0], abs=1e-7)
    assert float(found.mean()) == pytest.approx(0.0719205, abs=1e-7)
    assert float(paired_divergence(logits_of([uneven, even]), logits_of([uneven, even])).abs().max()) < 1e-12


def test_divergence_of_independent_classes_by_hand() -> None:
    logit = math.log(0.7 / 0.3)
    expected = (0.7 * math.log(0.7 / 0.5) + 0.3 * math.log(0.3 / 0.5)) / 2  # the second class agrees
    found = paired_divergence(torch.tensor([[logit, 2.0]]), torch.tensor([[0.0, 2.0]]), multilabel=True)
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_divergence_is_finite_for_certain_classifiers() -> None:
    sure, other = torch.tensor([[100.0, -100]]), torch.tensor([[-100.0, 100]])
    for multilabel in (False, True):
        assert 10 < float(paired_divergence(sure, other, multilabel)) < 1000


def test_unpaired_logits_are_refused() -> None:
    with pytest.raises(ValueError, match="paired"):
        paired_divergence(torch.zeros(3, 2), torch.zeros(4, 2))


def test_accuracy_counts_ties_against_it() -> None:
    logits = torch.tensor([[3.0, 2, 1], [1, 1, 0], [0, 1, 2]])
    labels = torch.tensor([0, 0, 1])
    assert is_correct(logits, labels).tolist() == [True, False, False]
