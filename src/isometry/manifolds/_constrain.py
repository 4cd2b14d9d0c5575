"""Putting the weights of a model on a manifold, in place.

References:
    P. A. Sokol, I. M. Park, Information geometry of orthogonal initializations and training, ICLR 2020.
    arXiv:1810.03785 (W = s Q with one scale per layer, section 5)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from isometry._base import check_finite, check_positive, unknown_name
from isometry.linalg._precision import working_dtype
from isometry.manifolds._constraint import RECORDS, Constraint, ScaleKind
from isometry.manifolds._defect import rounding_tolerance
from isometry.manifolds._hook import watch_optimizers
from isometry.manifolds._manifold import Manifold
from isometry.manifolds._oblique import Oblique
from isometry.manifolds._orthogonal import Orthogonal
from isometry.manifolds._registry import register
from isometry.manifolds._select import Choice, check_model, choose
from isometry.manifolds._sharded import whole
from isometry.manifolds._stiefel import Stiefel
from isometry.manifolds._tables import ConstraintRow, ConstraintTable
from isometry.roles import Override, ParameterRow

__all__ = ["MANIFOLDS", "constrain_"]

MANIFOLDS: dict[str, Manifold] = {
    "stiefel": Stiefel(),
    "oblique": Oblique(),
    "orthogonal": Orthogonal(),
}


class _Plan(NamedTuple):
    """A weight that is ready to be written."""

    constraint: Constraint
    new: bool
    kept_scale: float | None
    scale: float
    point: Tensor | None  # None where the weight is on the manifold already, and stays as it is
    row: ConstraintRow


def constrain_(
    model: nn.Module,
    manifold: Literal["stiefel", "oblique", "orthogonal"] | Manifold = "stiefel",
    *,
    names: str | Sequence[str] | None = None,
    scale: Literal["fixed", "learned"] | float = "fixed",
    overrides: Mapping[str, Override] | None = None,
) -> ConstraintTable:
    """Move weights to the nearest point of a manifold, W = s Q, and mark them, so that optimizers keep them there.

    The weight stays the module's own parameter: names in the state_dict, the forward pass, ``torch.compile``, DDP,
    FSDP2 and exports are as before. An optimizer has to step on the manifold (``isometry.optim.RiemannianSGD``,
    ``RiemannianAdam``); any other one gives a warning at its first step. ``release`` and ``bake`` undo the marking.
    Either all weights are written or, after an error, none; until then their new values are kept beside the old ones.
    Weights that are on the manifold already, to the rounding of their dtype, stay as they are, to the bit.

    Fused projections (q, k, v), gates of recurrent layers, groups of convolutions and stacked experts are batches of
    matrices, each of which goes to the manifold; they share one scale. (Fused projections of unequal blocks, as in
    grouped-query attention, are one matrix.) A convolution's kernel is seen as the matrix (out, in * kernel): its rows
    or columns become orthonormal, which does *not* make the convolution an orthogonal map, since patches overlap.

    Args:
        model: A model, or a single layer.
        manifold: ``"stiefel"`` (orthonormal columns, or rows where a layer does not widen), ``"oblique"`` (unit columns
            or rows alike), ``"orthogonal"`` (square matrices; others are left), or a manifold.
        names: Parameter names, or patterns as in ``fnmatch``. Default: the matrices of hidden layers by their roles,
            the first layer, recurrences and attention projections included, the readout and embeddings not; of a
            module with a single matrix, that one.
        scale: ``"fixed"`` keeps s at the weight's root mean square, s = |W|_F / |Q|_F, so that what ``critical_`` set
            survives; a number sets it; ``"learned"`` lets the optimizer move it, and it is then read off the weight.
        overrides: Roles or axes of parameters that the parameter table cannot know; see ``isometry.roles.table``.

    Returns:
        One row per parameter: what was done, the defects before and after, and why others were left.

    Raises:
        TypeError: If an argument has a wrong type, or a weight is not real floating point (or quantized).
        ValueError: If a name matches nothing or no matrix; a weight that is named exactly is parametrized or has a
            shape that the manifold has no points of; or a weight is tied and not named exactly, on the meta device, not
            writable, not finite, without full rank, or constrained to another manifold already.

    Example:
        >>> layer = nn.Linear(6, 4, bias=False)
        >>> row = constrain_(layer, "stiefel", scale=1.0)["weight"]
        >>> row.matrices, torch.allclose(layer.weight @ layer.weight.T, torch.eye(4), atol=1e-6)
        ((1, 6, 4), True)
    """
    check_model(model)
    chosen = _manifold(manifold)
    kind, number = _scale(scale)
    choices = choose(model, names, overrides, lambda row: _unfit(row, chosen))
    with torch.no_grad():
        plans = {c.row.name: _plan(model, c.row, chosen, kind, number) for c in choices if c.action == "constrained"}
        for plan in plans.values():
            _carry_out(plan)
    watch_optimizers()
    return ConstraintTable(tuple(_row(choice, plans) for choice in choices))


def _manifold(given: object) -> Manifold:
    if isinstance(given, Manifold):
        return given
    if not isinstance(given, str):
        raise TypeError(f"manifold must be a name or a Manifold, got {type(given).__name__}; try Stiefel().")
    if given not in MANIFOLDS:
        error = unknown_name("manifold", given, MANIFOLDS)
        raise error
    return MANIFOLDS[given]


def _unfit(row: ParameterRow, manifold: Manifold) -> str:
    """Tell why a manifold has no points of a weight's shape.

    Returns:
        The reason; "" if it has.
    """
    try:
        manifold._admit(row.axes.matrices(torch.empty(row.shape, device="meta")).shape)
    except ValueError as error:
        return str(error).removesuffix(".")
    return ""


def _scale(given: object) -> tuple[ScaleKind, float | None]:
    if given == "fixed":
        return "fixed", None
    if given == "learned":
        return "learned", None
    if isinstance(given, str):
        error = unknown_name("scale", given, ("fixed", "learned"))
        raise error
    return "fixed", check_positive("scale", given)  # type: ignore[arg-type]


def _plan(model: nn.Module, row: ParameterRow, manifold: Manifold, kind: ScaleKind, number: float | None) -> _Plan:
    module = model.get_submodule(row.module_name)
    weight = check_finite(row.name, whole(module._parameters[row.tensor_name]))  # type: ignore[arg-type]
    constraint = Constraint(
        module,
        row.tensor_name,
        manifold,
        row.axes,
        scale_kind=kind,
        scale=None,
        shape=row.shape,
        label=row.name,
    )
    known = _known(constraint)
    matrices = constraint.matrix(weight.to(working_dtype(weight.dtype)))
    s = (
        float(constraint.measured_scale(weight.double()))
        if number is None
        else _representable(number, weight, row.name)
    )
    point: Tensor | None = None
    try:
        before = after = constraint.manifold.check(matrices / (s or 1.0)).frobenius
        if not before <= rounding_tolerance(matrices.shape[-1], weight.dtype):
            point = constraint.manifold.project(matrices)
            after = constraint.manifold.check((point * s).to(weight.dtype).to(point.dtype) / s).frobenius
    except ValueError as error:
        raise ValueError(f"{row.name} cannot be projected on {manifold.name}: {error}") from error
    k, n, p = matrices.shape
    note = f"tied to {', '.join(row.aliases)}" if row.aliases else ""
    done = ConstraintRow(
        row.name, row.role, row.shape, "constrained", (k, n, p), manifold.name, s, kind, before, after, note
    )
    kept = None if kind == "learned" else s
    return _Plan(known or constraint, known is None, kept, s, point, done)


def _representable(number: float, weight: Tensor, name: str) -> float:
    """Insist on a scale that the weight's dtype can hold, and by which the weight can be divided.

    Returns:
        The scale.

    Raises:
        ValueError: If it is too small or too large.
    """
    info = torch.finfo(weight.dtype)
    least = max(info.tiny, 2 * float(weight.abs().max()) / torch.finfo(working_dtype(weight.dtype)).max)
    if not least <= number <= info.max:
        dtype = str(weight.dtype).removeprefix("torch.")
        raise ValueError(
            f"scale is {number:g}, but {name}, which is {dtype}, can be scaled to {least:.2g} to {info.max:.2g} only; "
            'give a scale in between, or scale="fixed" to keep the weight\'s own.'
        )
    return number


def _known(wanted: Constraint) -> Constraint | None:
    """Find the record that a weight has already.

    Returns:
        The record, if it says the same; None if there is none.

    Raises:
        ValueError: If it says something else.
    """
    known: Constraint | None = wanted.module.__dict__.get(RECORDS, {}).get(wanted.name)
    if known is None:
        return None
    same = (known.given, known.scale_kind, known.axes) == (wanted.given, wanted.scale_kind, wanted.axes)
    if not same:
        raise ValueError(
            f"{wanted.label} is constrained already, to {known.given.name} with a {known.scale_kind} scale, and was to "
            f"go to {wanted.given.name} with a {wanted.scale_kind} one; call isometry.manifolds.release first."
        )
    return known


def _carry_out(plan: _Plan) -> None:
    constraint = plan.constraint
    constraint.set_scale(plan.kept_scale)
    if plan.point is not None:
        constraint.write_(plan.point, plan.scale)
    if plan.new:
        constraint.module.__dict__.setdefault(RECORDS, {})[constraint.name] = constraint
        register(constraint)


def _row(choice: Choice, plans: Mapping[str, _Plan]) -> ConstraintRow:
    if choice.row.name in plans:
        return plans[choice.row.name].row
    row = choice.row
    return ConstraintRow(row.name, row.role, row.shape, choice.action, why=choice.why)  # type: ignore[arg-type]
