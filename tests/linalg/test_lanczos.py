"""Oracles: matrices of known spectrum, dense eigvalsh, and residuals recomputed here."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry._base import MemoryBudgetError, reporting
from isometry.linalg import haar, lanczos


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def build(values, dtype=torch.float64, seed=0):
    values = torch.as_tensor(values, dtype=torch.float64)
    q = haar(len(values), len(values), dtype=torch.float64, generator=gen(seed))
    a = (q * values) @ q.mT
    return ((a + a.mT) / 2).to(dtype)


class Counting:
    def __init__(self, a):
        self.a, self.count = a, 0

    def __call__(self, v):
        self.count += 1 if v.ndim == 1 else v.shape[1]
        return self.a @ v


def check(result, a, values, tolerance):
    values = torch.as_tensor(values, dtype=result.eigenvalues.dtype)
    assert result.converged, result
    assert torch.allclose(result.eigenvalues, values, rtol=0, atol=tolerance)
    v = result.eigenvectors
    assert torch.allclose(
        v.mT @ v, torch.eye(v.shape[1], dtype=v.dtype), atol=1e-5 if v.dtype == torch.float32 else 1e-12
    )
    direct = torch.linalg.vector_norm(a @ v - v * result.eigenvalues, dim=0)
    assert torch.allclose(result.residuals, direct, rtol=1e-2, atol=1e-5 if v.dtype == torch.float32 else 1e-12)
    assert bool((result.residuals <= result.tolerance * result.norm).all())


@pytest.mark.parametrize("which", ["largest", "smallest", "both"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("block", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_known_spectrum(which, count, block, dtype):
    spectrum = torch.cat([torch.linspace(-1, 1, 54, dtype=torch.float64), torch.tensor([9.0, 6, 4, -3, -5, -8])])
    a = build(spectrum, dtype)
    ordered = spectrum.sort(descending=True).values
    want = {
        "largest": ordered[:count],
        "smallest": ordered[-count:],
        "both": torch.cat([ordered[:count], ordered[-count:]]),
    }
    matvec = Counting(a)
    result = lanczos(matvec, 60, count=count, which=which, block=block, dtype=dtype, generator=gen())
    # The default tolerance is the root of epsilon; an eigenvalue errs by about residual^2 / gap.
    check(result, a, want[which], 1e-12 if dtype == torch.float64 else 1e-4)
    # Blocks are counted by their vectors; the padding of the last residual block is not work that was asked for.
    assert result.cost.matvecs <= matvec.count < result.cost.matvecs + block
    assert result.cost.matvecs < 60 + 2 * count
    assert result.dtype == dtype


@settings(deadline=None, max_examples=30)
@given(
    values=st.lists(st.integers(-3, 3), min_size=1, max_size=9),
    which=st.sampled_from(["largest", "smallest", "both"]),
    count=st.integers(1, 4),
    block=st.integers(1, 3),
    exponent=st.sampled_from([-30, 0, 30]),
    seed=st.integers(0, 5),
)
def test_multiple_and_zero_eigenvalues_of_small_matrices(values, which, count, block, exponent, seed):
    """Krylov spaces see each distinct eigenvalue once: only the search after a breakdown finds the copies."""
    count = min(count, len(values))
    a = build(values, seed=seed) * 10.0**exponent
    result = lanczos(lambda v: a @ v, len(values), count=count, which=which, block=block, generator=gen(seed))
    ordered = sorted(values, reverse=True)
    if which == "both":
        want = ordered if 2 * count >= len(values) else ordered[:count] + ordered[-count:]
    else:
        want = ordered[:count] if which == "largest" else ordered[-count:]
    assert result.converged
    got = (result.eigenvalues * 10.0**-exponent).tolist()
    assert got == pytest.approx(want, abs=1e-9)


def test_without_the_search_in_the_complement_copies_are_missed(monkeypatch):
    # The control to the test above: stop at the first breakdown, and the second 3 is not found.
    a = build([3, 3, 1, 0])
    assert lanczos(lambda v: a @ v, 4, count=2, generator=gen()).eigenvalues.tolist() == pytest.approx([3, 3])
    monkeypatch.setattr("isometry.linalg._lanczos._Search._changed", lambda _: False)
    assert lanczos(lambda v: a @ v, 4, count=2, generator=gen()).eigenvalues.tolist() == pytest.approx([3, 1])


def test_breakdown_at_once():
    result = lanczos(lambda v: v, 500, count=4, which="both", generator=gen())
    assert result.exhausted
    assert result.converged
    assert result.eigenvalues.tolist() == pytest.approx([1.0] * 8)
    assert result.cost.matvecs < 30
    zero = lanczos(torch.zeros_like, 50, count=2, generator=gen())
    assert zero.converged
    assert zero.eigenvalues.tolist() == [0.0, 0.0]


def test_low_rank_needs_few_products():
    u = haar(5000, 3, dtype=torch.float64, generator=gen())
    result = lanczos(lambda v: u @ (torch.tensor([4.0, 2, 1]).double() * (u.mT @ v)), 5000, count=3, generator=gen())
    assert result.eigenvalues.tolist() == pytest.approx([4, 2, 1])
    assert result.exhausted
    assert result.cost.matvecs < 15


def test_restarts_keep_the_memory_and_find_the_same():
    n = 400
    a = build(torch.linspace(0, 1, n, dtype=torch.float64) ** 0.5)
    ranks = []

    def matvec(v):
        return a @ v

    small = lanczos(matvec, n, count=2, basis=12, max_steps=3000, tolerance=1e-9, generator=gen())
    ranks.append(small.cost.bytes)
    large = lanczos(matvec, n, count=2, basis=300, max_steps=3000, tolerance=1e-9, generator=gen())
    ranks.append(large.cost.bytes)
    want = torch.linalg.eigvalsh(a).flip(0)[:2]
    check(small, a, want, 1e-10)
    check(large, a, want, 1e-10)
    assert small.cost.matvecs > large.cost.matvecs  # restarting costs products
    assert ranks[0] * 20 < ranks[1]


def test_orthogonality_survives_hundreds_of_steps():
    # Without reorthogonalization copies of the converged 1000 come back as ghosts.
    spectrum = torch.cat([torch.linspace(0, 1, 199, dtype=torch.float64), torch.tensor([1000.0], dtype=torch.float64)])
    a = build(spectrum)
    result = lanczos(lambda v: a @ v, 200, count=3, basis=200, tolerance=1e-13, max_steps=200, generator=gen())
    assert torch.allclose(result.eigenvalues, spectrum.flip(0)[:3], rtol=1e-11)


def test_running_out_of_steps_is_said():
    a = build(torch.linspace(0, 1, 300, dtype=torch.float64))
    result = lanczos(lambda v: a @ v, 300, count=2, max_steps=6, generator=gen())
    assert not result.converged
    assert result.cost.matvecs == 8
    v, w = result.eigenvectors, result.eigenvalues
    assert torch.allclose(result.residuals, torch.linalg.vector_norm(a @ v - v * w, dim=0))
    # The residual's promise: an eigenvalue within that distance.
    true = torch.linspace(0, 1, 300, dtype=torch.float64)
    assert all(float((true - x).abs().min()) <= float(r) for x, r in zip(w, result.residuals, strict=True))


def test_reproducible_frozen_and_plain():
    a = build(range(30))
    before = torch.get_rng_state()
    first, second = (lanczos(lambda v: a @ v, 30, generator=gen(4)) for _ in range(2))
    assert torch.equal(first.eigenvectors, second.eigenvectors)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(AttributeError):
        first.norm = 2.0
    assert json.loads(json.dumps(first.to_dict()))["eigenvalues"] == pytest.approx([29.0])


def test_progress_is_reported():
    seen = []
    a = build(range(30))
    with reporting(lambda what, done, total: seen.append((what, done, total))):
        lanczos(lambda v: a @ v, 30, generator=gen())
    assert seen[0] == ("Lanczos", 0, 300)
    assert seen[-1] == ("Lanczos", 300, 300)


def test_wrong_products_are_refused():
    n = 6
    m = torch.randn(n, n, dtype=torch.float64, generator=gen())
    with pytest.raises(ValueError, match=r"matvec is not a symmetric operator: .* differ by .* golub_kahan"):
        lanczos(lambda v: m @ v, n, generator=gen())
    with pytest.raises(ValueError, match=r"matvec must return shape \(6,\), got \(6, 1\); flatten"):
        lanczos(lambda v: v[:, None], n)
    with pytest.raises(ValueError, match="matvec returned NaN or infinity"):
        lanczos(lambda v: v / 0, n)
    with pytest.raises(TypeError, match=r"matvec must return a torch.Tensor, got list"):
        lanczos(lambda v: v.tolist(), n)


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"size": 0}, ValueError, "size must be at least 1, got 0"),
        ({"count": 7}, ValueError, "count must be at most 6, the smaller side of the operator, got 7"),
        ({"which": "largets"}, ValueError, "unknown which 'largets'; did you mean 'largest'"),
        ({"tolerance": -1.0}, ValueError, "tolerance must be a finite number > 0"),
        ({"max_steps": 0}, ValueError, "max_steps must be at least 1"),
        ({"block": 0}, ValueError, "block must be at least 1"),
        ({"basis": 2}, ValueError, "basis must hold the 1 wanted vectors and two blocks, so at least 3"),
        ({"dtype": torch.bfloat16}, TypeError, "dtype must be float32 or float64, got torch.bfloat16"),
        ({"size": 10**9}, MemoryBudgetError, "a Lanczos basis of 24 vectors of 1000000000 entries needs 357.6 GiB"),
    ],
)
def test_bad_arguments(kwargs, error, text):
    with pytest.raises(error, match=text):
        lanczos(lambda v: v, **{"size": 6, **kwargs})
