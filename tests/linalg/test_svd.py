import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.linalg import haar, svd, svdvals


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def build(rows, cols, values, *, dtype=torch.float64, seed=0):
    k = min(rows, cols)
    u = haar(rows, k, dtype=torch.float64, generator=gen(seed))
    v = haar(cols, k, dtype=torch.float64, generator=gen(seed + 1))
    return ((u * torch.as_tensor(values, dtype=torch.float64)) @ v.mT).to(dtype)


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 9), cols=st.integers(1, 9), exponent=st.integers(-30, 30), batch=st.sampled_from([(), (2,)]))
def test_reconstructs_at_every_scale(rows, cols, exponent, batch):
    a = torch.randn(*batch, rows, cols, generator=gen()) * 10.0**exponent
    d = svd(a)
    assert d.converged
    assert not d.retried
    back = (d.u.double() * d.values.double().unsqueeze(-2)) @ d.vh.double()
    assert torch.allclose(back, a.double(), rtol=1e-4, atol=3e-6 * float(a.abs().max()))
    assert torch.allclose(svdvals(a).values, d.values, rtol=1e-4, atol=1e-5 * float(d.values.max()))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_small_values_survive_the_scale(scale):
    a = build(6, 6, [1, 0.5, 0.1, 0.05, 0.01, 0.001]) * scale
    want = torch.tensor([1, 0.5, 0.1, 0.05, 0.01, 0.001]) * scale
    assert torch.allclose(svdvals(a.float()).values, want, rtol=1e-3, atol=0)


def test_the_scale_is_a_power_of_two_and_exact():
    a = torch.randn(4, 4, generator=gen())
    assert torch.equal(svdvals(a).values, svdvals(a * 2.0**70).values * 2.0**-70)
    assert float(svdvals(torch.full((1, 1), 3e-30)).scale) == 2.0**-98


def test_the_smallest_subnormal_and_the_zero_matrix():
    assert float(svdvals(torch.full((1, 1), 1e-45)).values[0]) == pytest.approx(1e-45)
    d = svd(torch.zeros(3, 2))
    assert d.converged
    assert d.residual == 0
    assert torch.equal(d.values, torch.zeros(2))


def test_signs_are_a_convention():
    a = torch.randn(5, 4, dtype=torch.float64, generator=gen())
    d = svd(a)
    largest = d.u.gather(0, d.u.abs().argmax(0, keepdim=True))
    assert bool((largest > 0).all())
    flipped = svd(-a)  # -A = U S (-V)^T: the left vectors must not move
    assert torch.allclose(flipped.u, d.u, atol=1e-12)
    assert torch.allclose(flipped.vh, -d.vh, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_worked_in_float32_and_cast_back(dtype):
    a = torch.randn(4, 3, generator=gen()).to(dtype)
    d = svd(a)
    assert d.dtype == torch.float32
    assert d.values.dtype == d.u.dtype == d.vh.dtype == dtype
    assert torch.equal(d.values, svdvals(a, dtype=torch.float32).values.to(dtype))


def test_float64_on_request_resolves_small_values():
    want = [1.0, 1e-6, 1e-10]
    a = build(3, 3, want)
    assert svdvals(a, dtype=torch.float64).values[-1] == pytest.approx(1e-10, rel=1e-5)
    assert svdvals(a.float(), dtype=torch.float64).values.dtype == torch.float64


def broken(times):
    """A driver that fails the first few times: by raising, then by returning NaN."""
    real, calls = torch.linalg.svd, []

    def driver(a, **kwargs):
        calls.append(a.dtype)
        if len(calls) > times:
            return real(a, **kwargs)
        if len(calls) % 2:
            raise torch.linalg.LinAlgError("did not converge")
        u, s, vh = real(a, **kwargs)
        return u, s * float("nan"), vh

    return driver


@pytest.mark.parametrize(
    ("failures", "attempts"),
    [
        (0, ("float32",)),
        (1, ("float32", "float64")),
        (2, ("float32", "float64", "float64, QR iteration")),
    ],
)
def test_failures_are_retried_and_recorded(monkeypatch, failures, attempts):
    a = torch.randn(2, 5, 3, generator=gen())
    want = svd(a)
    monkeypatch.setattr(torch.linalg, "svd", broken(failures))
    d = svd(a)
    assert d.attempts == attempts
    assert d.retried == (failures > 0)
    assert d.converged
    assert d.values.dtype == torch.float32
    assert torch.allclose(d.values, want.values, atol=1e-5)
    assert torch.allclose(d.u, want.u, atol=1e-4)


def test_a_wrong_answer_is_noticed_by_its_residual(monkeypatch):
    real = torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda a, **k: (real(a, **k)[0], real(a, **k)[1] * 1.5, real(a, **k)[2]))
    d = svd(torch.randn(4, 4, dtype=torch.float64, generator=gen()))
    assert d.attempts == ("float64", "float64, QR iteration")
    assert d.converged


def test_giving_up_is_an_error(monkeypatch):
    def never(*_, **__):
        raise torch.linalg.LinAlgError("no")

    monkeypatch.setattr(torch.linalg, "svd", never)
    monkeypatch.setattr("scipy.linalg.svd", never)
    with pytest.raises(RuntimeError, match=r"no attempt .* decomposed a matrix of shape"):
        svd(torch.ones(2, 2))


def test_result_is_frozen_plain_and_detached():
    a = torch.randn(3, 3, requires_grad=True)
    d = svd(a)
    assert not d.u.requires_grad
    with pytest.raises(AttributeError):
        d.residual = 0.0
    written = json.loads(json.dumps(d.to_dict()))
    assert written["converged"] is True
    assert "u" not in written


@pytest.mark.parametrize("function", [svd, svdvals])
def test_bad_input(function):
    with pytest.raises(ValueError, match="a holds 2 non-finite values"):
        function(torch.tensor([[float("inf"), float("nan")]]))
    with pytest.raises(ValueError, match="a is empty"):
        function(torch.ones(0, 3))
    with pytest.raises(TypeError, match=r"a must be a torch.Tensor, got list"):
        function([[1.0]])
    with pytest.raises(TypeError, match=r"real floating point, got torch.int64"):
        function(torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"beyond the range of torch.float32"):
        function(torch.full((20, 20), 3e38))
