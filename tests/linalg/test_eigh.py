import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.linalg import eigh, eigvalsh, haar


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def build(values, *, seed=0):
    values = torch.as_tensor(values, dtype=torch.float64)
    q = haar(len(values), len(values), dtype=torch.float64, generator=gen(seed))
    a = (q * values) @ q.mT
    return (a + a.mT) / 2


@settings(deadline=None, max_examples=30)
@given(
    values=st.lists(st.integers(-9, 9), min_size=1, max_size=8),
    exponent=st.integers(-30, 30),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_known_spectra_at_every_scale(values, exponent, dtype):
    a = (build(values) * 10.0**exponent).to(dtype)
    want = torch.tensor(sorted(values), dtype=torch.float64) * 10.0**exponent
    d = eigh(a)
    tolerance = 50 * torch.finfo(dtype).eps * float(want.abs().max())
    assert d.converged
    assert torch.allclose(d.values.double(), want, rtol=0, atol=tolerance)
    assert torch.allclose(eigvalsh(a).values.double(), want, rtol=0, atol=tolerance)
    assert torch.allclose(
        (d.vectors.double() * d.values.double()) @ d.vectors.double().mT, a.double(), rtol=0, atol=2 * tolerance
    )


def test_signs_are_a_convention():
    d = eigh(build([1, 2, 3, 4, 5]))
    assert bool((d.vectors.gather(0, d.vectors.abs().argmax(0, keepdim=True)) > 0).all())


def test_rounding_asymmetry_is_averaged_and_more_is_refused():
    a = build([1, 2, 3])
    a[0, 1] += 1e-9
    assert torch.allclose(eigvalsh(a).values, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), atol=1e-8)
    a[0, 1] += 0.1
    with pytest.raises(ValueError, match=r"a must be symmetric: .* pass \(a \+ a.mT\) / 2"):
        eigh(a)
    with pytest.raises(ValueError, match=r"a must be square, got shape \(2, 3\); use svd"):
        eigvalsh(torch.ones(2, 3))


@pytest.mark.parametrize("function", ["eigh", "eigvalsh"])
def test_failures_are_retried_and_recorded(monkeypatch, function):
    ours = {"eigh": eigh, "eigvalsh": eigvalsh}[function]
    a = build([1, 2, 3]).float()

    def never(*_):
        raise torch.linalg.LinAlgError("no")

    monkeypatch.setattr(torch.linalg, function, never)
    d = ours(a)
    assert d.attempts == ("float32", "float64", "float64, QR iteration")
    assert d.retried
    assert d.values.dtype == torch.float32
    assert torch.allclose(d.values, torch.tensor([1.0, 2.0, 3.0]))


def test_batches_and_low_precision():
    a = torch.stack([torch.diag(torch.tensor([1.0, 2.0])), torch.diag(torch.tensor([4e4, 3e4]))]).bfloat16()
    d = eigh(a)
    assert d.values.dtype == torch.bfloat16
    assert d.dtype == torch.float32
    assert torch.equal(d.values.float(), torch.tensor([[1.0, 2.0], [3e4, 4e4]]).bfloat16().float())
    assert d.scale.tolist() == [4.0, 65536.0]  # frexp: largest entry in [1/2, 1) after scaling
