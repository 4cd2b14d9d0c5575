"""``matrices`` against what the real layer computes: a helper-shaped test would hide a swapped axis."""

import pytest
import torch
from torch import nn

from isometry import roles


def axes_of(layer, name="weight"):
    row = roles.table(layer)[name]
    return row.axes, dict(layer.named_parameters())[name].detach()


@pytest.mark.parametrize(("inputs", "outputs"), [(6, 4), (4, 6)])
def test_linear(inputs, outputs):
    layer = nn.Linear(inputs, outputs, bias=False)
    axes, weight = axes_of(layer)
    x = torch.randn(3, inputs)
    assert torch.allclose(x @ axes.matrices(weight)[0].T, layer(x), atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("inputs", "outputs"), [(6, 4), (4, 6)])
def test_conv(inputs, outputs, groups):
    layer = nn.Conv2d(inputs, outputs, 3, groups=groups, bias=False)
    axes, weight = axes_of(layer)
    x = torch.randn(1, inputs, 3, 3)
    parts = x.reshape(groups, -1)
    matrices = axes.matrices(weight)
    assert matrices.shape == (groups, outputs // groups, inputs // groups * 9)
    assert torch.allclose(torch.einsum("goi,gi->go", matrices, parts).reshape(-1), layer(x).reshape(-1), atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("inputs", "outputs"), [(6, 4), (4, 6)])
def test_transposed_conv(inputs, outputs, groups):
    layer = nn.ConvTranspose1d(inputs, outputs, 3, padding=2, groups=groups, bias=False)
    axes, weight = axes_of(layer)
    x = torch.randn(1, inputs, 3)
    # With this padding the only output position sees all three taps, the last tap on the first position.
    parts = x[0].flip(-1).reshape(groups, -1)
    matrices = axes.matrices(weight)
    assert matrices.shape == (groups, outputs // groups, inputs // groups * 3)
    assert torch.allclose(torch.einsum("goi,gi->go", matrices, parts).reshape(-1), layer(x).reshape(-1), atol=1e-5)


def test_gates():
    cell = nn.LSTMCell(3, 4)
    axes, weight = axes_of(cell, "weight_ih")
    matrices = axes.matrices(weight)
    assert matrices.shape == (4, 4, 3)
    assert torch.equal(matrices[2], weight[8:12])  # the third block is the cell gate


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.Linear(3, 5), "weight"),
        (nn.Conv3d(4, 6, 2, groups=2), "weight"),
        (nn.ConvTranspose2d(4, 6, (2, 3), groups=2), "weight"),
        (nn.GRU(3, 5), "weight_ih_l0"),
        (nn.Bilinear(2, 3, 4), "weight"),
        (nn.Embedding(5, 3), "weight"),
        (nn.MultiheadAttention(4, 2), "in_proj_weight"),
    ],
)
def test_restore_undoes_matrices(layer, name):
    axes, weight = axes_of(layer, name)
    assert torch.equal(axes.restore(axes.matrices(weight), weight.shape), weight)


def test_batch_of_matrices():
    axes = roles.Axes(out=(2,), in_=(1,), batch=(0,))
    experts = torch.randn(3, 4, 5)
    assert torch.equal(axes.matrices(experts), experts.transpose(1, 2))
    assert torch.equal(axes.restore(axes.matrices(experts), (3, 4, 5)), experts)


def test_refusals():
    with pytest.raises(ValueError, match="not those of a matrix; give Axes with out and in_"):
        roles.Axes(out=(0,)).matrices(torch.zeros(3))
    with pytest.raises(ValueError, match="do not name each dimension of a 3-dimensional tensor once"):
        roles.Axes(out=(0,), in_=(1,)).matrices(torch.zeros(3, 2, 2))
