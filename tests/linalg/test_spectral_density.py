"""Oracles: the semicircle law, known eigenvalues, Gauss quadrature by its definition, and exact moments."""

import json
import math

import pytest
import torch

from isometry._base import MemoryBudgetError
from isometry.linalg import haar, spectral_density


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def build(values, seed=0):
    values = torch.as_tensor(values, dtype=torch.float64)
    q = haar(len(values), len(values), dtype=torch.float64, generator=gen(seed))
    a = (q * values) @ q.mT
    return (a + a.mT) / 2


def smoothed(values, grid, width):
    """The exact density of the eigenvalues under the same kernel."""
    kernel = (-0.5 * ((grid[:, None] - values) / width) ** 2).exp() / (width * math.sqrt(2 * math.pi))
    return kernel.mean(1)


def test_semicircle():
    """A Gaussian symmetric matrix of size n: density sqrt(4 - t^2) / (2 pi), moments 0 and 1 up to 1/n.

    Besides the error bars: a finite matrix under a kernel of width 0.1 is within 0.01 of the law away from the edges,
    which the kernel smooths.
    """
    n = 500
    g = torch.randn(n, n, dtype=torch.float64, generator=gen())
    a = (g + g.mT) / math.sqrt(2 * n)
    result = spectral_density(lambda v: a @ v, n, steps=40, probes=24, block=12, generator=gen())
    assert result.converged
    t = result.grid
    law = (4 - t**2).clamp(min=0).sqrt() / (2 * math.pi)
    inside = t.abs() < 1.7
    assert bool(((result.density - law).abs() < 4 * result.stderr + 0.012)[inside].all())
    assert float(result.stderr.max()) < 0.02
    assert abs(result.mean - float(a.trace()) / n) < 4 * result.mean_stderr
    assert abs(result.mean_square - float(a.square().sum()) / n) < 4 * result.mean_square_stderr
    assert result.mass == pytest.approx(1, abs=1e-4)
    # Half the eigenvalues are positive; an end within the bulk adds up to a node's weight, about 1.6 / 40 per side.
    share, error = result.fraction(0.0)
    assert abs(share - 0.5) < 0.04 + 4 * error
    assert result.cost.matvecs == 24 * 40


def test_known_eigenvalues():
    """Bulk and outliers: the density within its error bars of the exact one, outliers by weight."""
    values = torch.cat([torch.linspace(-1, 1, 197, dtype=torch.float64), torch.tensor([8.0, 9.0, 12.0])])
    a = build(values)
    result = spectral_density(lambda v: a @ v, 200, steps=60, probes=40, block=8, width=0.15, generator=gen())
    exact = smoothed(values, result.grid, 0.15)
    # 5 standard errors plus what quadrature leaves: integrals of kernels wider than the nodes' distance, near 1e-3.
    assert bool(((result.density - exact).abs() < 5 * result.stderr + 5e-3).all())
    assert float(result.stderr.max()) > 1e-3
    share, error = result.fraction(5, 20)
    assert 0 < error < 0.01
    assert abs(share - 3 / 200) < 4 * error
    assert result.highest == pytest.approx(12, abs=1e-8)
    assert result.lowest == pytest.approx(-1, abs=1e-3)
    assert result.residual < 1e-6


def test_quadrature_is_exact_for_polynomials():
    """Per probe: sum of weights times nodes^p equals v^T A^p v for p below 2 steps, v made again from the products."""
    a = build(torch.linspace(-1, 2, 30, dtype=torch.float64))
    seen = []

    def product(v):
        seen.append(v.clone())
        return a @ v

    result = spectral_density(product, 30, steps=5, probes=3, generator=gen())
    for index in range(3):
        v = seen[5 * index]
        assert torch.allclose(v.abs(), torch.full((30,), 30**-0.5, dtype=torch.float64))
        for power in range(10):
            exact = float(v @ torch.linalg.matrix_power(a, power) @ v)
            found = float((result.weights[index] * result.nodes[index] ** power).sum())
            assert found == pytest.approx(exact, abs=1e-11)
        beyond = float((result.weights[index] * result.nodes[index] ** 10).sum())
        assert abs(beyond - float(v @ torch.linalg.matrix_power(a, 10) @ v)) > 1e-6


def test_few_distinct_eigenvalues_close_the_krylov_space():
    values = torch.tensor([1.0] * 20 + [3.0] * 10 + [0.0] * 10)
    a = build(values)
    for block in (1, 4):
        result = spectral_density(lambda v: a @ v, 40, steps=20, probes=64, block=block, generator=gen())
        share, error = result.fraction(2.5, 3.5)
        assert abs(share - 0.25) < 4 * error
        assert result.lowest == pytest.approx(0, abs=1e-12)
        assert result.highest == pytest.approx(3)
        assert result.converged
        assert result.cost.matvecs < 64 * 6


@pytest.mark.parametrize("a", [torch.zeros(6, 6), 3 * torch.eye(6), torch.tensor([[2.0]])])
def test_spectra_of_one_point(a):
    a = a.double()
    result = spectral_density(lambda v: a @ v, len(a), generator=gen())
    assert result.mean == pytest.approx(float(a[0, 0]))
    assert result.lowest == result.highest or result.highest - result.lowest < 1e-12
    assert result.converged


def test_own_grid_and_the_check():
    a = build(torch.linspace(0, 1, 60, dtype=torch.float64))
    grid = torch.linspace(-0.5, 1.5, 400, dtype=torch.float64)
    good = spectral_density(lambda v: a @ v, 60, steps=30, grid=grid, width=0.05, generator=gen())
    assert torch.equal(good.grid, grid)
    assert good.converged
    cut = spectral_density(lambda v: a @ v, 60, steps=30, grid=grid[grid < 0.5], width=0.05, generator=gen())
    assert cut.mass < 0.6
    assert not cut.converged
    assert "does NOT agree" in str(cut)
    coarse = spectral_density(lambda v: a @ v, 60, steps=30, grid=20, width=0.002, generator=gen())
    assert not coarse.converged


def test_dtype_seed_and_plain_data():
    a = build(torch.linspace(-2, 1, 100, dtype=torch.float64))
    wide = spectral_density(lambda v: a @ v, 100, steps=20, generator=gen(2))
    single = a.float()
    state = torch.get_rng_state()
    narrow = spectral_density(lambda v: single @ v, 100, steps=20, dtype=torch.float32, block=3, generator=gen(2))
    assert torch.equal(state, torch.get_rng_state())
    assert narrow.seed == wide.seed
    assert narrow.mean == pytest.approx(wide.mean, abs=1e-4)
    assert torch.allclose(narrow.density, wide.density, atol=1e-2)
    plain = json.loads(json.dumps(wide.to_dict()))
    assert len(plain["density"]) == 1024
    assert "nodes" not in plain
    assert "density of 100 eigenvalues" in str(wide)


def test_refusals():
    def product(v):
        return v

    with pytest.raises(TypeError, match=r"grid must be a number of points or a tensor of them, got str"):
        spectral_density(product, 4, grid="fine")
    with pytest.raises(ValueError, match=r"grid must have at least 2 points, got 1"):
        spectral_density(product, 4, grid=1)
    with pytest.raises(ValueError, match=r"grid must hold at least two ascending points"):
        spectral_density(product, 4, grid=torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match=r"max_probes must be at least 2|probes must be at least 2"):
        spectral_density(product, 4, probes=1)
    with pytest.raises(ValueError, match=r"width must be a finite number > 0"):
        spectral_density(product, 4, width=0.0)
    with pytest.raises(MemoryBudgetError, match=r"Lanczos basis of 50 vectors.*fewer steps="):
        spectral_density(product, 10_000, budget=10**6)
    a = torch.randn(30, 30, dtype=torch.float64, generator=gen())
    with pytest.raises(ValueError, match=r"not a symmetric operator.*\(A \+ A\^T\) / 2"):
        spectral_density(lambda v: a @ v, 30, generator=gen())
