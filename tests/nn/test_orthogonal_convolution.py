"""The penalty of a convolution: what zero means under each padding, by the dense matrix."""

import math

import pytest
import torch
from torch.nn import functional

from isometry.init import orthogonal_convolution
from isometry.linalg import conv_defect, conv_matrix
from isometry.nn import conv_case, orthogonal_convolution_exists, orthogonal_convolution_penalty


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def dense_gap(weight, size, stride, padding_mode):
    a = conv_matrix(weight, size, stride=stride, padding_mode=padding_mode)
    gram = a @ a.mT if a.shape[0] <= a.shape[1] else a.mT @ a
    return float((gram - torch.eye(len(gram), dtype=gram.dtype)).square().sum())


@pytest.mark.parametrize(("m", "c", "k", "s"), [(2, 3, 3, 1), (5, 2, 3, 1), (3, 3, 5, 1), (3, 1, 3, 2), (9, 2, 3, 2)])
def test_it_is_the_published_penalty(m, c, k, s):
    weight = 0.4 * torch.randn(m, c, k, k, dtype=torch.float64, generator=gen())
    pad = (k - 1) // s * s
    gram = functional.conv2d(weight, weight, stride=s, padding=pad)
    gram[:, :, pad // s, pad // s] -= torch.eye(m, dtype=torch.float64)
    published = gram.square().sum() - max(0, m - c * s * s)
    assert torch.allclose(orthogonal_convolution_penalty(weight, s), published, rtol=1e-12)


def test_zero_padding_asks_for_more():
    shift = torch.zeros(1, 1, 3, dtype=torch.float64)
    shift[..., 2] = 1
    assert float(orthogonal_convolution_penalty(shift)) == 0
    assert float(orthogonal_convolution_penalty(shift, padding_mode="zeros")) == 1
    assert dense_gap(shift, 6, 1, "zeros") == 1  # the position that falls off the end
    assert float(orthogonal_convolution_penalty(shift.flip(-1), padding_mode="zeros")) == 1


@pytest.mark.parametrize(
    ("m", "c", "kernel", "s"), [(3, 3, (3,), 1), (2, 1, (5,), 2), (5, 2, (4,), 2), (2, 2, (3, 3), 1), (4, 1, (3, 3), 2)]
)
def test_its_zeros_under_zero_padding_are_the_orthogonal_layers(m, c, kernel, s):
    # Orthogonal on the cell's taps alone: zero. Anything added outside of the cell costs its square, at the least.
    weight = orthogonal_convolution((m, c, *kernel), stride=s, dtype=torch.float64, generator=gen())
    assert float(orthogonal_convolution_penalty(weight, s, "zeros")) < 1e-24
    assert dense_gap(weight, 4 * s, s, "zeros") < 1e-24
    outside = weight.clone()
    outside[(..., *[0] * len(kernel))] += 0.1
    first = (weight == 0).all(dim=0).all(dim=0).flatten()[0]  # tap 0 lies outside of the cell
    assert bool(first)
    expected = conv_defect(outside, stride=s) + 0.01 * m * c
    assert torch.allclose(orthogonal_convolution_penalty(outside, s, "zeros"), expected)
    assert dense_gap(outside, 4 * s, s, "zeros") > 1e-3


def test_minimizing_the_zero_padded_penalty_gives_an_orthogonal_layer():
    weight = (0.5 * torch.randn(2, 2, 3, dtype=torch.float64, generator=gen())).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-14, tolerance_change=0
    )

    def closure():
        optimizer.zero_grad()
        loss = orthogonal_convolution_penalty(weight, padding_mode="zeros")
        loss.backward()
        return loss

    optimizer.step(closure)
    assert closure().item() < 1e-12
    assert dense_gap(weight.detach(), 7, 1, "zeros") < 1e-10
    assert weight[..., [0, 2]].abs().max().item() < 1e-5  # pointwise


def test_without_padding_it_is_exact_for_rows():
    weight = 0.5 * torch.randn(2, 2, 3, dtype=torch.float64, generator=gen())
    # |A A^T - I|^2 counts the displacement p as often as it fits among the N outputs: N - |p| times.
    n, k = 8, weight
    gram = functional.conv1d(k, k, padding=2) - functional.pad(torch.eye(2, dtype=torch.float64)[..., None], (2, 2))
    counts = torch.tensor([n - abs(p) for p in range(-2, 3)], dtype=torch.float64)
    assert dense_gap(weight, n + 2, 1, "valid") == pytest.approx(float((gram.square().sum((0, 1)) * counts).sum()))
    assert torch.equal(orthogonal_convolution_penalty(weight, padding_mode="valid"), conv_defect(weight))
    made = orthogonal_convolution((2, 2, 3), dtype=torch.float64, generator=gen())
    assert dense_gap(made, 9, 1, "valid") < 1e-24


def test_without_padding_columns_are_refused_unless_windows_tile():
    weight = torch.ones(5, 1, 2, 2)
    assert orthogonal_convolution_penalty(weight, 2, "valid") == orthogonal_convolution_penalty(weight, 2)
    with pytest.raises(
        ValueError, match=r'padding_mode="valid": no such convolution is orthogonal; orthonormal columns'
    ):
        orthogonal_convolution_penalty(weight, 1, "valid")
    with pytest.raises(ValueError, match=r'Pass padding_mode="circular" for the penalty that governs the image'):
        orthogonal_convolution_penalty(torch.ones(10, 1, 3, 3), 1, "valid", groups=2)


@pytest.mark.parametrize("padding_mode", ["circular", "zeros", "valid"])
def test_gradients(padding_mode):
    for shape, s in (((2, 2, 3), 1), ((2, 1, 3, 2), 2), ((2, 3, 2, 2), 1)):
        weight = torch.randn(shape, dtype=torch.float64, generator=gen()).requires_grad_()
        assert torch.autograd.gradcheck(lambda w, s=s: orthogonal_convolution_penalty(w, s, padding_mode), weight)


def test_columns_have_the_published_gradient():
    weight = (torch.randn(7, 2, 3, 3, dtype=torch.float64, generator=gen()) / 5).requires_grad_()
    gram = functional.conv2d(weight, weight, padding=2)
    target = torch.zeros_like(gram)
    target[:, :, 2, 2] = torch.eye(7, dtype=torch.float64)
    published = torch.autograd.grad((gram - target).square().sum(), weight)[0]
    ours = torch.autograd.grad(orthogonal_convolution_penalty(weight), weight)[0]
    assert torch.allclose(ours, published)


def test_half_precision_accumulates_in_float32():
    weight = (torch.randn(8, 8, 3, 3, generator=gen()) / 8).half().requires_grad_()
    for mode in ("circular", "zeros"):
        penalty = orthogonal_convolution_penalty(weight, padding_mode=mode)
        assert penalty.dtype == torch.float32
        exact = orthogonal_convolution_penalty(weight.detach().double(), padding_mode=mode)
        assert torch.allclose(penalty.double(), exact, rtol=1e-5)
        assert torch.autograd.grad(penalty, weight)[0].dtype == torch.float16


def test_zero_padding_with_groups_and_dilation():
    weight = torch.zeros(4, 1, 3, dtype=torch.float64)
    weight[:, 0, 1] = torch.tensor([1.0, -1.0, 1.0, 1.0])
    assert float(orthogonal_convolution_penalty(weight, 1, "zeros", groups=4, dilation=2)) == 0
    weight[0, 0, 2] = 0.5  # the dilated tap at +2: outside, and shared with the neighbour two places on
    assert float(orthogonal_convolution_penalty(weight, 1, "zeros", groups=4, dilation=2)) == pytest.approx(
        0.5**2 + 0.25**2 + 2 * 0.5**2
    )


def test_the_names_of_the_room():
    assert conv_case(4, 1, 3, 2) == "square"
    assert orthogonal_convolution_exists(4, 1, 3, 2).exists
    with pytest.raises(ValueError, match="unknown padding_mode 'same'"):
        orthogonal_convolution_penalty(torch.ones(1, 1, 3), padding_mode="same")
    with pytest.raises(ValueError, match="weight must have 3, 4 or 5 dimensions"):
        orthogonal_convolution_penalty(torch.ones(3, 3))
    assert math.isfinite(float(orthogonal_convolution_penalty(torch.zeros(2, 2, 3))))
