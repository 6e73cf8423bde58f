import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sonolume.modules.metrics import frechet
from sonolume.modules.metrics.frechet import (
    FrechetDistance,
    fit_line,
    frechet_distance,
    frechet_infinity,
    is_reliable,
)


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


def test_in_portions_as_at_once() -> None:
    a, b = whitened(70, 3), whitened(50, 3, 1) * 2 + 1
    metric = FrechetDistance(3)
    for part in a.split(13):
        metric.update(part, real=True)
    for part in b.split(7):
        metric.update(part, real=False)
    assert float(metric.compute()) == pytest.approx(frechet_distance(a, b), rel=1e-12)


def test_two_processes_sum_to_one() -> None:
    """Every state is reduced by a sum, so the processes' sums must give the whole."""
    a, b = whitened(70, 3), whitened(50, 3, 1) * 2 + 1
    whole, halves = FrechetDistance(3), [FrechetDistance(3), FrechetDistance(3)]
    for metric, x, y in [(whole, a, b), (halves[0], a[:30], b[:20]), (halves[1], a[30:], b[20:])]:
        metric.update(x, real=True)
        metric.update(y, real=False)
    for name, reduce in whole._reductions.items():
        assert reduce is torch.sum or getattr(reduce, "__name__", "") == "dim_zero_sum", name
        setattr(halves[0], name, getattr(halves[0], name) + getattr(halves[1], name))
    assert float(halves[0].compute()) == pytest.approx(float(whole.compute()), rel=1e-10)


def test_two_processes_give_what_one_does(tmp_path: Path) -> None:
    """For real: two processes over gloo, each with a part of its own size."""
    code = f"""if True:
        import os, sys, torch
        from sonolume.modules.metrics.frechet import FrechetDistance
        other = os.fork()  # everything was imported once, nothing was computed yet
        rank = int(other > 0)
        torch.distributed.init_process_group("gloo", init_method={(tmp_path / "meeting").as_uri()!r}, rank=rank,
                                             world_size=2)
        random = torch.Generator().manual_seed(8)
        a, b = torch.randn(70, 3, generator=random), 2 * torch.rand(50, 3, generator=random) + 1
        metric = FrechetDistance(3)
        for rows, real, cut in ((a, True, 30), (b, False, 35)):
            metric.update(rows[:cut] if rank == 0 else rows[cut:], real=real)
        open(os.path.join(sys.argv[1], str(rank)), "w").write(repr(float(metric.compute())))
        torch.distributed.destroy_process_group()
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) if other else 0)
        """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=300, env=environment)
    found = [float((tmp_path / str(rank)).read_text()) for rank in (0, 1)]
    random = torch.Generator().manual_seed(8)
    a, b = torch.randn(70, 3, generator=random), 2 * torch.rand(50, 3, generator=random) + 1
    assert found == pytest.approx([frechet_distance(a, b)] * 2, rel=1e-9)
    assert found[0] != pytest.approx(frechet_distance(a[:30], b[:35]), rel=0.01)


def test_small_samples_of_one_distribution_are_far_apart_and_said_to_be() -> None:
    random = torch.Generator().manual_seed(5)
    few, many = torch.randn(40, 32, generator=random), torch.randn(4000, 32, generator=random)
    assert frechet_distance(many, few) > 5
    assert frechet_distance(many[:2000], many[2000:]) < 1
    assert not is_reliable(40, 32)
    assert is_reliable(64, 32)


def test_the_extrapolation_takes_the_bias_of_the_sample_size_away() -> None:
    random = torch.Generator().manual_seed(6)
    real, generated = torch.randn(8000, 8, generator=random), torch.randn(400, 8, generator=random)
    found = frechet_infinity(real, generated)
    assert found.sizes[-1] == 400
    assert found.distances[-1] == pytest.approx(frechet_distance(real, generated), rel=1e-9)
    assert abs(found.value) < found.distances[-1] / 2
    assert found.slope > 0


def test_a_line_is_recovered() -> None:
    x = [1 / size for size in (100, 150, 400)]
    assert fit_line(x, [3 + 20 * value for value in x]) == pytest.approx((3, 20), rel=1e-9)


def test_the_extrapolation_recovers_an_exact_line_in_one_over_n(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet, "frechet_distance", lambda real, rows: 3 + 20 / len(rows))
    found = frechet_infinity(torch.zeros(10, 4), torch.zeros(200, 4))
    assert (found.value, found.slope) == pytest.approx((3, 20), rel=1e-9)
    assert (found.sizes[0], found.sizes[-1], len(found.sizes)) == (100, 200, 15)


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
