import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.linalg import haar, qf


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(1, 8), cols=st.integers(1, 8), batch=st.sampled_from([(), (3,)]), seed=st.integers(0, 99))
def test_r_has_a_positive_diagonal(rows, cols, batch, seed):
    a = torch.randn(*batch, rows, cols, dtype=torch.float64, generator=gen(seed))
    q = qf(a)
    assert q.shape == a.shape
    tall_q, tall_a = (q, a) if rows >= cols else (q.mT, a.mT)
    r = tall_q.mT @ tall_a
    assert torch.allclose(tall_q @ r, tall_a, atol=1e-12)
    assert torch.allclose(r, r.triu(), atol=1e-12)
    assert bool((r.diagonal(dim1=-2, dim2=-1) > 0).all())


def test_orthogonal_matrices_are_fixed_points():
    # Without the sign fix this fails for about all of them.
    q = haar(6, 4, batch=(10,), dtype=torch.float64, generator=gen())
    assert torch.allclose(qf(q), q, atol=1e-13)


@pytest.mark.parametrize("a", [torch.zeros(4, 3), torch.ones(4, 3), torch.diag(torch.tensor([1.0, 0.0, -2.0]))])
def test_rank_deficient_input_still_gives_orthonormal_columns(a):
    q = qf(a)
    assert torch.allclose(q.mT @ q, torch.eye(3), atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_does_not_matter(scale):
    a = torch.randn(5, 3, generator=gen())
    assert torch.allclose(qf(a * scale), qf(a), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_runs_in_float32(dtype):
    a = torch.randn(5, 3, generator=gen()).to(dtype)
    assert torch.equal(qf(a), qf(a.float()).to(dtype))


def test_gradient_flows():
    a = torch.randn(4, 3, dtype=torch.float64, generator=gen(), requires_grad=True)
    assert torch.autograd.gradcheck(qf, a)


def test_refuses_what_is_no_finite_real_matrix():
    with pytest.raises(ValueError, match="a must have at least 2 dimensions"):
        qf(torch.ones(3))
    with pytest.raises(ValueError, match="a holds 1 non-finite value"):
        qf(torch.tensor([[float("nan"), 0.0]]))
    with pytest.raises(TypeError, match=r"a's dtype must be real floating point, got torch.complex64"):
        qf(torch.ones(2, 2, dtype=torch.complex64))
    with pytest.raises(ValueError, match="a is on the meta device"):
        qf(torch.ones(2, 2, device="meta"))
