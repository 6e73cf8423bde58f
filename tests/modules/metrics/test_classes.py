import math

import pytest
import torch

from sonolume.modules.metrics.classes import inception_score, is_correct, paired_divergence


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


def test_inception_score_is_the_number_of_classes_at_most_and_one_at_least() -> None:
    sure = 1000 * torch.eye(10).repeat(5, 1)
    assert inception_score(sure) == pytest.approx(10)
    assert inception_score(torch.zeros(20, 10)) == pytest.approx(1)
    assert inception_score(sure[:1].repeat(7, 1)) == pytest.approx(1)  # sure, but always the same


def test_inception_score_by_hand() -> None:
    p = logits_of([[0.9, 0.1], [0.2, 0.8]])
    marginal = [0.55, 0.45]
    gains = [
        sum(a * math.log(a / m) for a, m in zip(row, marginal, strict=True)) for row in ([0.9, 0.1], [0.2, 0.8])
    ]
    assert inception_score(p) == pytest.approx(math.exp(sum(gains) / 2))


def test_accuracy_counts_ties_against_it() -> None:
    logits = torch.tensor([[3.0, 2, 1], [1, 1, 0], [0, 1, 2]])
    labels = torch.tensor([0, 0, 1])
    assert is_correct(logits, labels).tolist() == [True, False, False]
