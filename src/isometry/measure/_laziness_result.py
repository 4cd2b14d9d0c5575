"""What laziness says: how far weights, representations and the tangent kernel moved between two states of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from isometry._base import Cost, Result

__all__ = ["Laziness", "RepresentationChange", "WeightChange"]


@dataclass(frozen=True)
class WeightChange(Result):
    """How far one module's parameters moved.

    Attributes:
        name: The module that holds them; "" for the model itself.
        absolute: |W1 - W0|_F over all its chosen parameters.
        relative: The same over |W0|_F; NaN where they were all zero before.
        kernel_alignment: Cosine between the kernels of these parameters alone; None unless ``per_layer`` was asked for.
    """

    name: str
    absolute: float
    relative: float
    kernel_alignment: float | None


@dataclass(frozen=True)
class RepresentationChange(Result):
    """How far one module's output moved on the probe.

    Attributes:
        name: The module.
        alignment: <R0, R1> / (|R0| |R1|) of R = A A^T, not centred, A being the outputs (samples, features); NaN where
            one of them is all zero.
        sign_similarity: Share of the entries of A with the same sign (-1, 0 or 1); for ReLU, of units that are on or
            off alike.
    """

    name: str
    alignment: float
    sign_similarity: float


@dataclass(frozen=True, eq=False)
class Laziness(Result):
    """How lazily a model learned: a lazy one keeps tangent kernel and representation, and moves its weights little.

    Attributes:
        weight_change: |W1 - W0|_F over the chosen parameters; smaller is lazier.
        relative_weight_change: The same over |W0|_F.
        kernel_alignment: Cosine between the tangent kernels before and after, not centred, over all pairs of samples
            and outputs; larger is lazier. NaN where one of them is zero.
        representation_alignment: That of the module ``representation``; larger is lazier.
        sign_similarity: That of the module ``representation``; larger is lazier.
        representation: The module whose output is the representation.
        layers: Weights, module by module.
        representations: Outputs of the modules without children, in the order of their last calls.
        undefined: What has no value (0 / 0) or could not be compared, one sentence each.
        params: Which parameters.
        samples: Samples of the probe.
        dtype: In which the models ran; sums are in float64.
        cost: What it took.
    """

    weight_change: float
    relative_weight_change: float
    kernel_alignment: float
    representation_alignment: float
    sign_similarity: float
    representation: str
    layers: tuple[WeightChange, ...]
    representations: tuple[RepresentationChange, ...]
    undefined: tuple[str, ...]
    params: str
    samples: int
    dtype: torch.dtype
    cost: Cost = field(default_factory=Cost)

    def __str__(self) -> str:
        lines = [
            f"laziness on {self.samples} samples ({self.params})",
            f"  weight change             {self.weight_change:.4g}, relative {self.relative_weight_change:.4g}",
            f"  kernel alignment          {_shown(self.kernel_alignment)}",
            f"  representation alignment  {_shown(self.representation_alignment)} ({self.representation})",
            f"  equal signs               {_shown(self.sign_similarity)}",
        ]
        return "\n".join([*lines, *(f"  undefined: {why}" for why in self.undefined)])


def _shown(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4f}"
