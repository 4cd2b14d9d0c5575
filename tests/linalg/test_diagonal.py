"""Oracles: known diagonals, the variance formula of the estimator, and its naive transcription."""

import json

import pytest
import torch

from isometry._base import MemoryBudgetError
from isometry.linalg import estimate_diagonal


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def symmetric(size=50, seed=0):
    a = torch.randn(size, size, dtype=torch.float64, generator=gen(seed)) * 0.3
    return (a + a.mT) / 2 + torch.diag(torch.linspace(-1, 4, size, dtype=torch.float64))


def test_it_is_the_mean_over_signs():
    a = symmetric()
    seen = []

    def product(v):
        seen.append(v.clone())
        return a @ v

    result = estimate_diagonal(product, 50, tolerance=1e-9, max_probes=21, generator=gen())
    v = torch.stack(seen)
    assert v.shape == (21, 50)
    # Bekas et al.: sum of v * (A v), over the sum of v * v, entry by entry.
    samples = v * (v @ a)
    assert torch.allclose(result.values, samples.sum(0) / (v * v).sum(0), rtol=1e-12)
    assert torch.allclose(result.stderr, samples.std(0) / 21**0.5, rtol=1e-10)
    assert result.cost.matvecs == result.probes == 21
    assert not result.converged


def test_errors_are_the_formula():
    """Entry i has the variance sum_(j != i) a_ij^2: from 4000 probes, errors of the variance are 2.2% each."""
    a = symmetric()
    result = estimate_diagonal(lambda v: a @ v, 50, tolerance=1e-9, max_probes=4000, block=500, generator=gen())
    variance = a.square().sum(1) - a.diagonal().square()
    assert torch.allclose(result.stderr**2 * 4000, variance, rtol=0.1)
    scaled = (result.values - a.diagonal()) / result.stderr
    assert float(scaled.abs().max()) < 4.5  # 50 normal variables: beyond with probability 3e-4
    error = float((variance / 4000).sum().sqrt() / torch.linalg.vector_norm(a.diagonal()))
    assert result.relative_error == pytest.approx(error, rel=0.03)


def test_it_stops_on_the_error():
    a = symmetric()
    result = estimate_diagonal(lambda v: a @ v, 50, tolerance=0.2, block=4, generator=gen())
    assert result.converged
    assert result.relative_error <= 0.2
    assert 8 <= result.probes < 200
    true_error = torch.linalg.vector_norm(result.values - a.diagonal()) / torch.linalg.vector_norm(a.diagonal())
    assert float(true_error) < 0.4


def test_noise_is_not_taken_for_a_diagonal():
    """A zero diagonal under large off-diagonal entries: the estimate is all noise, and says so."""
    a = symmetric()
    a = a - torch.diag(a.diagonal())
    result = estimate_diagonal(lambda v: a @ v, 50, tolerance=1.1, max_probes=64, generator=gen())
    assert not result.converged
    assert "NOT within 1.1" in str(result)


def test_diagonal_matrices_are_exact_and_results_are_plain_data():
    d = torch.tensor([3.0, -1.0, 0.0, 2.5])
    result = estimate_diagonal(lambda v: d * v, 4, dtype=torch.float32, generator=gen())
    assert result.values.tolist() == d.tolist()
    assert result.stderr.tolist() == [0.0] * 4
    assert result.converged
    assert json.loads(json.dumps(result.to_dict()))["values"] == d.tolist()
    again = estimate_diagonal(lambda v: d[:, None] * v, 4, block=5, dtype=torch.float32, generator=gen())
    assert again.seed == result.seed
    assert torch.equal(again.values, result.values)


def test_refusals():
    with pytest.raises(ValueError, match=r"max_probes must be at least 2"):
        estimate_diagonal(lambda v: v, 4, max_probes=1)
    with pytest.raises(MemoryBudgetError, match=r"the diagonal of 100000 entries.*smaller block="):
        estimate_diagonal(lambda v: v, 100_000, budget=10**5)
    with pytest.raises(TypeError, match=r"size must be an integer"):
        estimate_diagonal(lambda v: v, 4.0)
