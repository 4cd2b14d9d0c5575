import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from isometry.init import orthogonal_


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=30)
@given(
    out=st.integers(1, 12),
    in_=st.integers(1, 12),
    gain=st.sampled_from([1e-20, 0.5, 1.0, 3.0, 1e20]),
    seed=st.integers(0, 9),
)
def test_all_singular_values_equal_the_gain(out, in_, gain, seed):
    w = orthogonal_(torch.empty(out, in_, dtype=torch.float64), gain=gain, generator=gen(seed))
    assert torch.allclose(torch.linalg.svdvals(w / gain), torch.ones(min(out, in_), dtype=torch.float64), atol=1e-13)


@pytest.mark.parametrize(("out", "in_"), [(12, 5), (5, 12), (7, 7)])
def test_through_a_real_linear_layer(out, in_):
    layer = nn.Linear(in_, out, bias=False, dtype=torch.float64)
    orthogonal_(layer.weight, gain=2.0, generator=gen())
    if out >= in_:
        x = torch.randn(4, in_, dtype=torch.float64, generator=gen(1))
        assert torch.allclose(layer(x).norm(dim=1), 2 * x.norm(dim=1))
    else:
        back = torch.randn(4, out, dtype=torch.float64, generator=gen(1))
        assert torch.allclose((back @ layer.weight).norm(dim=1), 2 * back.norm(dim=1))


def test_mean_square_of_outputs_is_as_documented():
    for out, in_ in ((300, 100), (100, 300)):
        w = orthogonal_(torch.empty(out, in_, dtype=torch.float64), gain=1.5, generator=gen())
        x = torch.randn(in_, 2000, dtype=torch.float64, generator=gen(1))
        ratio = float((w @ x).square().mean() / x.square().mean())
        assert ratio == pytest.approx(1.5**2 * min(1, in_ / out), rel=0.02)  # 2e5 samples: 1 % is many deviations


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (40, 2, 3), (4, 2, 2, 2, 2)])
def test_kernels_are_flattened(shape):
    w = orthogonal_(torch.empty(shape, dtype=torch.float64), generator=gen()).flatten(1)
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    assert torch.allclose(gram, torch.eye(len(gram), dtype=torch.float64), atol=1e-14)


def test_a_flattened_kernel_is_not_an_orthogonal_convolution():
    conv = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", bias=False, dtype=torch.float64)
    orthogonal_(conv.weight, generator=gen())
    x = torch.randn(50, 4, 6, 6, dtype=torch.float64, generator=gen(1))
    ratio = conv(x).detach().flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
    assert float(ratio.std()) > 0.01


def test_batch_dims_separates_a_stack():
    stack = orthogonal_(torch.empty(3, 2, 4, 6, dtype=torch.float64), batch_dims=2, generator=gen())
    assert torch.allclose(stack @ stack.mT, torch.eye(4, dtype=torch.float64).expand(3, 2, 4, 4))
    one = orthogonal_(torch.empty(3, 2, 4, 6, dtype=torch.float64), generator=gen()).flatten(1)
    assert torch.allclose(one @ one.T, torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("batch_dims", [-1, 1.0, True])
def test_bad_batch_dims(batch_dims):
    with pytest.raises(ValueError, match="batch_dims must be a whole number >= 0, got"):
        orthogonal_(torch.empty(2, 3, 4), batch_dims=batch_dims)
    with pytest.raises(ValueError, match=r"tensor must have at least 3 dimensions, two of them of a matrix"):
        orthogonal_(torch.empty(2, 3), batch_dims=1)


def test_ten_times_as_orthogonal_as_torch():
    def defect(w):
        w = w.double()
        return float((w.T @ w - torch.eye(len(w), dtype=torch.float64)).norm())

    ours, theirs = torch.empty(256, 256), torch.empty(256, 256)
    orthogonal_(ours, generator=gen())
    nn.init.orthogonal_(theirs, generator=gen())
    assert defect(ours) < defect(theirs) / 5
    # Rounding each entry of a unit vector once: |Q^T Q - I|_F is about sqrt(n) eps / 3.
    assert defect(ours) < 256**0.5 * torch.finfo(torch.float32).eps
