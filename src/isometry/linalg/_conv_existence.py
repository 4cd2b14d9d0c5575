"""Whether a convolution of given sizes can be orthogonal at all, and which of its sides would be orthonormal.

Under circular padding the criteria are those of Achour et al.; their proof puts filters on distinct taps, and so does
``init.orthogonal_convolution_``. Dilated kernels, kernels and strides that differ between dimensions, and the two other
paddings are our extension; the reasons are in the docstring.

References:
    E. M. Achour, F. Malgouyres, F. Mamalet, Existence, stability and scalability of orthogonal convolutional neural
    networks, JMLR 23(347), 2022. arXiv:2108.05623
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from isometry._base import Result, unknown_name
from isometry.linalg._conv_kernel import conv_extent, cosets, per_dimension
from isometry.linalg._precision import check_size

__all__ = ["ConvCase", "ConvExistence", "ConvPadding", "conv_case", "orthogonal_convolution_exists"]

ConvCase = Literal["rows", "columns", "square"]
ConvPadding = Literal["circular", "zeros", "valid"]


@dataclass(frozen=True)
class ConvExistence(Result):
    """Whether orthogonal convolutions of some sizes exist.

    Attributes:
        exists: Whether they do, for every image that is large enough.
        case: ``"rows"``, ``"columns"`` or ``"square"``: the side that would be orthonormal.
        reason: Why, in a sentence.
    """

    exists: bool
    case: ConvCase
    reason: str

    def __bool__(self) -> bool:
        return self.exists


def conv_case(
    channels_out: int, channels_in: int, kernel: int | Sequence[int], stride: int | Sequence[int] = 1
) -> ConvCase:
    """Say which side of a convolution's matrix is the shorter one, and so can be orthonormal.

    The layer maps C S^d N^d numbers to M N^d.

    Args:
        channels_out: M, output channels (of one group).
        channels_in: C, input channels (of one group).
        kernel: Lengths of the kernel, one per spatial dimension; a single number stands for two equal ones.
        stride: One number, or one per spatial dimension.

    Returns:
        ``"rows"`` (RO in the paper) for M < C S^d, ``"columns"`` (CO) for M > C S^d, else ``"square"``.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If a size is below one, or ``stride`` does not fit ``kernel``.

    Example:
        >>> conv_case(8, 3, 3), conv_case(8, 3, 3, stride=2), conv_case(12, 3, 3, stride=2)
        ('columns', 'rows', 'square')
    """
    taps = _lengths(kernel)
    inputs = check_size("channels_in", channels_in) * math.prod(per_dimension("stride", stride, len(taps)))
    outputs = check_size("channels_out", channels_out)
    return "square" if outputs == inputs else "rows" if outputs < inputs else "columns"


def orthogonal_convolution_exists(
    channels_out: int,
    channels_in: int,
    kernel: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding_mode: ConvPadding = "circular",
    *,
    dilation: int | Sequence[int] = 1,
) -> ConvExistence:
    """Decide whether some kernel of these sizes makes the layer's matrix orthogonal, for every large enough image.

    Write M, C for the channels, k for the kernel's length, S for the stride, and T for the positions of a cell of S^d
    inputs that some tap reads: min(k, S)^d without dilation.

    *Circular padding*: yes if M <= C T (rows: the filters take distinct taps; more of them than C T cannot be
    independent) or T = S^d (columns: every input is read). Without dilation that is the paper's M <= C k^d for rows and
    S <= k for columns.

    *No padding* ("valid"): the outputs are those of a circular convolution away from its seam, so rows are orthonormal
    under the same condition, M <= C S^d and M <= C T. Columns are not, unless the windows tile the image (k = S): the
    last input in a line is read by the last tap alone, which would need all of that column's norm, and an interior
    input is read by another tap as well.

    *Zero padding* of (k - 1) // 2 before the image and as many outputs as cells ("same"): an output at the border reads
    fewer taps than one inside, so those taps must vanish. What is left are the taps from the centre on to the end of
    its cell: for S = 1 the centre alone, a pointwise convolution. With T now the number of those, rows need M <= C T
    and columns T = S^d.

    Args:
        channels_out: M, output channels (of one group).
        channels_in: C, input channels (of one group).
        kernel: Lengths of the kernel, one per spatial dimension; a single number stands for two equal ones.
        stride: One number, or one per spatial dimension.
        padding_mode: ``"circular"``, ``"zeros"`` (that keep the size) or ``"valid"`` (none).
        dilation: One number, or one per spatial dimension.

    Returns:
        The answer with its case and reason; true or false as a condition.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If a size is below one, a setting does not fit the kernel, or the padding is unknown.

    Example:
        >>> print(orthogonal_convolution_exists(16, 8, 3, stride=2).reason)
        orthonormal rows: 16 output channels, at most 8 * 4 = 32 are possible.
        >>> bool(orthogonal_convolution_exists(16, 8, 3, padding_mode="valid"))
        False
    """
    if padding_mode not in get_args(ConvPadding):
        error = unknown_name("padding_mode", padding_mode, get_args(ConvPadding))
        raise error
    taps = _lengths(kernel)
    strides, gaps = per_dimension("stride", stride, len(taps)), per_dimension("dilation", dilation, len(taps))
    case = conv_case(channels_out, channels_in, taps, strides)
    if padding_mode == "zeros":
        extents = conv_extent(taps, gaps)
        used = [len(_from_the_centre(k, s, d)) for k, s, d in zip(extents, strides, gaps, strict=True)]
    else:
        used = [cosets(k, s, d) for k, s, d in zip(taps, strides, gaps, strict=True)]
    if padding_mode == "valid" and case == "columns":
        tiled = conv_extent(taps, gaps) == strides and all(d == 1 or k == 1 for k, d in zip(taps, gaps, strict=True))
        why = "the windows tile the image" if tiled else "without padding the image's border is read by fewer taps"
        sizes = f"kernel {_times(taps)}, stride {_times(strides)}"
        return ConvExistence(tiled, case, f"orthonormal columns: {why} ({sizes}).")
    return _by_counting(channels_out, channels_in, math.prod(used), math.prod(strides), case, padding_mode)


def _by_counting(m: int, c: int, used: int, cell: int, case: ConvCase, padding_mode: str) -> ConvExistence:
    within = " that zero padding leaves" if padding_mode == "zeros" else ""
    if case == "columns":
        exists = used == cell
        read = "all" if exists else "only"
        reason = f"orthonormal columns: the taps{within} read {read} {used} of the {cell} positions of a stride's cell."
    else:
        exists = m <= c * used
        side = "orthonormal rows and columns" if case == "square" and padding_mode != "valid" else "orthonormal rows"
        most = f"at most {c} * {used} = {c * used} are possible" + (" with the taps" + within if within else "")
        reason = f"{side}: {m} output channels, {most}."
    return ConvExistence(exists, case, reason)


def _from_the_centre(extent: int, stride: int, dilation: int) -> tuple[int, ...]:
    # Offsets from the first input of an output's cell that zero padding leaves and some tap reads.
    centre = (extent - 1) // 2
    return tuple(o for o in range(min(stride, extent - centre)) if (centre + o) % dilation == 0)


def _lengths(kernel: int | Sequence[int]) -> tuple[int, ...]:
    lengths = (kernel, kernel) if isinstance(kernel, int) else tuple(kernel)
    if not 1 <= len(lengths) <= 3:
        raise ValueError(f"kernel must be one number, or one to three lengths, got {kernel!r}.")
    for length in lengths:
        check_size("kernel", length)
    return lengths


def _times(numbers: Sequence[int]) -> str:
    return " x ".join(map(str, numbers))
