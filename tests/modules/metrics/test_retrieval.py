import itertools

import pytest
import torch

from sonolume.modules.metrics.retrieval import by_chance, mean_reciprocal_rank, median_rank, ranks, recall_at

SIMILARITY = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.1, 0.2, 0.6]])


def test_ranks_by_hand() -> None:
    found = ranks(SIMILARITY)
    assert found.tolist() == [1, 2, 1]
    assert float(recall_at(found, 1).mean()) == pytest.approx(2 / 3)
    assert float(recall_at(found, 2).mean()) == 1
    assert mean_reciprocal_rank(found) == pytest.approx(5 / 6)
    assert median_rank(found) == 1


def test_an_encoder_that_says_one_thing_scores_nothing() -> None:
    assert ranks(torch.zeros(4, 4)).tolist() == [4, 4, 4, 4]


def test_several_right_answers_count_the_best() -> None:
    right = torch.tensor([[False, True, True], [True, False, False], [False, False, True]])
    assert ranks(SIMILARITY, right).tolist() == [2, 1, 1]


def test_a_tie_with_a_wrong_answer_costs_a_rank() -> None:
    similarity = SIMILARITY.clone()
    similarity[0, 1] = similarity[0, 0]
    assert ranks(similarity).tolist() == [2, 2, 1]
    assert float(recall_at(ranks(similarity), 1).mean()) == pytest.approx(1 / 3)
    assert mean_reciprocal_rank(ranks(similarity)) == pytest.approx(2 / 3)


def test_chance_is_what_random_orders_give() -> None:
    assert by_chance(torch.eye(5, dtype=torch.bool)).tolist() == pytest.approx([0.2] * 5)
    right = torch.tensor([[True, True, False, False], [False, False, True, False]])
    counted = torch.zeros(4)
    for order in itertools.permutations([0.1, 0.2, 0.3, 0.4]):
        for rank in ranks(torch.tensor([order, order]), right).tolist():
            counted[rank - 1] += 1
    assert by_chance(right).tolist() == pytest.approx((counted / counted.sum()).tolist())


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="not paired"):
        ranks(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="no right answer"):
        ranks(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]]))
