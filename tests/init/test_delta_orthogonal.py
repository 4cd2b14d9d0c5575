"""Every claim goes through a real convolution layer of torch; the helper's own reading of the axes is not trusted."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import jacrev

from isometry.init import delta_orthogonal_

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def operator_singular_values(layer, in_channels, size, ndim):
    """Singular values of the layer's dense matrix between whole images."""
    x = torch.zeros(1, in_channels, *[size] * ndim, dtype=torch.float64)
    matrix = jacrev(layer)(x)
    return torch.linalg.svdvals(matrix.detach().reshape(-1, x.numel()))


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("out", "in_", "groups"), [(3, 3, 1), (5, 3, 1), (4, 4, 2), (8, 4, 2), (3, 3, 3)])
def test_a_circular_convolution_is_an_isometry(ndim, kernel, out, in_, groups):
    layer = CONVS[ndim](
        in_, out, kernel, padding="same", padding_mode="circular", groups=groups, bias=False, dtype=torch.float64
    )
    delta_orthogonal_(layer.weight, gain=1.5, groups=groups, generator=gen())
    size = {1: 7, 2: 5, 3: 5}[ndim]
    x = torch.randn(3, in_, *[size] * ndim, dtype=torch.float64, generator=gen(1))
    y = layer(x)
    # Isometry: inner products, not only norms, are kept (times gain^2).
    assert torch.allclose(y.flatten(1) @ y.flatten(1).T, 1.5**2 * x.flatten(1) @ x.flatten(1).T)


@pytest.mark.parametrize(("kernel", "out", "in_"), [(3, 3, 3), (4, 3, 2), (3, 4, 2)])
def test_all_singular_values_of_the_dense_operator_equal_the_gain(kernel, out, in_):
    layer = nn.Conv2d(in_, out, kernel, padding="same", padding_mode="circular", bias=False, dtype=torch.float64)
    delta_orthogonal_(layer.weight, gain=0.7, generator=gen())
    s = operator_singular_values(layer, in_, 5, 2)
    assert s.shape == (in_ * 25,)
    assert torch.allclose(s, torch.full_like(s, 0.7))


def test_the_transfer_function_is_orthogonal_at_every_frequency():
    kernel = delta_orthogonal_(torch.empty(5, 3, 4, 3, dtype=torch.float64), generator=gen())
    transfer = torch.fft.fft2(kernel, s=(8, 8)).permute(2, 3, 0, 1)  # (8, 8, out, in)
    gram = transfer.mH @ transfer
    assert torch.allclose(gram, torch.eye(3, dtype=gram.dtype).expand_as(gram))


@pytest.mark.parametrize("kernel", [2, 3, 4, 5, 6])
def test_the_centre_tap_leaves_images_unshifted(kernel):
    layer = nn.Conv1d(1, 1, kernel, padding="same", padding_mode="circular", bias=False, dtype=torch.float64)
    delta_orthogonal_(layer.weight, generator=gen())
    x = torch.randn(1, 1, 9, dtype=torch.float64, generator=gen(1))
    assert torch.allclose(layer(x).abs(), x.abs())
    if kernel % 2:  # zero padding is never read (torch warns of its own slowness for even kernels)
        layer.padding_mode = "zeros"
        assert torch.allclose(layer(x).abs(), x.abs())


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("out", "in_", "groups"), [(3, 3, 1), (5, 3, 1), (8, 4, 2), (3, 3, 3)])
def test_a_transposed_convolution_is_an_isometry(ndim, stride, out, in_, groups):
    layer = TRANSPOSED[ndim](in_, out, 3, stride=stride, padding=1, groups=groups, bias=False, dtype=torch.float64)
    delta_orthogonal_(layer.weight, gain=1.5, groups=groups, transposed=True, generator=gen())
    x = torch.randn(3, in_, *[4] * ndim, dtype=torch.float64, generator=gen(1))
    y = layer(x)
    assert torch.allclose(y.flatten(1) @ y.flatten(1).T, 1.5**2 * x.flatten(1) @ x.flatten(1).T)


@pytest.mark.parametrize("transposed", [False, True])
def test_too_few_output_channels_are_explained(transposed):
    kernel = torch.full((4, 3, 3, 3) if transposed else (3, 4, 3, 3), 7.0)
    with pytest.raises(
        ValueError, match=r"maps 4 channels to 3 in each group, and no such map keeps norms.*contracting"
    ):
        delta_orthogonal_(kernel, transposed=transposed)
    assert bool((kernel == 7).all())


def test_contracting_gives_orthonormal_rows():
    layer = nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular", bias=False, dtype=torch.float64)
    delta_orthogonal_(layer.weight, contracting=True, generator=gen())
    s = operator_singular_values(layer, 4, 4, 2)
    assert torch.allclose(s, torch.ones_like(s))  # 48 of them; the 16 dropped directions have none
    assert s.shape == (3 * 16,)
    up = nn.ConvTranspose2d(4, 3, 3, padding=1, bias=False, dtype=torch.float64)
    delta_orthogonal_(up.weight, transposed=True, contracting=True, generator=gen())
    s = operator_singular_values(up, 4, 4, 2)
    assert torch.allclose(s, torch.ones_like(s))


def test_groups_are_independent():
    kernel = delta_orthogonal_(torch.empty(6, 3, 1, dtype=torch.float64), groups=2, generator=gen())
    assert not torch.allclose(kernel[:3], kernel[3:])


@settings(deadline=None, max_examples=20)
@given(
    groups=st.integers(1, 3),
    in_=st.integers(1, 3),
    extra=st.integers(0, 2),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
def test_one_tap_carries_everything(groups, in_, extra, sizes):
    out = in_ + extra
    kernel = delta_orthogonal_(
        torch.empty(groups * out, in_, *sizes, dtype=torch.float64), groups=groups, generator=gen()
    )
    centre = kernel[(..., *((k - 1) // 2 for k in sizes))]
    assert torch.allclose(centre.square().sum(), kernel.square().sum())
    blocks = centre.reshape(groups, out, in_)
    assert torch.allclose(blocks.mT @ blocks, torch.eye(in_, dtype=torch.float64).expand(groups, in_, in_))


def test_other_ranks_and_groups_are_refused():
    with pytest.raises(
        ValueError, match=r"kernel must have 3, 4 or 5 dimensions .*got shape \(3, 3\); use orthogonal_"
    ):
        delta_orthogonal_(torch.empty(3, 3))
    with pytest.raises(ValueError, match="kernel must have 3, 4 or 5 dimensions"):
        delta_orthogonal_(torch.empty(3, 3, 1, 1, 1, 1))
    for groups in (0, 2, 1.0):
        with pytest.raises(ValueError, match=r"groups must be a whole number >= 1 that divides the first dimension"):
            delta_orthogonal_(torch.empty(3, 3, 1), groups=groups)
