"""Ensembles of small fully connected networks as stacks of weights, drawn one layer at a time.

An ensemble is a recipe: it yields its layers, each a tensor (networks, out, in), from one random stream a layer, and
yields the same ones whenever it is asked. What walks through the layers in order (the measurements on ensembles do)
needs the memory of one layer; ``list(ensemble)`` keeps them all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isometry._base import Result, base_seed, check_positive, stream, unknown_name
from isometry.linalg import haar, standard_normal
from isometry.theory import EnsembleWeights

__all__ = ["Ensemble", "ensemble"]

_KINDS: tuple[EnsembleWeights, ...] = ("gaussian", "orthogonal", "mixed")


@dataclass(frozen=True)
class Ensemble(Result):
    """A sequence of stacked weights, drawn when they are asked for.

    Attributes:
        networks: How many networks.
        widths: Number of inputs, then of the units of each layer.
        weights: "gaussian", "orthogonal" or "mixed".
        sigma_w: Weight scale (a standard deviation; also the gain of a square orthogonal matrix).
        seed: What the layers' random streams are derived from.
        dtype: Dtype of the tensors.
        device: Their device.
    """

    networks: int
    widths: tuple[int, ...]
    weights: EnsembleWeights
    sigma_w: float
    seed: int
    dtype: torch.dtype
    device: torch.device

    def __len__(self) -> int:
        return len(self.widths) - 1

    def __iter__(self) -> Iterator[Tensor]:
        return (self.layer(index) for index in range(len(self)))

    def layer(self, index: int) -> Tensor:
        """Draw one layer.

        Args:
            index: Its number, from 0.

        Returns:
            (networks, out, in).

        Raises:
            IndexError: If there is no such layer.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index must be from 0 to {len(self) - 1}, got {index}; the ensemble has no such layer.")
        fan_in, out = self.widths[index : index + 2]
        generator = stream(self.seed, f"layer.{index}")  # the same numbers on every device
        if self.weights == "gaussian" or (self.weights == "mixed" and index == 0):
            shape = (self.networks, out, fan_in)
            draw = standard_normal(shape, dtype=self.dtype, device=self.device, generator=generator)
            return draw.mul_(self.sigma_w / math.sqrt(fan_in)).to(self.dtype)
        # Orthonormal columns keep |x|^2, which then is shared by more units.
        scale = self.sigma_w * math.sqrt(max(1.0, out / fan_in))
        return haar(
            out,
            fan_in,
            batch=(self.networks,),
            scale=scale,
            dtype=self.dtype,
            device=self.device,
            generator=generator,
        )

    def __str__(self) -> str:
        widths = " -> ".join(str(w) for w in self.widths[:3]) + (" -> ..." if len(self.widths) > 3 else "")
        return f"{self.networks} networks of {len(self)} layers ({widths}), {self.weights}, sigma_w={self.sigma_w:g}"


def ensemble(
    networks: int,
    widths: Sequence[int],
    *,
    weights: EnsembleWeights = "orthogonal",
    sigma_w: float = 1.0,
    semi_orthogonal: bool = False,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Ensemble:
    """Prepare an ensemble of fully connected networks without biases.

    Args:
        networks: How many networks.
        widths: Number of inputs, then of the units of each layer: ``[20] * 31`` for 30 layers of width 20.
        weights: "gaussian" (W_ij ~ N(0, sigma_w^2 / fan_in)), "orthogonal" (sigma_w times a Haar-distributed orthogonal
            matrix) or "mixed" (a Gaussian first layer, orthogonal ones after it).
        sigma_w: Weight scale, a standard deviation.
        semi_orthogonal: Allow unequal widths where weights are orthogonal: the matrix then has orthonormal rows or
            columns, scaled so that the mean square of the outputs is sigma_w^2 times that of the inputs (on average, if
            there are fewer outputs). ``theory.finite_width`` is about square matrices and does not cover it.
        dtype: Dtype of the weights.
        device: Device of the weights; default: torch's default device.
        generator: Gives the seed; torch's global one by default.

    Returns:
        The ensemble, a sequence of tensors (networks, out, in).

    Raises:
        ValueError: If a size is not a positive whole number, or orthogonal matrices would not be square.
        TypeError: If the dtype is not a real floating one.

    Example:
        >>> nets = ensemble(4, [3, 3, 3], generator=torch.Generator().manual_seed(0))
        >>> w = nets.layer(1)
        >>> w.shape, torch.allclose(w @ w.mT, torch.eye(3, dtype=torch.float64).expand(4, 3, 3))
        (torch.Size([4, 3, 3]), True)
    """
    sizes = tuple(widths)
    if len(sizes) < 2:
        raise ValueError(f"widths must hold the inputs and at least one layer, got {list(sizes)}; try [20] * 31.")
    for name, size in (("networks", networks), *((f"widths[{i}]", w) for i, w in enumerate(sizes))):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a positive whole number, got {size!r}.")
    if weights not in _KINDS:
        unknown: ValueError = unknown_name("weights", weights, _KINDS)
        raise unknown
    scale = check_positive("sigma_w", sigma_w)
    if not dtype.is_floating_point:
        raise TypeError(f"dtype must be a real floating dtype, got {dtype}; use torch.float64.")
    for index in range(0 if weights == "orthogonal" else 1, len(sizes) - 1):
        if weights != "gaussian" and sizes[index] != sizes[index + 1] and not semi_orthogonal:
            raise ValueError(
                f"widths[{index}] = {sizes[index]} and widths[{index + 1}] = {sizes[index + 1]} differ, so layer "
                f"{index} cannot be orthogonal; make all widths equal, or pass semi_orthogonal=True, which theory does "
                "not cover."
            )
    place = torch.device(device) if device is not None else torch.get_default_device()
    return Ensemble(networks, sizes, weights, scale, base_seed(generator), dtype, place)
