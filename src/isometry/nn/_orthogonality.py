"""Orthogonality penalties over a whole model: which weights count, by which formula, and their sum for the loss."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from isometry._base import check_positive, check_tensor, unknown_name
from isometry.linalg import conv_defect
from isometry.nn._penalty_plan import PenaltyKind, PenaltyRow, Selection
from isometry.nn._soft_orthogonality import SoftKind, soft_penalty
from isometry.roles import Override, ParameterRow, table

__all__ = ["OrthogonalityRegularizer", "orthogonality_penalty"]

_KINDS: tuple[PenaltyKind, ...] = get_args(PenaltyKind)


class OrthogonalityRegularizer:
    """A sum of orthogonality penalties over a model's weights, planned once and evaluated in every step.

    ``loss + strength * regularizer()``; ``print(regularizer)`` shows what is counted, and why the rest is not. The
    formulas are those of ``orthogonality_penalty``. Weights are read at each call, through their parametrizations.

    Attributes:
        kind: The penalty.
        rows: One row per parameter, tied ones once.
        weight: The factor on the sum.

    Args:
        model: The model.
        kind: The penalty's name.
        names: Names of parameters, or patterns (as in ``fnmatch``); None for all matrices between hidden layers (no
            readout, no embedding; in a model with a single matrix that one).
        skip: Names or patterns to leave out, such as the first layer's.
        overrides: Roles and axes for ``roles.table``.
        weight: Factor on the sum.
        steps: Power iterations of ``"srip"``.

    Raises:
        TypeError: If the model is no module, or names are no strings.
        ValueError: If a name or the kind is unknown, nothing is left to count, or a named parameter cannot be counted.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.Flatten(),
        ...                       nn.Linear(8 * 64, 10))
        >>> regularizer = OrthogonalityRegularizer(model, "convolution")
        >>> [(row.name, row.formula) for row in regularizer.rows if row.action == "counted"]
        [('0.weight', 'L_orth')]
    """

    def __init__(
        self,
        model: nn.Module,
        kind: PenaltyKind = "so",
        *,
        names: str | Sequence[str] | None = None,
        skip: str | Sequence[str] | None = None,
        overrides: Mapping[str, Override] | None = None,
        weight: float = 1.0,
        steps: int = 2,
    ) -> None:
        _check_kind(kind, steps)
        self.kind = kind
        self.weight = check_positive("weight", weight, zero=True)
        self._steps = steps
        rows = table(model, overrides)
        selection = Selection.read(rows, names, skip)
        self._counted: list[tuple[ParameterRow, nn.Module]] = []
        planned = []
        for row in rows:
            module = model.get_submodule(row.module_name)
            planned.append(selection.plan(row, module, kind))
            if planned[-1].action == "counted":
                self._counted.append((row, module))
        self.rows: tuple[PenaltyRow, ...] = tuple(planned)
        if not self._counted:
            why = "; ".join(f"{row.name}: {row.why}" for row in planned[:5])
            raise ValueError(f"no weight is left to count ({why}); name a weight matrix in names=.")

    def terms(self, *, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Evaluate the penalties one by one, without the factor.

        Args:
            generator: Source of the starting vectors of ``"srip"``; torch's global one by default.

        Returns:
            Scalars by the parameter's name, differentiable.
        """
        return {row.name: self._term(row, module, generator) for row, module in self._counted}

    def __call__(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Evaluate the sum.

        Args:
            generator: Source of the starting vectors of ``"srip"``; torch's global one by default.

        Returns:
            ``weight`` times the sum of the terms: a scalar, differentiable, on the first weight's device.
        """
        terms = list(self.terms(generator=generator).values())
        widest = max((term.dtype for term in terms), key=lambda dtype: dtype.itemsize)
        return self.weight * torch.stack([term.to(terms[0].device, widest) for term in terms]).sum()

    def _term(self, row: ParameterRow, module: nn.Module, generator: torch.Generator | None) -> Tensor:
        value: Tensor = getattr(module, row.tensor_name)
        if self.kind == "convolution" and isinstance(module, _ConvNd):
            return conv_defect(value, stride=module.stride, dilation=module.dilation, groups=module.groups)
        soft: SoftKind = "so" if self.kind == "convolution" else self.kind
        return soft_penalty(row.axes.matrices(value), soft, steps=self._steps, generator=generator)

    def __str__(self) -> str:
        from rich.console import Console  # only printing needs it

        stream = io.StringIO()
        Console(file=stream, width=400, color_system=None, emoji=False, markup=False).print(self.__rich__())
        return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())

    def __rich__(self) -> object:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        caption = f"{len(self._counted)} of {len(self.rows)} parameters counted, times {self.weight:g}"
        drawn = Table("parameter", "role", "shape", "action", "penalty", "why", box=box.SIMPLE_HEAD, caption=caption)
        for row in self.rows:
            shape = " x ".join(map(str, row.shape)) or "scalar"
            drawn.add_row(*map(Text, (row.name, row.role, shape, row.action, row.formula, row.why)))
        return drawn


def orthogonality_penalty(
    model_or_weight: nn.Module | Tensor,
    kind: PenaltyKind = "so",
    *,
    names: str | Sequence[str] | None = None,
    skip: str | Sequence[str] | None = None,
    overrides: Mapping[str, Override] | None = None,
    weight: float = 1.0,
    batch_dims: int = 0,
    steps: int = 2,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Give an orthogonality penalty of one weight, or its sum over a model's.

    With G the Gram matrix of the weight's shorter side (W W^T or W^T W for W of shape (out, in); a kernel is flattened
    to (out, in * taps), groups and stacked blocks such as q, k and v are matrices of their own):

    - ``"so"``, soft orthogonality: |G - I|_F^2
    - ``"double-sided"``: |W^T W - I|_F^2 + |W W^T - I|_F^2 = 2 |G - I|_F^2 + |out - in|
    - ``"mc"``, mutual coherence: the largest entry of |G - I|
    - ``"srip"``, spectral restricted isometry: the spectral norm of G - I, that is the largest ||W z|^2 / |z|^2 - 1|,
      estimated from below by ``steps`` power iterations from a random vector
    - ``"convolution"``: L_orth of the convolution itself (``linalg.conv_defect``, with the layer's stride, dilation and
      groups), and ``"so"`` for dense layers

    The first four are of Bansal, Chen and Wang, Can we gain more from orthogonality regularizations in training deep
    CNNs? (NeurIPS 2018, arXiv:1810.09102), where G is always W W^T here; with more outputs than inputs that cannot
    come near the identity. The last is of Wang et al. (CVPR 2020, arXiv:1911.12207). A flattened kernel that is
    orthogonal does not make the convolution orthogonal.

    A call on a model goes through its parameters each time; a training loop builds ``OrthogonalityRegularizer`` once.

    Args:
        model_or_weight: A module, or a weight of shape ``(*batch, out, in, *kernel)``.
        kind: The penalty's name.
        names: For a model: names of parameters or patterns; None for the matrices between hidden layers.
        skip: For a model: names or patterns to leave out.
        overrides: For a model: roles and axes for ``roles.table``.
        weight: Factor on the sum.
        batch_dims: For a weight: how many leading dimensions count independent matrices.
        steps: Power iterations of ``"srip"``.
        generator: Source of the starting vectors of ``"srip"``; torch's global one by default.

    Returns:
        A scalar, differentiable; computed in float32 at the least, under autocast as well.

    Raises:
        TypeError: If names, skip or overrides come with a bare weight, or the weight is not real floating point.
        ValueError: If the kind is unknown or the weight is no matrix; see ``OrthogonalityRegularizer`` for models.

    Example:
        >>> float(orthogonality_penalty(2 * torch.eye(3)))  # |4 I - I|_F^2
        27.0
        >>> round(float(orthogonality_penalty(2 * torch.eye(3), "srip")), 4)
        3.0
    """
    _check_kind(kind, steps)
    if isinstance(model_or_weight, nn.Module):
        if batch_dims:
            raise TypeError(f"batch_dims={batch_dims} is for a bare weight; give Axes with batch in overrides=.")
        regularizer = OrthogonalityRegularizer(
            model_or_weight, kind, names=names, skip=skip, overrides=overrides, weight=weight, steps=steps
        )
        return regularizer(generator=generator)
    if names is not None or skip is not None or overrides is not None:
        raise TypeError("names, skip and overrides choose among a model's parameters; leave them out for a weight.")
    if kind == "convolution":
        raise ValueError(
            'kind="convolution" of a bare weight depends on the layer\'s stride; call '
            "orthogonal_convolution_penalty(weight, stride)."
        )
    if isinstance(batch_dims, bool) or not isinstance(batch_dims, int) or batch_dims < 0:
        raise ValueError(f"batch_dims must be a whole number >= 0, got {batch_dims!r}.")
    tensor = check_tensor("model_or_weight", model_or_weight, min_ndim=2 + batch_dims)
    if not tensor.is_floating_point():
        raise TypeError(f"model_or_weight must be real floating point, got {tensor.dtype}; convert it first.")
    factor = check_positive("weight", weight, zero=True)
    return factor * soft_penalty(tensor.flatten(batch_dims + 1), kind, steps=steps, generator=generator)


def _check_kind(kind: str, steps: int) -> None:
    if kind not in _KINDS:
        error = unknown_name("kind", kind, _KINDS)
        raise error
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number >= 1, got {steps!r}.")
