"""Oracles: matrices of known trace, naive transcriptions of the papers' algorithms, and derived statistical bounds."""

import json
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from isometry._base import MemoryBudgetError
from isometry.linalg import estimate_trace, haar
from isometry.linalg._hutch_plus_plus import HutchPlusPlus
from isometry.linalg._hutchinson import Hutchinson
from isometry.linalg._probes import ProbedOperator
from isometry.linalg._xtrace import XTrace

METHODS = ("hutchinson", "hutch++", "xtrace")


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def build(values, seed=0):
    values = torch.as_tensor(values, dtype=torch.float64)
    q = haar(len(values), len(values), dtype=torch.float64, generator=gen(seed))
    a = (q * values) @ q.mT
    return (a + a.mT) / 2


def decaying(size=80):
    return build(torch.arange(1, size + 1, dtype=torch.float64) ** -2.0 * 10)


def indefinite(size=80):
    return build(torch.linspace(-1, 1.5, size, dtype=torch.float64))


class Recording:
    """The operator's products, with the vectors that it was given."""

    def __init__(self, a):
        self.a, self.vectors = a, []

    def __call__(self, v):
        columns = v if v.ndim == 2 else v[:, None]
        self.vectors.append(columns)
        return self.a @ v

    def rows(self):
        return torch.cat(self.vectors, 1).mT


def operator(a, seed=0, block=1):
    recording = Recording(a)
    return recording, ProbedOperator(
        recording, len(a), block=block, dtype=torch.float64, device=None, generator=gen(seed)
    )


# -- each method against its paper's algorithm, on the vectors that it drew --


def test_hutchinson_is_the_mean_of_the_forms():
    a = indefinite()
    recording, op = operator(a)
    method = Hutchinson(op)
    assert method.extend(5) == 5
    method.extend(40)
    v = recording.rows()
    assert v.shape == (45, 80)
    assert bool((v.abs() == 1).all())
    forms = torch.stack([row @ a @ row for row in v])
    value, stderr = method.estimate()
    assert math.isclose(value, float(forms.mean()), rel_tol=1e-12)
    assert math.isclose(stderr, float((forms.var() / 45).sqrt()), rel_tol=1e-12)


def naive_hutch(a, S, G):
    """Alg. 1: orthonormal basis of A S, the trace inside it, Hutchinson's on the complement."""
    Q = torch.linalg.qr(a @ S).Q
    P = torch.eye(len(a), dtype=a.dtype) - Q @ Q.T
    forms = torch.stack([g @ P @ a @ P @ g for g in G.T])
    return float((Q.T @ a @ Q).trace() + forms.mean()), float((forms.var() / len(forms)).sqrt())


@pytest.mark.parametrize("a", [decaying(), indefinite()], ids=["decaying", "indefinite"])
def test_hutch_plus_plus_is_the_papers_and_multiplies_nothing_twice(a):
    recording, op = operator(a)
    method = HutchPlusPlus(op)
    method.extend(10)
    method.extend(24)
    rows = recording.rows()
    assert len(rows) == op.matvecs == 3 * 17
    # In the order of the products: sketch, basis, samples; then the same for the second extension.
    S = torch.cat([rows[:5], rows[15:27]]).T
    G = torch.cat([rows[10:15], rows[39:51]]).T
    value, stderr = method.estimate()
    expected, spread = naive_hutch(a, S, G)
    assert math.isclose(value, expected, rel_tol=1e-10)
    assert math.isclose(stderr, spread, rel_tol=1e-8)


def naive_xtrace(a, W):
    """The estimates with one probe left out of the basis each, QR by QR, as the paper defines them."""
    n, k = W.shape
    found = []
    for i in range(k):
        rest = torch.cat([W[:, :i], W[:, i + 1 :]], 1)
        Q = torch.linalg.qr(a @ rest).Q
        P = torch.eye(n, dtype=a.dtype) - Q @ Q.T
        nu = P @ W[:, i]
        nu = nu / nu.norm() * math.sqrt(n - k + 1)
        found.append((Q.T @ a @ Q).trace() + nu @ a @ nu)
    found = torch.stack(found)
    return float(found.mean()), float(((found - found.mean()).square().sum() / (k * (k - 1))).sqrt())


@pytest.mark.parametrize("a", [decaying(), indefinite()], ids=["decaying", "indefinite"])
def test_xtrace_is_the_papers_and_multiplies_nothing_twice(a):
    recording, op = operator(a, block=3)
    method = XTrace(op)
    method.extend(7)
    method.extend(11)
    rows = torch.cat([v[:, v.abs().sum(0) > 0] for v in recording.vectors], 1).mT  # without the blocks' padding
    assert len(rows) == op.matvecs == 2 * 18
    W = torch.cat([rows[:7], rows[14:25]]).T
    assert torch.allclose(W.norm(dim=0), torch.full((18,), math.sqrt(80.0), dtype=torch.float64))
    value, stderr = method.estimate()
    expected, spread = naive_xtrace(a, W)
    assert math.isclose(value, expected, rel_tol=1e-9)
    assert math.isclose(stderr, 4 / 3 * spread, rel_tol=1e-6)  # the spread is that of estimates that share probes


def test_rows_within_a_basis_get_directions_outside_of_it():
    _, op = operator(torch.eye(10, dtype=torch.float64))
    basis = torch.eye(10, dtype=torch.float64)[:4]
    rows = torch.zeros(3, 10, dtype=torch.float64)
    rows[0, :4] = torch.tensor([1.0, 2, 3, 4])
    rows[1, 6] = 2.0  # the one that brings something new; the third is zero
    q, r, c = op.orthonormal(rows, basis)
    both = torch.cat([basis, q])
    assert torch.allclose(both @ both.mT, torch.eye(7, dtype=torch.float64), atol=1e-13)
    assert torch.allclose(basis.mT @ c + q.mT @ r, rows.mT, atol=1e-13)


# -- what the estimates promise --


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("a", [decaying(), indefinite()], ids=["decaying", "indefinite"])
def test_errors_are_what_the_standard_error_says(method, a):
    """300 estimates: unbiased, and the mean squared standard error is their variance.

    A variance from 300 draws errs by 8% for the normal law and up to 15% for the skewed one of few large eigenvalues.
    XTrace's factor covers the worst spectrum, so elsewhere its error may be half as much too large again.
    """
    results = [
        estimate_trace(lambda v: a @ v, 80, method=method, tolerance=1e-15, max_probes=16, block=16, generator=gen(s))
        for s in range(300)
    ]
    errors = torch.tensor([r.value for r in results], dtype=torch.float64) - a.trace()
    variance = torch.tensor([r.stderr for r in results], dtype=torch.float64).square().mean()
    assert abs(float(errors.mean())) < 4 * float(errors.std()) / 300**0.5
    low, high = (0.7, 1.5) if method != "xtrace" else (0.75, 2.2)
    assert low < float(variance / errors.var()) < high


def test_hutchinsons_variance_is_the_formula():
    """2 (|A|_F^2 - sum a_ii^2) per probe; a variance from 2000 forms errs by 3% or, for heavy tails, a few more."""
    a = indefinite()
    result = estimate_trace(lambda v: a @ v, 80, tolerance=1e-12, max_probes=2000, block=500, generator=gen())
    variance = 2 * float(a.square().sum() - a.diagonal().square().sum())
    assert math.isclose(result.stderr**2 * 2000, variance, rel_tol=0.1)
    assert abs(result.value - float(a.trace())) < 4 * result.stderr
    assert result.matvecs == result.probes == 2000
    assert not result.converged


def test_decaying_spectra_are_where_the_low_rank_methods_pay():
    a = build(0.7 ** torch.arange(200, dtype=torch.float64))
    errors = {
        m: estimate_trace(lambda v: a @ v, 200, method=m, tolerance=1e-12, max_probes=p, generator=gen()).stderr
        for m, p in (("hutchinson", 60), ("hutch++", 40), ("xtrace", 30))  # 60 products each
    }
    assert errors["hutch++"] < 0.02 * errors["hutchinson"]
    assert errors["xtrace"] < 0.1 * errors["hutch++"]


@pytest.mark.parametrize("method", METHODS)
def test_it_stops_on_the_error(method):
    a = build(torch.linspace(0.5, 1.5, 300, dtype=torch.float64))
    result = estimate_trace(lambda v: a @ v, 300, method=method, tolerance=0.01, block=4, generator=gen(1))
    assert result.converged
    assert result.stderr <= 0.01 * result.value
    assert abs(result.value - 300) < 4 * result.stderr
    assert result.probes < 100
    few = estimate_trace(lambda v: a @ v, 300, method=method, tolerance=1e-7, max_probes=9, generator=gen(1))
    assert not few.converged
    assert few.probes == (8 if method == "hutch++" else 9)
    assert "NOT within 1e-07" in str(few)


@pytest.mark.parametrize("method", ["hutch++", "xtrace"])
@pytest.mark.parametrize("rank", [0, 1, 5])
def test_low_rank_is_exact(method, rank):
    """Products of a low-rank operator repeat themselves: nothing may divide by what is left."""
    values = torch.zeros(40, dtype=torch.float64)
    values[:rank] = torch.arange(1, rank + 1, dtype=torch.float64) * torch.tensor([1.0, -2, 3, 4, 5][:rank])
    a = build(values)
    for matrix in (a, torch.diag(values)):
        result = estimate_trace(lambda v, m=matrix: m @ v, 40, method=method, tolerance=1e-9, generator=gen())
        assert abs(result.value - float(values.sum())) < 1e-10
        assert result.stderr < 1e-10


@settings(deadline=None, max_examples=40)
@given(
    values=st.lists(st.integers(-4, 4), min_size=1, max_size=7),
    method=st.sampled_from(["hutch++", "xtrace"]),
    exponent=st.sampled_from([-40, 0, 40]),
    seed=st.integers(0, 5),
)
@example(values=[2, -1, -3, 2], method="hutch++", exponent=-40, seed=2)  # a trace of zero: it never stops early
def test_small_operators_are_exact_once_the_whole_space_is_sampled(values, method, exponent, seed):
    a = build(values, seed) * 2.0**exponent
    result = estimate_trace(lambda v: a @ v, len(values), method=method, max_probes=40, generator=gen(seed))
    assert abs(result.value - float(a.trace())) <= 1e-9 * 2.0**exponent * len(values)


@pytest.mark.parametrize("method", METHODS)
def test_seed_block_and_generator(method):
    a = decaying()
    options = {"method": method, "max_probes": 20, "tolerance": 1e-9}
    one = estimate_trace(lambda v: a @ v, 80, generator=gen(3), **options)
    state = torch.get_rng_state()
    blocks = estimate_trace(lambda v: a @ v, 80, generator=gen(3), block=6, **options)
    assert torch.equal(state, torch.get_rng_state())
    assert one.seed == blocks.seed
    assert math.isclose(one.value, blocks.value, rel_tol=1e-10)
    other = estimate_trace(lambda v: a @ v, 80, generator=gen(4), **options)
    assert other.seed != one.seed
    assert other.value != one.value
    single = estimate_trace(lambda v: a.float() @ v, 80, generator=gen(3), dtype=torch.float32, **options)
    assert math.isclose(single.value, float(a.trace()), rel_tol=0.2)
    assert json.loads(json.dumps(one.to_dict()))["method"] == method
    assert f"by {method}, 20 probes of 80 entries" in str(one)


def test_refusals():
    def product(v):
        return v

    with pytest.raises(ValueError, match=r"unknown method 'hutch'; did you mean"):
        estimate_trace(product, 4, method="hutch")
    with pytest.raises(ValueError, match=r"max_probes must be at least 2.*got 1"):
        estimate_trace(product, 4, max_probes=1)
    with pytest.raises(ValueError, match=r"tolerance must be a finite number > 0"):
        estimate_trace(product, 4, tolerance=0.0)
    with pytest.raises(TypeError, match=r"dtype must be float32 or float64, got torch.bfloat16"):
        estimate_trace(product, 4, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"matvec must return shape \(4,\), got \(3,\)"):
        estimate_trace(lambda v: v[:3], 4)
    with pytest.raises(ValueError, match=r"matvec returned NaN or infinity"):
        estimate_trace(lambda v: v / 0, 4)
    with pytest.raises(MemoryBudgetError, match=r'xtrace with 200 probes.*method="hutchinson"'):
        estimate_trace(product, 10_000, method="xtrace", budget=10**6)
