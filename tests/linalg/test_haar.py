"""Oracles: the moments of the Haar measure, with QR without the sign fix as the control that must fail them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.linalg import haar, haar_
from isometry.linalg._haar import _multiply_out, _trapezoid

DRAWS = 4000


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def defect(q):
    q = q.double()
    gram = q.mT @ q if q.shape[-2] >= q.shape[-1] else q @ q.mT
    return float((gram - torch.eye(gram.shape[-1], dtype=torch.float64)).abs().max())


def moment_z_scores(q):
    """Standardized deviations from Haar's moments: E tr = 0, E tr^2 = 1, E q_ij = 0 and E q_ij^4 = 3 / (n (n + 2))."""
    n = q.shape[-1]
    trace = q.diagonal(dim1=-2, dim2=-1).sum(-1)
    fourth = q[:, 0, 0] ** 4
    samples = {
        "trace": (trace, 0.0),
        "trace^2": (trace**2, 1.0),
        "q_00": (q[:, 0, 0], 0.0),
        "q_11": (q[:, 1, 1], 0.0),
        "q_last": (q[:, -1, -1], 0.0),
        "q_00^4": (fourth, 3 / (n * (n + 2))),
        "q_00 q_11 - q_01 q_10": ((q[:, 0, 0] * q[:, 1, 1] - q[:, 0, 1] * q[:, 1, 0]), 0.0),
        "q_00^2 q_11^2": (q[:, 0, 0] ** 2 * q[:, 1, 1] ** 2, (n + 1) / (n * (n + 2) * (n - 1))),
        "det": (torch.linalg.det(q), 0.0),
    }
    return {name: float(abs(s.mean() - want) / (s.std() / len(s) ** 0.5)) for name, (s, want) in samples.items()}


def test_moments_are_haars():
    z = moment_z_scores(haar(6, 6, batch=(DRAWS,), dtype=torch.float64, generator=gen(1)))
    assert max(z.values()) < 4.5, z  # nine standard normal scores: above 4.5 with probability 6e-5


@pytest.mark.parametrize("n", [1, 2, 3])
def test_determinants_of_small_matrices_are_balanced(n):
    # For n = 1 the matrix is a fair sign; both components of O(n) carry half of the mass.
    det = torch.linalg.det(haar(n, n, batch=(DRAWS,), dtype=torch.float64, generator=gen(2)))
    assert torch.allclose(det.abs(), torch.ones_like(det))
    assert abs(float(det.mean())) < 4.5 / DRAWS**0.5


def test_the_same_moments_refute_qr_without_the_sign_fix():
    raw = torch.linalg.qr(torch.randn(DRAWS, 6, 6, dtype=torch.float64, generator=gen(1))).Q
    assert moment_z_scores(raw)["trace"] > 50
    signed = raw * torch.linalg.qr(torch.randn(1, 6, 6, dtype=torch.float64, generator=gen(1))).R.diagonal(
        dim1=-2, dim2=-1
    ).sign().unsqueeze(-2)
    assert moment_z_scores(signed)["trace"] > 4.5  # signs of another matrix do not help


def test_equals_the_qr_of_the_gaussian_matrix_that_the_reflectors_came_from():
    """The naive route: peel one Gaussian vector after another off with explicit reflections."""
    m, n = 7, 4
    drawn = torch.randn(n, m, dtype=torch.float64, generator=gen(3))
    fast = _multiply_out(drawn.clone(), 1.0)
    q = torch.eye(m, dtype=torch.float64)
    columns = torch.zeros(m, n, dtype=torch.float64)
    for i in range(n):
        x = drawn[i, i:]
        # The Gaussian matrix whose i-th column, under the reflections so far, is (r_1 .. r_{i-1}, x).
        columns[:, i] = q @ torch.cat([torch.randn(i, dtype=torch.float64, generator=gen(9)), x])
        v = x.clone()
        v[0] += torch.sign(x[0]) * x.norm()
        h = torch.eye(m, dtype=torch.float64)
        h[i:, i:] -= 2 * torch.outer(v, v) / v.dot(v)
        q = q @ h
    factor, r = torch.linalg.qr(columns)
    assert torch.allclose(fast, factor * r.diagonal().sign(), atol=1e-12)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (4, 4), (5, 5), (3, 7), (4, 7), (6, 7)])
def test_every_drawn_number_is_used_at_most_once(n, m, monkeypatch):
    def numbered(shape, **_):
        return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)

    monkeypatch.setattr("isometry.linalg._haar.standard_normal", numbered)
    x = _trapezoid(2, n, m, torch.empty(1), None)
    used = [float(x[b, i, j]) for b in range(2) for i in range(n) for j in range(i, m)]
    assert len(set(used)) == len(used)


def test_in_place_equals_pure_also_for_strided_and_chunked_output(monkeypatch):
    want = haar(5, 3, batch=(4,), generator=gen())
    strided = torch.empty(4, 3, 5).mT
    assert haar_(strided, generator=gen()) is strided
    assert torch.equal(strided, want)
    monkeypatch.setattr("isometry.linalg._haar._CPU_CHUNK", 2 * 15)  # two matrices at a time
    chunked = haar(5, 3, batch=(4,), dtype=torch.float64, generator=gen())
    assert defect(chunked) < 1e-14
    assert len({float(q[0, 0]) for q in chunked}) == 4


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(1, 12), cols=st.integers(1, 12), batch=st.sampled_from([(), (1,), (2, 3)]))
def test_orthonormal_for_every_shape(rows, cols, batch):
    q = haar(rows, cols, batch=batch, dtype=torch.float64, generator=gen())
    assert q.shape == (*batch, rows, cols)
    assert q.is_contiguous()
    assert defect(q) < 1e-14


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # An entry is rounded by at most eps / 2 of itself, and the rows have length one: eps bounds the Gram's entries.
    [(torch.float64, 1e-14), (torch.float32, 1.2e-7), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)],
)
def test_dtypes_are_rounded_once(dtype, tolerance):
    q = haar(40, 40, dtype=dtype, generator=gen())
    assert q.dtype == dtype
    assert defect(q) < tolerance
    if dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(q, haar(40, 40, generator=gen()).to(dtype))


def test_members_of_a_batch_differ():
    q = haar(5, 5, batch=(2,), generator=gen())
    assert not torch.allclose(q[0], q[1])


def test_generator_decides_and_the_global_stream_stays():
    before = torch.get_rng_state()
    assert torch.equal(haar(4, 4, generator=gen(5)), haar(4, 4, generator=gen(5)))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(0)
    first = haar(4, 4)
    torch.manual_seed(0)
    assert torch.equal(first, haar(4, 4))


def test_scale_multiplies_the_matrix():
    q = haar(4, 4, scale=3.0, dtype=torch.float64, generator=gen())
    assert torch.allclose(q, 3 * haar(4, 4, dtype=torch.float64, generator=gen()))


def test_an_all_zero_draw_still_gives_an_orthogonal_matrix(monkeypatch):
    monkeypatch.setattr("isometry.linalg._haar.standard_normal", lambda shape, **_: torch.zeros(shape))
    assert defect(haar(3, 3)) == 0


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"rows": 0, "cols": 2}, ValueError, "rows must be at least 1, got 0"),
        ({"rows": 2, "cols": 2.0}, TypeError, "cols must be an integer, got float"),
        ({"rows": 2, "cols": 2, "batch": (0,)}, ValueError, r"batch\[0\] must be at least 1"),
        ({"rows": 2, "cols": 2, "dtype": torch.complex64}, TypeError, "dtype must be real floating point, got"),
        ({"rows": 2, "cols": 2, "dtype": torch.int64}, TypeError, "dtype must be real floating point, got"),
        ({"rows": 2, "cols": 2, "scale": float("nan")}, ValueError, "scale must be a finite number"),
    ],
)
def test_bad_arguments(kwargs, error, text):
    with pytest.raises(error, match=text):
        haar(**kwargs)
