"""Exactly orthogonal kernels, through torch's real layers and through the dense matrix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import jacrev

from isometry.init import delta_orthogonal, orthogonal_convolution, orthogonal_convolution_
from isometry.linalg import conv_defect, conv_singular_values, orthogonal_convolution_exists

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(
    ("out", "in_", "k", "s"),
    [(3, 5, 3, 1), (5, 3, 3, 1), (4, 4, 3, 1), (2, 3, 3, 2), (9, 1, 4, 2), (40, 4, 3, 2), (4, 2, 2, 2), (1, 2, 2, 3)],
)
def test_a_real_layer_has_one_singular_value(ndim, out, in_, k, s):
    layer = CONVS[ndim](
        in_, out, k, stride=s, padding=(k - 1) // 2, padding_mode="circular", bias=False, dtype=torch.float64
    )
    if k % 2 == 0:  # torch pads both sides alike, which on a ring is one position too few for these
        layer.padding_mode, layer.padding = "zeros", (0,) * ndim
    orthogonal_convolution_(layer.weight, stride=s, gain=1.5, generator=gen())
    found = conv_singular_values(layer.weight, 2 * s, stride=s)
    assert torch.allclose(found.values, torch.full_like(found.values, 1.5), atol=1e-12)
    if k % 2 and ndim < 3:
        x = torch.zeros(1, in_, *[3 * s] * ndim, dtype=torch.float64)
        s_values = torch.linalg.svdvals(jacrev(layer)(x).detach().reshape(-1, x.numel()))
        assert torch.allclose(s_values, torch.full_like(s_values, 1.5), atol=1e-12)


sizes = st.tuples(st.integers(1, 6), st.integers(1, 3), st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3),
    st.integers(1, 3)), min_size=1, max_size=2), st.integers(1, 2))  # fmt: skip


@settings(deadline=None, max_examples=120)
@given(sizes)
def test_it_succeeds_exactly_where_one_exists(shape):
    out, in_, axes, groups = shape
    kernel, stride, dilation = (tuple(axis[i] for axis in axes) for i in range(3))
    answer = orthogonal_convolution_exists(out, in_, kernel, stride, dilation=dilation)
    weight = torch.full((groups * out, in_, *kernel), 7.0, dtype=torch.float64)
    if answer:
        orthogonal_convolution_(weight, stride=stride, dilation=dilation, groups=groups, generator=gen())
        assert float(conv_defect(weight, stride=stride, dilation=dilation, groups=groups)) < 1e-24
    else:
        with pytest.raises(ValueError, match=r"no orthogonal convolution has a kernel of shape .*orthonormal .*Change"):
            orthogonal_convolution_(weight, stride=stride, dilation=dilation, groups=groups)
        assert bool((weight == 7).all())


def test_with_stride_one_it_is_delta_orthogonal():
    for shape in ((4, 4, 3, 3), (5, 3, 4), (6, 2, 1, 5)):
        made = orthogonal_convolution(shape, dtype=torch.float64, generator=gen(2))
        assert torch.equal(made, delta_orthogonal(shape, dtype=torch.float64, generator=gen(2)))


def test_a_strided_transposed_layer_is_an_isometry():
    layer = nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=1, bias=False, dtype=torch.float64)
    orthogonal_convolution_(layer.weight, stride=2, generator=gen())
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=gen(1))
    y = layer(x)
    assert torch.allclose(y.flatten(1) @ y.flatten(1).T, x.flatten(1) @ x.flatten(1).T)


def test_the_mixing_is_drawn_at_random_on_all_its_taps():
    weight = orthogonal_convolution((3, 2, 5, 5), stride=2, generator=gen())
    taps = weight.abs().sum(dim=(0, 1)) > 0
    assert taps.nonzero().tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]  # the cell that starts at the centre
    assert bool((weight[:, :, 2:4, 2:4] != 0).all())
    assert not torch.equal(weight, orthogonal_convolution((3, 2, 5, 5), stride=2, generator=gen(1)))


def test_the_message_gives_the_criterion():
    with pytest.raises(
        ValueError, match=r"with stride 2 .*3 output channels, at most 1 \* 1 = 1 are possible\. Change"
    ):
        orthogonal_convolution((3, 1, 1, 1), stride=2)
    with pytest.raises(ValueError, match="the taps read only 1 of the 4 positions of a stride's cell"):
        orthogonal_convolution((5, 1, 1, 1), stride=2)
    with pytest.raises(ValueError, match=r"kernel must have 3, 4 or 5 dimensions .*use orthogonal_"):
        orthogonal_convolution((3, 3))
    with pytest.raises(ValueError, match=r"groups must be a whole number >= 1 that divides the first dimension, got 2"):
        orthogonal_convolution((3, 3, 3), groups=2)
