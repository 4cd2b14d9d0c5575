"""Which convolutions can be orthogonal: every small case against minimization of the dense matrix's own defect."""

import itertools

import numpy as np
import pytest
import scipy.optimize
import torch

from isometry.init import orthogonal_convolution
from isometry.linalg import conv_case, conv_defect, conv_matrix, orthogonal_convolution_exists


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def smallest(shape, function, starts):
    """The smallest value of a function of a kernel that BFGS finds from some starts."""

    def objective(flat):
        weight = torch.from_numpy(flat).reshape(shape).requires_grad_()
        value = function(weight)
        return value.item(), torch.autograd.grad(value, weight)[0].numpy().ravel()

    best = np.inf
    for seed in range(starts):
        start = 0.7 * torch.randn(shape, dtype=torch.float64, generator=gen(seed)).numpy().ravel()
        found = scipy.optimize.minimize(objective, start, jac=True, method="BFGS", options={"maxiter": 300})
        best = min(best, found.fun)
        if best < 1e-9:
            break
    return best


def dense_gap(weight, size, stride, padding_mode, dilation=1):
    a = conv_matrix(weight, size, stride=stride, padding_mode=padding_mode, dilation=dilation)
    gram = a @ a.mT if a.shape[0] <= a.shape[1] else a.mT @ a
    return (gram - torch.eye(len(gram), dtype=gram.dtype)).square().sum() / size


SMALL = list(itertools.product((1, 2, 3, 4, 6), (1, 2), (1, 2, 3), (1, 2, 3)))


@pytest.mark.parametrize(("m", "c", "k", "s"), SMALL)
def test_under_circular_padding_every_small_case(m, c, k, s):
    answer = orthogonal_convolution_exists(m, c, (k,), s)
    if answer:  # the construction is a witness
        weight = orthogonal_convolution((m, c, k), stride=s, dtype=torch.float64, generator=gen())
        assert float(conv_defect(weight, stride=s)) < 1e-24
        assert float(dense_gap(weight, 4 * s, s, "circular")) < 1e-24
    else:  # every kernel of the size is at least so far away
        assert smallest((m, c, k), lambda w: conv_defect(w, stride=s), 4) > 0.2
    # The paper's criterion, in its words: M <= C k for rows, S <= k for columns.
    assert bool(answer) == (m <= c * k if m <= c * s else s <= k)


@pytest.mark.parametrize(("m", "c", "k", "s"), [(m, 1, k, s) for m in (1, 2, 3) for k in (1, 2, 3) for s in (1, 2)])
@pytest.mark.parametrize("padding_mode", ["zeros", "valid"])
def test_without_the_ring_every_small_case(m, c, k, s, padding_mode):
    answer = orthogonal_convolution_exists(m, c, (k,), s, padding_mode)
    # Large enough that border and interior differ, and that the image ends with a window.
    size = 6 * s if padding_mode == "zeros" else k + 6 * s
    best = smallest((m, c, k), lambda w: dense_gap(w, size, s, padding_mode), 6)
    assert bool(answer) == (best < 1e-8), (answer.reason, best)


@pytest.mark.parametrize(("k", "s", "d"), [(2, 2, 2), (3, 2, 2), (2, 4, 2), (2, 3, 2), (3, 4, 2), (1, 2, 3)])
@pytest.mark.parametrize("m", [1, 2, 5])
def test_dilation_reads_fewer_positions_of_a_cell(m, k, s, d):
    answer = orthogonal_convolution_exists(m, 1, (k,), s, dilation=d)
    best = smallest((m, 1, k), lambda w: conv_defect(w, stride=s, dilation=d), 6)
    assert bool(answer) == (best < 1e-8), (answer.reason, best)


def test_zero_padding_and_stride_one_force_a_pointwise_kernel():
    for k, d in (((3,), 1), ((5,), 1), ((3, 3), 1), ((3,), 2)):
        answer = orthogonal_convolution_exists(2, 2, k, 1, "zeros", dilation=d)
        assert answer
        assert answer.reason == (
            "orthonormal rows and columns: 2 output channels, at most 2 * 1 = 2 are possible with the taps that zero "
            "padding leaves."
        )
    # One tap beside the centre: an orthogonal circular convolution that loses a position under zero padding.
    shift = torch.tensor([[[0.0, 0.0, 1.0]]])
    assert float(conv_defect(shift)) == 0
    assert torch.linalg.svdvals(conv_matrix(shift, 5, padding_mode="zeros"))[-1] == 0


def test_zero_padding_with_a_stride_leaves_the_cell():
    assert orthogonal_convolution_exists(4, 1, 3, 2, "zeros")
    # A stride of 3 from the centre of a kernel of 3 is one position too far: two of three are read per dimension.
    assert orthogonal_convolution_exists(4, 1, 3, 3, "zeros")
    assert not orthogonal_convolution_exists(5, 1, 3, 3, "zeros")
    assert orthogonal_convolution_exists(5, 1, 3, 3, "circular")
    answer = orthogonal_convolution_exists(10, 1, 3, 3, "zeros")
    assert (answer.exists, answer.case) == (False, "columns")
    assert "the taps that zero padding leaves read only 4 of the 9 positions" in answer.reason
    weight = orthogonal_convolution((4, 1, 3, 3), stride=2, dtype=torch.float64, generator=gen())
    assert float(dense_gap(weight, 8, 2, "zeros")) < 1e-24


def test_unequal_kernels_and_strides():
    assert orthogonal_convolution_exists(6, 1, (3, 2), (3, 2))
    assert orthogonal_convolution_exists(7, 1, (3, 2), (3, 2))
    answer = orthogonal_convolution_exists(7, 1, (3, 1), (3, 2))
    assert (answer.exists, answer.case) == (False, "columns")
    assert answer.reason == "orthonormal columns: the taps read only 3 of the 6 positions of a stride's cell."
    answer = orthogonal_convolution_exists(4, 1, (3, 1), (3, 2))
    assert (answer.exists, answer.case) == (False, "rows")
    assert answer.reason == "orthonormal rows: 4 output channels, at most 1 * 3 = 3 are possible."
    answer = orthogonal_convolution_exists(9, 1, (3, 2), (1, 2), "valid")
    assert answer.reason == (
        "orthonormal columns: without padding the image's border is read by fewer taps (kernel 3 x 2, stride 1 x 2)."
    )
    assert orthogonal_convolution_exists(9, 1, (3, 2), (3, 2), "valid")
    # More outputs than inputs in number, but not per position: rows.
    assert orthogonal_convolution_exists(2, 2, 3, 1, "valid").reason.startswith("orthonormal rows: 2")


def test_the_cases():
    assert [conv_case(m, 2, 3, 2) for m in (7, 8, 9)] == ["rows", "square", "columns"]
    assert conv_case(4, 2, (3,), 2) == "square"
    assert orthogonal_convolution_exists(9, 2, 3, 2).to_dict() == {
        "exists": True,
        "case": "columns",
        "reason": "orthonormal columns: the taps read all 4 of the 4 positions of a stride's cell.",
    }


def test_refusals():
    with pytest.raises(ValueError, match="unknown padding_mode 'same'"):
        orthogonal_convolution_exists(1, 1, 3, 1, "same")
    with pytest.raises(ValueError, match=r"kernel must be one number, or one to three lengths, got \(1, 2, 3, 4\)"):
        conv_case(1, 1, (1, 2, 3, 4))
    with pytest.raises(ValueError, match="channels_out must be at least 1, got 0"):
        conv_case(0, 1, 3)
    with pytest.raises(ValueError, match="stride must be one number, or one for each of the 2 spatial dimensions"):
        conv_case(1, 1, 3, (1, 2, 3))
    with pytest.raises(TypeError, match="kernel must be an integer, got float"):
        conv_case(1, 1, (3.0,))
