"""Standard normal draws that do not depend on the device they are used on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isometry.linalg._precision import working_dtype

__all__ = ["standard_normal"]


def standard_normal(
    shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw independent N(0, 1) entries.

    With a generator the draw happens on the generator's device and is then moved, so a CPU generator gives the same
    numbers for a CPU and for a CUDA parameter. Formats below float32 get float32 draws.

    Args:
        shape: The shape wanted.
        dtype: The dtype of the output's consumer; the draw itself is float32, or float64 for float64.
        device: Where the output lives; default: torch's default device.
        generator: Source of randomness; torch's global one by default.

    Returns:
        A tensor of float32, or of float64 if ``dtype`` is that.
    """
    target = torch.device(device) if device is not None else torch.get_default_device()
    source = generator.device if generator is not None else target
    drawn = torch.randn(tuple(shape), dtype=working_dtype(dtype), device=source, generator=generator)
    return drawn.to(target)
