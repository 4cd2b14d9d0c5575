import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.linalg import haar, randomized_svd


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def build(m, n, values, seed=0):
    k = min(m, n)
    u = haar(m, k, dtype=torch.float64, generator=gen(seed))
    v = haar(n, k, dtype=torch.float64, generator=gen(seed + 1))
    return (u * torch.as_tensor(values, dtype=torch.float64)) @ v.mT


@pytest.mark.parametrize(("m", "n"), [(80, 60), (60, 80)])
def test_leading_triplets_of_a_decaying_spectrum(m, n):
    values = 0.7 ** torch.arange(60, dtype=torch.float64)
    a = build(m, n, values)
    result = randomized_svd(a, 8, generator=gen())
    assert torch.allclose(result.values, values[:8], rtol=1e-8)
    assert torch.allclose(result.u.mT @ result.u, torch.eye(8, dtype=torch.float64), atol=1e-12)
    # No rank-8 approximation is nearer than the truncated SVD.
    best = float(values[8:].norm() / values.norm())
    assert best * (1 - 1e-9) <= result.residual <= best * 1.001


@settings(deadline=None, max_examples=40)
@given(
    decay=st.floats(0.3, 1.0),
    rank=st.integers(1, 12),
    oversampling=st.integers(0, 8),
    power=st.integers(0, 2),
    seed=st.integers(0, 50),
)
def test_the_bound_holds_and_is_not_vacuous(decay, rank, oversampling, power, seed):
    values = decay ** torch.arange(20, dtype=torch.float64)
    a = build(30, 20, values, seed)
    result = randomized_svd(a, rank, oversampling=oversampling, power=power, generator=gen(seed))
    error = float(torch.linalg.matrix_norm(a - (result.u * result.values) @ result.vh, 2))
    assert error <= result.error_bound + 1e-12
    # The bound's constant is 8 times a maximum over ten probes, each about |.|_F of what was missed.
    assert result.error_bound <= 8 * 6 * max(20**0.5 * error, 1e-13)
    assert result.residual == pytest.approx(
        float((a - (result.u * result.values) @ result.vh).norm() / a.norm()), rel=1e-6, abs=1e-13
    )
    assert bool((result.values <= values[:rank] * (1 + 1e-9)).all())


def test_exact_at_full_rank_and_for_low_rank():
    a = build(10, 6, [5, 4, 3, 2, 1, 0.5])
    full = randomized_svd(a, 6, generator=gen())
    assert full.error_bound < 1e-12
    assert torch.allclose(full.values, torch.linalg.svdvals(a))
    low = randomized_svd(build(50, 40, [3.0, 2.0] + [0.0] * 38), 2, tolerance=1e-10, generator=gen())
    assert low.converged
    assert low.error_bound < 1e-12
    zero = randomized_svd(torch.zeros(5, 4), 2, generator=gen())
    assert zero.residual == 0
    assert zero.error_bound == 0


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_does_not_matter(scale):
    a = torch.randn(12, 9, generator=gen())
    plain, scaled = (randomized_svd(x, 3, generator=gen(1)) for x in (a, a * scale))
    assert torch.allclose(scaled.values / scale, plain.values, rtol=1e-4)
    assert scaled.error_bound == pytest.approx(plain.error_bound * scale, rel=1e-3)


def test_tolerance_decides_convergence():
    a = build(30, 30, torch.linspace(1, 0.5, 30))
    assert not randomized_svd(a, 3, tolerance=0.1, generator=gen()).converged
    assert randomized_svd(a, 3, tolerance=100.0, generator=gen()).converged


def test_signs_dtype_and_generator():
    a = torch.randn(10, 8, generator=gen()).bfloat16()
    before = torch.get_rng_state()
    result = randomized_svd(a, 3, generator=gen(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert result.dtype == torch.float32
    assert result.values.dtype == torch.bfloat16
    assert torch.equal(result.u, randomized_svd(a, 3, generator=gen(2)).u)
    assert bool((result.u.gather(0, result.u.abs().argmax(0, keepdim=True)) > 0).all())


def test_products_are_counted():
    result = randomized_svd(torch.randn(40, 30), 5, oversampling=3, power=1, generator=gen())
    assert result.cost.matvecs == 8 * (1 + 2 + 1) + 10


def test_bad_arguments():
    a = torch.ones(4, 3)
    with pytest.raises(ValueError, match=r"rank must be at most min\(m, n\) = 3, got 4"):
        randomized_svd(a, 4)
    with pytest.raises(ValueError, match="rank must be at least 1"):
        randomized_svd(a, 0)
    with pytest.raises(ValueError, match=r"a must be one matrix, got shape \(2, 4, 3\); loop over a batch"):
        randomized_svd(torch.ones(2, 4, 3), 1)
    with pytest.raises(ValueError, match="power must be a whole number >= 0, got -1"):
        randomized_svd(a, 1, power=-1)
    with pytest.raises(ValueError, match=r"oversampling must be a whole number >= 0, got 1.5"):
        randomized_svd(a, 1, oversampling=1.5)
    with pytest.raises(ValueError, match="tolerance must be a finite number > 0"):
        randomized_svd(a, 1, tolerance=0.0)
    with pytest.raises(ValueError, match="a holds 12 non-finite values"):
        randomized_svd(a * float("nan"), 1)
