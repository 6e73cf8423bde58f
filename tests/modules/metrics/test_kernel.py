import pytest
import torch

from sonolume.modules.metrics.kernel import kernel_distance


def brute_force(x: torch.Tensor, y: torch.Tensor) -> float:
    def mean_kernel(a: torch.Tensor, b: torch.Tensor, same: bool) -> float:
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not same or i != j]
        values = [float(((a[i] @ b[j]) / a.shape[1] + 1) ** 3) for i, j in pairs]
        return sum(values) / len(values)

    return mean_kernel(x, x, True) + mean_kernel(y, y, True) - 2 * mean_kernel(x, y, False)


def test_it_is_the_unbiased_estimate() -> None:
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 3, generator=random).double(), torch.randn(12, 3, generator=random).double() + 1
    mean, deviation = kernel_distance(x, y)
    assert mean == pytest.approx(brute_force(x, y), rel=1e-9)
    assert deviation == 0


def test_subsets_have_the_value_of_the_whole_and_a_spread() -> None:
    random = torch.Generator().manual_seed(1)
    x, y = torch.randn(200, 4, generator=random), torch.randn(150, 4, generator=random) + 0.5
    mean, deviation = kernel_distance(x, y, subsets=200, subset_size=60)
    assert mean == pytest.approx(kernel_distance(x[:150], y)[0], abs=0.3)
    assert deviation > 0
    assert kernel_distance(x, y, subset_size=60) == kernel_distance(x, y, subset_size=60)
    assert kernel_distance(x, y, subset_size=60, seed=1) != kernel_distance(x, y, subset_size=60)


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


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(torch.zeros(1, 3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="width"):
        kernel_distance(torch.zeros(4, 3), torch.zeros(5, 2))
