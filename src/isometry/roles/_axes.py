"""Which dimensions of a parameter are its outputs, its inputs, its kernel; never guessed from the number of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

__all__ = ["Axes"]


@dataclass(frozen=True)
class Axes:
    """The meaning of a parameter's dimensions.

    Every dimension belongs to one of ``out``, ``in_``, ``kernel`` and ``batch``, or to none of them where nothing is
    known about the parameter.

    Attributes:
        out: Dimensions of output units: ``(0,)`` for Linear and Conv, ``(1,)`` for ConvTranspose and Embedding.
        in_: Dimensions of input units; ``(1, 2)`` for Bilinear, ``()`` for biases and scales.
        kernel: Dimensions of taps.
        batch: Dimensions that count independent matrices (stacked experts, an ensemble).
        blocks: Names of the equal blocks stacked along the output dimension (``("q", "k", "v")``, an LSTM's gates);
            empty for a single block.
        groups: Number of groups of a convolution. They are stacked along the output dimension, or along the input
            dimension of a transposed convolution.
        groups_along: ``"out"`` or ``"in"``: the dimension that stacks the groups.
    """

    out: tuple[int, ...] = ()
    in_: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    batch: tuple[int, ...] = ()
    blocks: tuple[str, ...] = ()
    groups: int = 1
    groups_along: str = "out"

    @property
    def known(self) -> bool:
        """Whether the parameter is a matrix (or a stack of matrices) with outputs and inputs."""
        return bool(self.out) and bool(self.in_)

    def to_dict(self) -> dict[str, Any]:
        """Write the axes as plain data, which every file format takes.

        Returns:
            Lists, numbers and strings by name; what is empty or usual is left out.
        """
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in found.items()
            if value != getattr(Axes(), name)
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Axes:
        """Undo ``to_dict``.

        Args:
            data: What it gave.

        Returns:
            The axes.
        """
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
        return cls(**values)

    def stacked(self) -> Axes:
        """Give the axes of a stack of such parameters along a new leading dimension.

        Returns:
            The axes; the new dimension counts independent matrices.
        """
        out, in_, kernel, batch = (tuple(d + 1 for d in dims) for dims in (self.out, self.in_, self.kernel, self.batch))
        return replace(self, out=out, in_=in_, kernel=kernel, batch=(0, *batch))

    def fans(self, shape: Sequence[int]) -> tuple[int, int]:
        """Count the inputs that reach one output unit, and the outputs that one input unit reaches.

        Groups and blocks are separate matrices: ``Conv2d(8, 16, 3, groups=4)`` has fans 2 * 9 and 4 * 9, an LSTM's
        ``weight_ih`` of shape (4 H, I) has fans I and H. For a transposed convolution stride 1 is assumed.

        Args:
            shape: The parameter's shape.

        Returns:
            ``(fan_in, fan_out)``; 1 for a side that the parameter does not have.
        """
        taps = math.prod(shape[d] for d in self.kernel)
        inputs = math.prod(shape[d] for d in self.in_)
        outputs = math.prod(shape[d] for d in self.out) // max(1, len(self.blocks))
        if self.groups > 1 and self.groups_along == "out":
            outputs //= self.groups
        elif self.groups > 1:
            inputs //= self.groups
        return max(1, inputs * taps), max(1, outputs * taps)

    def matrices(self, tensor: Tensor) -> Tensor:
        """Lay a parameter out as its independent matrices.

        Args:
            tensor: The parameter, or anything of its shape (a gradient, a momentum).

        Returns:
            Shape ``(batch * groups * blocks, out, in * kernel)``, a copy where a view is impossible. A matrix
            acts on inputs ordered (in, kernel), as ``unfold`` orders them.

        Raises:
            ValueError: If the axes name no output and input dimensions.
        """
        self._check(tensor.ndim)
        laid = tensor.permute(*self._order())
        count = len(self.batch)
        batch = laid.shape[:count]
        outputs, inputs, taps = self._sizes(tensor.shape)
        laid = laid.reshape(math.prod(batch), outputs, inputs, taps)
        if self.groups > 1 and self.groups_along == "in":
            laid = laid.reshape(-1, outputs, self.groups, inputs // self.groups, taps).transpose(1, 2)
        parts = max(1, len(self.blocks)) * (self.groups if self.groups_along == "out" else 1)
        fan_in, _ = self.fans(tensor.shape)
        return laid.reshape(-1, outputs // parts, fan_in)

    def restore(self, matrices: Tensor, shape: Sequence[int]) -> Tensor:
        """Undo ``matrices``.

        Args:
            matrices: Shape ``(batch * groups * blocks, out, in * kernel)``.
            shape: The parameter's shape.

        Returns:
            A tensor of that shape.
        """
        self._check(len(shape))
        outputs, inputs, taps = self._sizes(shape)
        batch = math.prod(shape[d] for d in self.batch)
        if self.groups > 1 and self.groups_along == "in":
            laid = matrices.reshape(batch, self.groups, outputs, inputs // self.groups, taps).transpose(1, 2)
        else:
            laid = matrices
        order = self._order()
        laid = laid.reshape([shape[d] for d in order])
        return laid.permute(*[order.index(d) for d in range(len(shape))])

    def _order(self) -> list[int]:
        return [*self.batch, *self.out, *self.in_, *self.kernel]

    def _sizes(self, shape: Sequence[int]) -> tuple[int, int, int]:
        return (
            math.prod(shape[d] for d in self.out),
            math.prod(shape[d] for d in self.in_),
            math.prod(shape[d] for d in self.kernel),
        )

    def _check(self, ndim: int) -> None:
        if not self.known:
            raise ValueError(f"these axes ({self}) are not those of a matrix; give Axes with out and in_.")
        if sorted(self._order()) != list(range(ndim)):
            raise ValueError(
                f"these axes ({self}) do not name each dimension of a {ndim}-dimensional tensor once; "
                "give one of out, in_, kernel, batch to each."
            )

    def __str__(self) -> str:
        names: dict[int, str] = {}
        for label, dims in (("batch", self.batch), ("out", self.out), ("in", self.in_), ("k", self.kernel)):
            names.update(dict.fromkeys(dims, label))
        if not names:
            return "-"
        if self.groups > 1:
            # The dimension that is not stacked holds one group's share.
            share = self.in_ if self.groups_along == "out" else self.out
            names.update({d: f"{names[d]}/{self.groups}" for d in share})
        if self.blocks:
            names.update({d: f"{len(self.blocks)}*{names[d]}" for d in self.out})
        return "(" + ", ".join(names.get(d, "?") for d in range(max(names) + 1)) + ")"
