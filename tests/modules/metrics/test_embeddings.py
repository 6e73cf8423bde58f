import itertools
import math

import pytest
import torch

from sonolume.modules.metrics import embeddings
from sonolume.modules.metrics.embeddings import (
    cosine_matrix,
    cosines,
    frechet_distance,
    frechet_infinity,
    inception_score,
    is_correct,
    kernel_distance,
    paired_divergence,
    rank_distribution,
    rank_share,
    ranks,
)

EYE = torch.eye(3, dtype=torch.bool)
SIMILARITY = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.1, 0.2, 0.6]])


def whitened(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    """(count, dim) with mean exactly 0 and covariance exactly 1."""
    x = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(dim=0)
    values, vectors = torch.linalg.eigh(x.T @ x / (count - 1))
    return x @ vectors @ torch.diag(values.rsqrt()) @ vectors.T


def test_two_gaussians_with_axes_in_common_have_a_closed_form() -> None:
    real, generated = whitened(300, 4), whitened(200, 4, seed=1)
    mean, s1, s2 = torch.tensor([[1.0, -2, 0, 0.5], [1, 2, 3, 0.1], [0.5, 2, 1, 0.4]]).double()
    expected = float(mean.square().sum() + (s1 - s2).square().sum())
    assert frechet_distance(real * s1, generated * s2 + mean) == pytest.approx(expected, rel=1e-9)


def test_covariances_without_common_axes() -> None:
    a = torch.tensor([[2.0, 1], [0, 1]], dtype=torch.float64)  # covariance a^T a
    b = torch.tensor([[1.0, 0], [-1, 3]], dtype=torch.float64)
    s1, s2 = a.T @ a, b.T @ b
    product = s1 @ s2
    root_trace = (product.trace() + 2 * product.det().sqrt()).sqrt()  # of a 2 x 2 matrix
    expected = float(s1.trace() + s2.trace() - 2 * root_trace)
    assert frechet_distance(whitened(100, 2) @ a, whitened(90, 2, 1) @ b) == pytest.approx(expected, rel=1e-9)


def test_a_shift_alone_is_its_square_and_equal_sets_have_none() -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(3)).double()
    assert frechet_distance(x, x + 2) == pytest.approx(12, rel=1e-9)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x.float(), x.float() + 2) == pytest.approx(12, rel=1e-6)


def test_neither_the_order_of_samples_nor_that_of_dimensions_matters() -> None:
    random = torch.Generator().manual_seed(7)
    x, y = torch.randn(50, 6, generator=random).double(), torch.rand(40, 6, generator=random).double()
    samples, dims = torch.randperm(50, generator=random), torch.randperm(6, generator=random)
    expected = pytest.approx(frechet_distance(x, y), rel=1e-9)
    assert frechet_distance(x[samples], y.flip(0)) == expected
    assert frechet_distance(x[:, dims], y[:, dims]) == expected
    assert frechet_distance(x[:, dims], y) != expected


def test_fewer_samples_than_dimensions_lose_no_digits() -> None:
    """The eigenvalues of the covariances' product would: of 60 empty dimensions each adds the root of 1e-13."""
    random = torch.Generator().manual_seed(5)
    x, y = (30 * torch.randn(count, 64, generator=random).double() for count in (5, 7))
    (s, u), (t, v) = ((rows - rows.mean(0), len(rows) - 1) for rows in (x, y))
    shared = torch.linalg.svdvals(s @ t.T).sum() / (u * v) ** 0.5
    expected = (x.mean(0) - y.mean(0)).square().sum() + s.square().sum() / u + t.square().sum() / v - 2 * shared
    assert frechet_distance(x, y) == pytest.approx(float(expected), rel=1e-7)
    assert frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-6)


def test_a_joint_rotation_changes_nothing() -> None:
    random = torch.Generator().manual_seed(4)
    a, b = torch.randn(60, 5, generator=random).double(), 2 * torch.randn(40, 5, generator=random).double() + 1
    turn = torch.linalg.qr(torch.randn(5, 5, generator=random).double())[0]
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_small_samples_of_one_distribution_are_far_apart() -> None:
    random = torch.Generator().manual_seed(5)
    few, many = torch.randn(40, 32, generator=random), torch.randn(4000, 32, generator=random)
    assert frechet_distance(many, few) > 5
    assert frechet_distance(many[:2000], many[2000:]) < 1


def test_the_extrapolation_takes_the_bias_of_the_sample_size_away() -> None:
    random = torch.Generator().manual_seed(6)
    real, generated = torch.randn(8000, 8, generator=random), torch.randn(400, 8, generator=random)
    value, sizes = frechet_infinity(real, generated)
    assert sizes[-1] == 400
    assert abs(value) < frechet_distance(real, generated) / 2


def test_the_extrapolation_recovers_an_exact_line_in_one_over_n(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "frechet_distance", lambda real, rows: 3 + 20 / len(rows))
    value, sizes = frechet_infinity(torch.zeros(10, 4), torch.zeros(200, 4))
    assert value == pytest.approx(3, rel=1e-9)
    assert (sizes[0], sizes[-1], len(sizes)) == (100, 200, 15)


def test_bad_input() -> None:
    good = torch.randn(10, 4)
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(good, good[:1])
    with pytest.raises(ValueError, match="width 3"):
        frechet_distance(good, good[:, :3])
    with pytest.raises(ValueError, match=r"\[2\] of 10 hold NaN"):
        frechet_distance(good, good.index_fill(0, torch.tensor([2]), torch.nan))
    with pytest.raises(ValueError, match="at least 4"):
        frechet_infinity(good, good[:3])


def brute_force(x: torch.Tensor, y: torch.Tensor) -> float:
    def mean_kernel(a: torch.Tensor, b: torch.Tensor, same: bool) -> float:
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not same or i != j]
        values = [float(((a[i] @ b[j]) / a.shape[1] + 1) ** 3) for i, j in pairs]
        return sum(values) / len(values)

    return mean_kernel(x, x, True) + mean_kernel(y, y, True) - 2 * mean_kernel(x, y, False)


def test_the_kernel_distance_is_the_unbiased_estimate() -> None:
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 3, generator=random).double(), torch.randn(12, 3, generator=random).double() + 1
    mean, deviation = kernel_distance(x, y)
    assert mean == pytest.approx(brute_force(x, y), rel=1e-9)
    assert deviation == 0


def test_the_kernel_distance_over_subsets() -> None:
    random = torch.Generator().manual_seed(1)
    x, y = torch.randn(200, 4, generator=random), torch.randn(150, 4, generator=random) + 0.5
    mean, deviation = kernel_distance(x, y, subset_size=60)
    assert mean == pytest.approx(kernel_distance(x[:150], y)[0], abs=0.3)
    assert deviation > 0
    assert kernel_distance(x, y, subset_size=60) == kernel_distance(x, y, subset_size=60)


def test_equal_distributions_are_about_zero_at_any_sample_size() -> None:
    random = torch.Generator().manual_seed(2)
    pairs = [torch.randn(2, 20, 8, generator=random) for _ in range(60)]
    values = [kernel_distance(x, y)[0] for x, y in pairs]
    assert abs(sum(values) / len(values)) < 0.05
    assert min(values) < 0


def test_the_global_generator_stays_as_it_was() -> None:
    before = torch.random.get_rng_state()
    kernel_distance(torch.eye(5), 2 * torch.eye(5), subset_size=3)
    assert torch.equal(before, torch.random.get_rng_state())


def test_bad_input_of_the_kernel_distance() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(torch.zeros(1, 3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="width"):
        kernel_distance(torch.zeros(4, 3), torch.zeros(5, 2))


def test_inception_score_is_the_number_of_classes_at_most_and_one_at_least() -> None:
    sure = 1000 * torch.eye(10).repeat(5, 1)
    assert inception_score(sure) == pytest.approx(10)
    assert inception_score(torch.zeros(20, 10)) == pytest.approx(1)
    assert inception_score(sure[:1].repeat(7, 1)) == pytest.approx(1)  # sure, but always the same


def test_inception_score_by_hand() -> None:
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).double().log()
    marginal = [0.55, 0.45]
    gains = [
        sum(a * math.log(a / m) for a, m in zip(row, marginal, strict=True)) for row in ([0.9, 0.1], [0.2, 0.8])
    ]
    assert inception_score(p) == pytest.approx(math.exp(sum(gains) / 2))


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
