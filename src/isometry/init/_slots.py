"""Reading and writing a layer's weight, parametrized or not, and drawing its matrices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isometry._base import stream
from isometry.init._delta_orthogonal import delta_orthogonal
from isometry.init._gaussian import gaussian
from isometry.linalg import haar
from isometry.roles import ParameterRow

__all__ = ["DELTA_DEPTH", "Slot", "draw", "flattened", "per_group"]

# From this depth on, kernels of plain chains start with their centre tap alone: only then does a convolution keep
# norms, and space, over many layers. Shallower nets start with all taps, from which they learn faster.
DELTA_DEPTH = 10


class Slot:
    """A parameter's place in the model: the module that uses it and the attribute.

    Args:
        model: The model.
        row: The parameter's row of the parameter table.
    """

    def __init__(self, model: nn.Module, row: ParameterRow) -> None:
        self.row = row
        self.module = model.get_submodule(row.module_name)

    def read(self) -> Tensor:
        """Give the weight that the module uses, detached.

        Returns:
            For a parametrized weight the function's value.
        """
        value: Tensor = getattr(self.module, self.row.tensor_name)
        return value.detach()

    def write(self, value: Tensor) -> bool:
        """Overwrite the weight that the module uses; a parametrized one through its right inverse.

        Args:
            value: The new weight.

        Returns:
            False if the parametrization cannot hold the value; the weight is then as before.
        """
        if not self.row.parametrized:
            with torch.no_grad():
                getattr(self.module, self.row.tensor_name).copy_(value)
            return True
        if not nn.utils.parametrize.is_parametrized(self.module, self.row.tensor_name):
            return False  # an old-style hook (weight_g, weight_v, weight_orig): nothing to assign to
        pieces = list(self.module.parametrizations[self.row.tensor_name].parameters())  # type: ignore[index, union-attr]
        before = [piece.detach().clone() for piece in pieces]
        try:
            with torch.no_grad():
                setattr(self.module, self.row.tensor_name, value.clone())
            held = torch.allclose(self.read(), value, rtol=1e-3, atol=1e-4 * float(value.abs().max()))
        except (NotImplementedError, RuntimeError, ValueError):
            held = False
        if not held:
            with torch.no_grad():
                for piece, old in zip(pieces, before, strict=True):
                    piece.copy_(old)
        return held

    def scale(self, factor: float) -> bool:
        """Multiply the weight.

        Args:
            factor: The factor.

        Returns:
            False if the parametrization cannot hold the product.
        """
        return self.write(self.read() * factor)


def draw(row: ParameterRow, like: Tensor, *, gain: float, weights: str, seed: int, delta: bool = False) -> Tensor:
    """Draw a weight from the stream that belongs to its name.

    Args:
        row: The weight's row: its name, axes and fans.
        like: A tensor of its shape, dtype and device.
        gain: sigma_w: Gaussian entries get variance gain^2 / fan_in; orthogonal matrices are multiplied by
            gain * sqrt(max(1, rows / columns)), so that entries of the output keep that variance where a layer widens.
        weights: "orthogonal" or "gaussian".
        seed: The model's seed.
        delta: Put the orthogonal matrix on a kernel's centre tap alone.

    Returns:
        The weight; stacked blocks (gates, q/k/v), groups and batches are independent matrices.
    """
    generator = stream(seed, row.name)  # on the CPU: the same weights on every device
    if weights == "gaussian":
        return gaussian(
            row.shape, sigma=gain, fan_in=row.fan_in, dtype=like.dtype, device=like.device, generator=generator
        )
    if delta:
        transposed = row.axes.groups_along == "in"
        outputs, inputs = per_group(row)
        return delta_orthogonal(
            row.shape,
            gain=gain * max(1.0, outputs / inputs) ** 0.5,
            groups=row.axes.groups,
            transposed=transposed,
            contracting=True,
            dtype=like.dtype,
            device=like.device,
            generator=generator,
        )
    count, rows, columns = row.axes.matrices(like).shape
    matrices = haar(
        rows,
        columns,
        batch=(count,),
        scale=gain * max(1.0, rows / columns) ** 0.5,
        dtype=like.dtype,
        device=like.device,
        generator=generator,
    )
    return row.axes.restore(matrices, row.shape)


def per_group(row: ParameterRow) -> tuple[int, int]:
    """Count the channels that a convolution's groups map to and from.

    Returns:
        ``(outputs, inputs)`` of one group.
    """
    first, second = row.shape[:2]
    if row.axes.groups_along == "in" and row.axes.out == (1,):
        return second, first // row.axes.groups
    return first // row.axes.groups, second


def flattened(row: ParameterRow, weight: Tensor) -> Tensor:
    """Sum a weight over everything that feeds one output: what a constant input of one turns into.

    Returns:
        Shape ``(out,)``.
    """
    return row.axes.matrices(weight).sum(-1).reshape(-1)
