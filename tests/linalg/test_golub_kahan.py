"""Oracles: matrices of known singular values, dense svdvals, and residuals recomputed here."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry._base import MemoryBudgetError
from isometry.linalg import golub_kahan, haar


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def build(m, n, values, dtype=torch.float64, seed=0):
    k = min(m, n)
    values = torch.as_tensor(values, dtype=torch.float64)
    u = haar(m, k, dtype=torch.float64, generator=gen(seed))
    v = haar(n, k, dtype=torch.float64, generator=gen(seed + 1))
    return ((u * values) @ v.mT).to(dtype)


def solve(a, seed=0, **kwargs):
    return golub_kahan(
        lambda v: a @ v, lambda u: a.mT @ u, tuple(a.shape), dtype=a.dtype, generator=gen(seed), **kwargs
    )


@pytest.mark.parametrize("which", ["largest", "smallest", "both"])
@pytest.mark.parametrize(("m", "n"), [(60, 60), (90, 50), (50, 90)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_known_singular_values(which, m, n, dtype):
    k = min(m, n)
    values = torch.cat([torch.tensor([9.0, 6.0]), torch.linspace(3, 2, k - 4), torch.tensor([0.5, 0.1])]).double()
    a = build(m, n, values, dtype)
    result = solve(a, count=2, which=which)
    want = {"largest": values[:2], "smallest": values[-2:], "both": torch.cat([values[:2], values[-2:]])}[which]
    assert result.converged
    assert torch.allclose(result.values.double(), want, atol=1e-10 if dtype == torch.float64 else 1e-4)
    u, v, s = result.left, result.right, result.values
    assert u.shape == (m, len(want))
    assert v.shape == (n, len(want))
    eye = torch.eye(len(want), dtype=dtype)
    assert torch.allclose(u.mT @ u, eye, atol=1e-5)
    assert torch.allclose(v.mT @ v, eye, atol=1e-5)
    direct = torch.hypot((a @ v - u * s).norm(dim=0), (a.mT @ u - v * s).norm(dim=0))
    assert torch.allclose(direct, result.residuals, rtol=1e-2, atol=1e-12 if dtype == torch.float64 else 1e-4)


@settings(deadline=None, max_examples=40)
@given(
    values=st.lists(st.integers(0, 3), min_size=1, max_size=8),
    extra=st.integers(-3, 3),
    which=st.sampled_from(["largest", "smallest", "both"]),
    count=st.integers(1, 3),
    exponent=st.sampled_from([-30, 0, 30]),
    seed=st.integers(0, 5),
)
def test_multiple_and_zero_values_of_small_matrices(values, extra, which, count, exponent, seed):
    values = sorted(values, reverse=True)
    k, count = len(values), min(count, len(values))
    a = build(k + max(extra, 0), k + max(-extra, 0), values, seed=seed) * 10.0**exponent
    result = solve(a, count=count, which=which)
    if which == "both":
        want = values if 2 * count >= k else values[:count] + values[-count:]
    else:
        want = values[:count] if which == "largest" else values[-count:]
    assert result.converged
    assert (result.values * 10.0**-exponent).tolist() == pytest.approx(want, abs=1e-7)


def test_an_isometry_closes_at_once():
    q = haar(300, 200, dtype=torch.float64, generator=gen())
    result = solve(q, which="both")
    assert result.values.tolist() == pytest.approx([1.0, 1.0])
    assert result.exhausted
    assert result.converged
    assert result.steps <= 4


def test_copies_are_found_in_the_complement_of_the_first_krylov_space():
    a = build(5, 4, [3, 3, 2, 1])
    # The control: the first Krylov space holds three directions, and only one copy of the 3.
    assert solve(a, count=2, max_steps=3).values.tolist() == pytest.approx([3, 2])
    assert solve(a, count=2).values.tolist() == pytest.approx([3, 3])


def test_a_start_vector_in_the_null_space_is_survived():
    # The first product is then rounding alone, which must not pass for the operator's norm: here the matrix and the
    # start vector come from the same random numbers.
    for shape in ((2, 3), (3, 2), (2, 2)):
        for seed in range(10):
            a = build(*shape, [1, 0], seed=seed) * 1e-30
            result = solve(a, which="both", seed=seed)
            assert (result.values * 1e30).tolist() == pytest.approx([1, 0], abs=1e-9)
            assert result.converged


def test_every_copy_of_a_zero_singular_value_is_found():
    # A space that opens with a left vector does not see null vectors; taking its end for the end of the search lost
    # the second zero in three of four draws.
    for seed in range(25):
        a = build(9, 9, [4, 4, 3, 3, 2, 1, 0, 0, 0], seed=seed)
        assert solve(a, count=2, which="smallest").values.tolist() == pytest.approx([0, 0], abs=1e-7)


def test_small_values_down_to_rounding():
    values = torch.logspace(0, -12, 40, dtype=torch.float64)
    result = solve(build(40, 40, values), which="both", tolerance=1e-14)
    assert float(result.values[0]) == pytest.approx(1, rel=1e-12)
    # Absolute accuracy is epsilon times the norm: 1e-12 comes out to about 4 digits.
    assert float(result.values[1]) == pytest.approx(1e-12, rel=1e-2)


def test_largest_needs_few_products():
    values = torch.cat([torch.tensor([10.0]), torch.linspace(5, 0, 499)]).double()
    a = build(600, 500, values)
    calls = [0]

    def matvec(v):
        calls[0] += 1
        return a @ v

    def rmatvec(u):
        calls[0] += 1
        return a.mT @ u

    result = golub_kahan(matvec, rmatvec, (600, 500), generator=gen())
    assert result.converged
    assert float(result.values[0]) == pytest.approx(10, rel=1e-12)
    assert result.cost.matvecs == calls[0] < 60
    assert result.steps < 30


def test_running_out_of_steps_is_said():
    values = torch.linspace(1, 0.01, 200, dtype=torch.float64)
    result = solve(build(200, 200, values), which="smallest", max_steps=10)
    assert not result.converged
    assert result.steps == 10
    s, r = float(result.values[0]), float(result.residuals[0])
    assert float((values - s).abs().min()) <= r


def test_wrong_products_are_refused():
    a = torch.randn(6, 4, dtype=torch.float64, generator=gen())
    b = torch.randn(6, 4, dtype=torch.float64, generator=gen(1))
    with pytest.raises(ValueError, match=r"rmatvec is not the transpose of matvec: .* check that both belong"):
        golub_kahan(lambda v: a @ v, lambda u: b.mT @ u, (6, 4), generator=gen())
    with pytest.raises(ValueError, match=r"rmatvec must return shape \(4,\), got \(6,\)"):
        golub_kahan(lambda v: a @ v, lambda u: u, (6, 4))
    with pytest.raises(ValueError, match=r"matvec must return shape \(4,\), got \(6,\)"):
        golub_kahan(lambda v: v, lambda u: a @ u, (4, 6))
    with pytest.raises(ValueError, match="matvec returned NaN or infinity"):
        golub_kahan(lambda v: a @ v / 0, lambda u: a.mT @ u, (6, 4))
    with pytest.raises(ValueError, match=r"shape\[1\] must be at least 1, got 0"):
        golub_kahan(lambda v: v, lambda u: u, (3, 0))
    with pytest.raises(ValueError, match="count must be at most 4, the smaller side"):
        golub_kahan(lambda v: v, lambda u: u, (6, 4), count=5)
    with pytest.raises(MemoryBudgetError, match=r"a Golub-Kahan basis of 1000 vectors .* Pass a smaller max_steps="):
        golub_kahan(lambda v: v, lambda u: u, (10**7, 10**7))
