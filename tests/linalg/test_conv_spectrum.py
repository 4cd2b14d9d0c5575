"""Convolutions as matrices. The oracles: torch's own layers, fed the identity; the alias formula; naive loops."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import jacrev
from torch.nn import functional

from isometry._base import MemoryBudgetError
from isometry.linalg import conv_defect, conv_matrix, conv_singular_values, isometry_bound

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
# (out, in, kernel, stride): rows, columns and square; odd, even and unequal kernels; one to three dimensions
CASES = [
    (2, 3, (3,), (1,)),
    (5, 2, (3,), (1,)),
    (4, 2, (5,), (2,)),
    (3, 2, (4,), (2,)),
    (5, 1, (2,), (3,)),
    (3, 3, (3, 3), (1, 1)),
    (2, 3, (3, 2), (1, 1)),
    (9, 2, (3, 3), (2, 2)),
    (3, 2, (3, 4), (2, 1)),
    (8, 2, (2, 2), (2, 2)),
    (2, 1, (1, 5), (1, 2)),
    (2, 2, (2, 1, 3), (1, 1, 2)),
]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def kernel_of(out, in_, kernel, seed=0):
    scale = 1 / math.sqrt(in_ * math.prod(kernel))
    return scale * torch.randn(out, in_, *kernel, dtype=torch.float64, generator=gen(seed))


def torch_matrix(weight, size, stride, padding_mode, dilation=None, groups=1):
    """The matrix of torch's own convolution, by its Jacobian."""
    ndim = weight.ndim - 2
    dilation = dilation or (1,) * ndim
    function = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[ndim]
    pad = []
    for k, d in zip(reversed(weight.shape[2:]), reversed(dilation), strict=True):
        total = 0 if padding_mode == "valid" else d * (k - 1)
        pad += [total // 2, total - total // 2]
    mode = "circular" if padding_mode == "circular" else "constant"

    def layer(x):
        return function(functional.pad(x, pad, mode=mode), weight, stride=stride, dilation=dilation, groups=groups)

    x = torch.zeros(1, groups * weight.shape[1], *size, dtype=weight.dtype)
    return jacrev(layer)(x).reshape(-1, x.numel())


def naive_defect(weight, stride):
    """L_orth as published: torch's convolution of the kernel with itself, the identity taken off its centre."""
    m, k = weight.shape[0], weight.shape[2:]
    function = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[weight.ndim - 2]
    pad = [(length - 1) // s * s for length, s in zip(k, stride, strict=True)]
    gram = function(weight, weight, stride=stride, padding=pad)
    centre = (slice(None), slice(None), *(p // s for p, s in zip(pad, stride, strict=True)))
    target = torch.zeros_like(gram)
    target[centre] = torch.eye(m, dtype=weight.dtype)
    return (gram - target).square().sum() - max(0, m - weight.shape[1] * math.prod(stride))


def gap(matrix):
    rows, columns = matrix.shape
    gram = matrix @ matrix.mT if rows <= columns else matrix.mT @ matrix
    return gram - torch.eye(len(gram), dtype=matrix.dtype)


@pytest.mark.parametrize("padding_mode", ["circular", "zeros", "valid"])
@pytest.mark.parametrize(("out", "in_", "kernel", "stride"), CASES)
def test_the_matrix_is_that_of_torch(out, in_, kernel, stride, padding_mode):
    weight = kernel_of(out, in_, kernel)
    size = tuple(6 if len(kernel) < 3 else 4 for _ in kernel)
    matrix = conv_matrix(weight, size, stride=stride, padding_mode=padding_mode)
    assert torch.allclose(matrix, torch_matrix(weight, size, stride, padding_mode), atol=1e-14)


@pytest.mark.parametrize("padding_mode", ["circular", "zeros", "valid"])
def test_groups_and_dilation_are_those_of_torch(padding_mode):
    weight = kernel_of(6, 2, (3, 2))
    matrix = conv_matrix(weight, (7, 6), stride=(1, 2), padding_mode=padding_mode, dilation=(2, 3), groups=3)
    assert torch.allclose(matrix, torch_matrix(weight, (7, 6), (1, 2), padding_mode, (2, 3), 3), atol=1e-14)


def test_the_layer_as_people_write_it_has_this_matrix():
    for mode in ("circular", "zeros"):
        layer = nn.Conv2d(2, 3, 3, stride=2, padding=1, padding_mode=mode, bias=False, dtype=torch.float64)
        x = torch.randn(4, 2, 8, 8, dtype=torch.float64, generator=gen())
        matrix = conv_matrix(layer.weight, 8, stride=2, padding_mode=mode)
        assert torch.allclose(x.flatten(1) @ matrix.mT, layer(x).flatten(1), atol=1e-14)


@pytest.mark.parametrize("padding_mode", ["circular", "zeros", "valid"])
@pytest.mark.parametrize(("out", "in_", "kernel", "stride"), CASES)
def test_the_spectrum_is_that_of_the_dense_operator(out, in_, kernel, stride, padding_mode):
    weight = kernel_of(out, in_, kernel, 1)
    size = tuple(6 if s != 2 else 8 for s in stride) if len(kernel) < 3 else (3, 4, 4)
    found = conv_singular_values(weight, size, stride=stride, padding_mode=padding_mode)
    dense = torch.linalg.svdvals(torch_matrix(weight, size, stride, padding_mode))
    assert found.values.shape == dense.shape
    assert torch.allclose(found.values, dense, atol=1e-12)
    assert found.method == ("fourier" if padding_mode == "circular" else "dense")
    assert found.residual < 1e-12
    assert found.largest == found.values[0]
    assert found.smallest == found.values[-1]
    assert found.defect == pytest.approx(float(torch.linalg.matrix_norm(gap(conv_matrix(
        weight, size, stride=stride, padding_mode=padding_mode)), 2)), abs=1e-12)  # fmt: skip


@pytest.mark.parametrize("size", [5, 6])
def test_with_stride_one_it_is_the_transform_of_sedghi(size):
    weight = kernel_of(3, 2, (3, 3))
    transfer = torch.fft.fft2(weight, s=(size, size)).permute(2, 3, 0, 1)
    values = torch.linalg.svdvals(transfer).flatten().sort(descending=True).values
    assert torch.allclose(conv_singular_values(weight, size).values, values, atol=1e-13)


def test_with_a_stride_it_is_the_aliases_side_by_side():
    weight, s, n = kernel_of(3, 2, (3, 3)), 2, 5
    transfer = torch.fft.fft2(weight, s=(s * n, s * n)).permute(2, 3, 0, 1)
    blocks = [transfer[a * n : (a + 1) * n, b * n : (b + 1) * n] for a in range(s) for b in range(s)]
    values = torch.linalg.svdvals(torch.cat(blocks, dim=-1) / s).flatten().sort(descending=True).values
    assert torch.allclose(conv_singular_values(weight, s * n, stride=s).values, values, atol=1e-13)


def test_a_kernel_longer_than_the_image_wraps_around():
    weight = kernel_of(2, 2, (5,))
    wrapped = torch.stack([weight[..., [0, 3]].sum(-1), weight[..., [1, 4]].sum(-1), weight[..., 2]], -1)
    found = conv_singular_values(weight, 3)
    assert torch.allclose(found.values, conv_singular_values(wrapped, 3).values)
    assert torch.allclose(found.values, torch.linalg.svdvals(conv_matrix(weight, 3)), atol=1e-13)
    assert found.residual < 1e-13


def test_a_stride_that_does_not_divide_the_ring_is_done_densely():
    weight = kernel_of(2, 2, (3,))
    found = conv_singular_values(weight, 7, stride=2)
    assert found.method == "dense"
    assert torch.allclose(found.values, torch.linalg.svdvals(torch_matrix(weight, (7,), (2,), "circular")))
    assert found.residual < 1e-13


def test_groups_dilation_and_the_transposed_layer_have_their_spectra():
    weight = kernel_of(6, 2, (3, 2))
    found = conv_singular_values(weight, (8, 6), stride=(1, 2), dilation=(2, 3), groups=3)
    dense = torch.linalg.svdvals(torch_matrix(weight, (8, 6), (1, 2), "circular", (2, 3), 3))
    assert torch.allclose(found.values, dense, atol=1e-12)
    layer = nn.ConvTranspose1d(3, 2, 2, stride=2, bias=False, dtype=torch.float64)  # k = S: no padding to speak of
    adjoint = jacrev(layer)(torch.zeros(1, 3, 4, dtype=torch.float64)).detach().reshape(-1, 12)
    found = conv_singular_values(layer.weight, 8, stride=2)
    assert torch.allclose(found.values, torch.linalg.svdvals(adjoint), atol=1e-13)


def test_chunks_change_nothing(monkeypatch):
    from isometry.linalg import _conv_spectrum

    weight = kernel_of(3, 2, (3, 3))
    whole = conv_singular_values(weight, 12).values
    monkeypatch.setattr(_conv_spectrum, "_CHUNK", 40)
    assert torch.allclose(conv_singular_values(weight, 12).values, whole, atol=1e-14)


def test_half_precision_and_float32():
    weight = kernel_of(4, 3, (3, 3)).bfloat16()
    found = conv_singular_values(weight, 6)
    assert found.values.dtype == found.dtype == torch.float32
    assert torch.allclose(found.values.double(), conv_singular_values(weight.double(), 6).values, atol=2e-6)
    assert conv_defect(weight).dtype == torch.float32
    assert torch.allclose(conv_defect(weight).double(), conv_defect(weight.double()), rtol=1e-6)


# L_orth


@pytest.mark.parametrize("small", [0, 256])
@pytest.mark.parametrize(("out", "in_", "kernel", "stride"), CASES)
def test_the_defect_is_the_published_one(out, in_, kernel, stride, small, monkeypatch):
    from isometry.linalg import _conv_defect

    monkeypatch.setattr(_conv_defect, "_SMALL", small)  # displacement by displacement, or all pairs of taps at once
    weight = kernel_of(out, in_, kernel)
    assert torch.allclose(conv_defect(weight, stride=stride), naive_defect(weight, stride), rtol=1e-12)


@pytest.mark.parametrize(("out", "in_", "kernel", "stride"), CASES)
def test_the_frobenius_identity(out, in_, kernel, stride):
    weight = kernel_of(out, in_, kernel)
    size = tuple(s * (2 * ((k - 1) // s) + 1) for k, s in zip(kernel, stride, strict=True))
    for extra in (0, 1):
        sides = tuple(n + extra * s for n, s in zip(size, stride, strict=True))
        exact = float(torch.linalg.matrix_norm(gap(torch_matrix(weight, sides, stride, "circular"))))
        bound = isometry_bound(weight, stride, "frobenius", size=sides)
        assert bound.value == pytest.approx(exact, rel=1e-10)
        assert bound.form is None


def test_below_its_size_the_identity_fails_and_the_bound_refuses():
    weight = kernel_of(3, 2, (3, 3))
    exact = gap(conv_matrix(weight, 4)).square().sum()
    assert abs(float(exact / (16 * conv_defect(weight))) - 1) > 0.01
    with pytest.raises(ValueError, match=r"size \(4, 4\) is too small for the identity, which takes at least \(5, 5\)"):
        isometry_bound(weight, 1, "frobenius", size=4)


def test_with_stride_two_and_kernel_three_no_displacement_is_missed_and_the_identity_sits_at_zero():
    # Padding the self-correlation by 1, as a released implementation does by default, looks at -1 and +1 only.
    weight = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    weight[..., 0, 0] = 1
    assert float(conv_defect(weight, stride=2)) == 0
    skewed = functional.conv2d(weight, weight, stride=2, padding=1)
    assert float(skewed.abs().sum()) == 0  # a perfect kernel would be told that its identity is missing
    # With stride 1 the same padding misses the displacement 2.
    weight = torch.tensor([[[1.0, 0.0, 1.0]]], dtype=torch.float64) / math.sqrt(2)
    assert float(functional.conv1d(weight, weight, padding=1).sub(torch.tensor([0.0, 1.0, 0.0])).square().sum()) < 1e-30
    assert float(conv_defect(weight)) == pytest.approx(0.5)


def test_near_zero_the_defect_of_many_channels_keeps_its_digits():
    # 512 x 3 in float32: M - C = 509 is subtracted in the published form, whose rounding is then near 1e-4.
    q = torch.linalg.qr(torch.randn(512, 3, dtype=torch.float64, generator=gen()))[0]
    weight = torch.zeros(512, 3, 3)
    weight[..., 1] = q
    assert 0 <= float(conv_defect(weight)) < 1e-12


@pytest.mark.parametrize("small", [0, 256])
def test_groups_add_up_and_dilation_of_an_unstrided_kernel_changes_nothing(small, monkeypatch):
    from isometry.linalg import _conv_defect

    monkeypatch.setattr(_conv_defect, "_SMALL", small)
    weight = kernel_of(6, 2, (3, 3))
    parts = sum(conv_defect(part) for part in weight.chunk(3))
    assert torch.allclose(conv_defect(weight, groups=3), parts)
    assert torch.allclose(conv_defect(weight, dilation=2), conv_defect(weight))
    bound = isometry_bound(weight, groups=3, form="tight")
    assert bound.value == pytest.approx(max(isometry_bound(p, form="tight").value for p in weight.chunk(3)))


@pytest.mark.parametrize("small", [0, 256])
def test_gradients(small, monkeypatch):
    from isometry.linalg import _conv_defect

    monkeypatch.setattr(_conv_defect, "_SMALL", small)
    for out, in_, kernel, stride in CASES[:8]:
        weight = kernel_of(out, in_, kernel).requires_grad_()
        assert torch.autograd.gradcheck(lambda w, s=stride: conv_defect(w, stride=s), weight)
    weight = kernel_of(4, 1, (2, 2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: conv_defect(w, stride=3, dilation=2, groups=2), weight)
    assert torch.autograd.gradcheck(lambda w: conv_matrix(w, 3, padding_mode="zeros"), weight)


def test_autocast_does_not_round():
    weight = kernel_of(4, 4, (3, 3)).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = conv_defect(weight)
    assert torch.equal(inside, conv_defect(weight))


sizes = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3))


@settings(deadline=None, max_examples=60)
@given(sizes, st.integers(1, 7), st.floats(0.0, 2.0), st.integers(0, 10_000), st.sampled_from([1, 2]))
def test_the_spectral_bounds_hold_for_every_size(shape, n, noise, seed, ndim):
    out, in_, k, s = shape
    # From exactly orthogonal, where the sizes allow it, to far away.
    weight = torch.zeros(out, in_, *[k] * ndim, dtype=torch.float64)
    weight[(..., *[0] * ndim)] = torch.linalg.qr(torch.randn(max(out, in_), max(out, in_), dtype=torch.float64,
        generator=gen(seed)))[0][:out, :in_]  # fmt: skip
    weight += noise * kernel_of(out, in_, (k,) * ndim, seed)
    found = conv_singular_values(weight, s * n, stride=s)
    tight, published = (isometry_bound(weight, s, form=form) for form in ("tight", "published"))
    assert found.defect <= tight.value * (1 + 1e-12) + 1e-9
    assert tight.value <= published.value * (1 + 1e-12)
    assert tight.low**2 - 1e-9 <= found.smallest**2
    assert found.largest <= tight.high + 1e-9
    if found.shape[0] <= found.shape[1] and s * n >= k:  # rows: without padding a principal part
        assert conv_singular_values(weight, s * n, stride=s, padding_mode="valid").largest <= tight.high + 1e-9
    assert conv_singular_values(weight, s * n, stride=s, padding_mode="zeros").largest <= tight.high + 1e-9


@settings(deadline=None, max_examples=25)
@given(sizes, st.integers(1, 4), st.integers(0, 10_000))
def test_without_padding_the_rows_bound_holds_from_below_too(shape, n, seed):
    out, in_, k, s = shape
    if out > in_ * s:
        return
    weight = kernel_of(out, in_, (k,), seed)
    bound = isometry_bound(weight, s, form="tight")
    matrix = conv_matrix(weight, k + s * (n - 1), stride=s, padding_mode="valid")
    values = torch.linalg.eigvalsh(matrix @ matrix.mT)
    assert float((values - 1).abs().max()) <= bound.value + 1e-9


def test_the_published_factor_is_the_papers():
    for out, in_, k, s, factor in ((2, 3, 3, 1, 2 * 25), (2, 3, 3, 2, 2 * 9), (9, 2, 3, 1, 2 * 25), (2, 2, 3, 1, 50)):
        assert isometry_bound(kernel_of(out, in_, (k, k)), s).alpha == factor
    assert isometry_bound(kernel_of(9, 2, (3, 3)), 2).alpha == 2 * 25  # columns: (2 k - 1)^2 without the stride
    assert isometry_bound(kernel_of(9, 2, (3, 3)), 2, form="tight").alpha == 9


# Refusals


def test_more_than_the_budget_is_refused_beforehand():
    weight = torch.zeros(64, 64, 3, 3)
    with pytest.raises(MemoryBudgetError, match=r"matrix of a convolution from 224 x 224 to 224 x 224 positions needs"):
        conv_matrix(weight, 224)
    with pytest.raises(MemoryBudgetError, match=r"zeros padding\).*golub_kahan for the extremes"):
        conv_singular_values(weight, 224, padding_mode="zeros")
    with pytest.raises(MemoryBudgetError, match="circular padding"):
        conv_singular_values(weight, 16, budget=1000)


def test_the_foreseen_bytes_are_no_less_than_what_is_held():
    weight = kernel_of(16, 16, (3, 3)).float()
    cost = conv_singular_values(weight, 16).cost
    assert cost.bytes >= 2 * (16 * 9) * 256 * 8  # the matrices of half of the frequencies, and their copy
    assert cost.bytes < 1 << 22


@pytest.mark.parametrize("function", [conv_defect, lambda w, **k: conv_matrix(w, 6, **k), isometry_bound,
    lambda w, **k: conv_singular_values(w, 6, **k)], ids=["defect", "matrix", "bound", "spectrum"])  # fmt: skip
def test_what_is_no_kernel_is_refused(function):
    weight = torch.ones(4, 2, 3, 3)
    with pytest.raises(ValueError, match=r"weight must have 3, 4 or 5 dimensions .*got shape \(4, 2\); a matrix is"):
        function(torch.ones(4, 2))
    with pytest.raises(TypeError, match=r"must be real floating point, got torch\.int64"):
        function(torch.ones(4, 2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="weight is empty"):
        function(torch.ones(4, 0, 3))
    with pytest.raises(ValueError, match=r"groups must be a whole number >= 1 that divides.*got 3 for shape"):
        function(weight, groups=3)
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        function(weight, stride=0)
    with pytest.raises(ValueError, match=r"dilation must be one number, or one for each of the 2 spatial.*\(1, 2, 3\)"):
        function(weight, dilation=(1, 2, 3))
    with pytest.raises(TypeError, match="stride must be an integer, got float"):
        function(weight, stride=(1.0, 1.0))


def test_other_refusals():
    weight = torch.ones(1, 1, 3)
    with pytest.raises(ValueError, match="unknown padding_mode 'same'"):
        conv_matrix(weight, 5, padding_mode="same")
    with pytest.raises(ValueError, match="unknown padding_mode 'reflect'"):
        conv_singular_values(weight, 5, padding_mode="reflect")
    with pytest.raises(ValueError, match=r"size \(2,\) is smaller than the kernel.*nothing is padded; pass a larger"):
        conv_singular_values(weight, 2, padding_mode="valid")
    with pytest.raises(ValueError, match="weight holds 1 non-finite value"):
        conv_singular_values(torch.tensor([[[1.0, float("nan")]]]), 4)
    with pytest.raises(ValueError, match="size is missing: the Frobenius norm grows with the image"):
        isometry_bound(weight, kind="frobenius")
    with pytest.raises(ValueError, match="size=5 has no meaning for the spectral bound"):
        isometry_bound(weight, size=5)
    with pytest.raises(ValueError, match=r"size \(7,\) must be a multiple of the stride \(2,\)"):
        isometry_bound(weight, 2, "frobenius", size=7)
    with pytest.raises(ValueError, match="unknown kind 'nuclear'"):
        isometry_bound(weight, kind="nuclear")
    with pytest.raises(ValueError, match="unknown form 'loose'"):
        isometry_bound(weight, form="loose")


def test_displacements_are_visited_once():
    from isometry.linalg._conv_kernel import half_shifts

    seen = list(half_shifts((1, 2)))
    both = {*seen, *(tuple(-p for p in shift) for shift in seen)}
    assert both == set(itertools.product(range(-1, 2), range(-2, 3)))
    assert len(seen) == (15 + 1) // 2
    assert seen[0] == (0, 0)


def test_denormal_taps_are_zeros():
    weight = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
    weight[:, 0, 0, 0] = torch.tensor([0.6, 0.8])
    wanted = conv_singular_values(weight, 2, stride=2).values
    assert torch.allclose(conv_singular_values(weight + 2e-311, 2, stride=2).values, wanted)
