"""Looking at a model's constraints, judging them, and taking them off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

from isometry.manifolds._constraint import RECORDS, Constraint
from isometry.manifolds._defect import rounding_tolerance
from isometry.manifolds._registry import unregister
from isometry.manifolds._select import check_model, matching
from isometry.manifolds._tables import DefectRow, DefectTable

__all__ = ["bake", "check", "constraints", "release"]

Model = TypeVar("Model", bound=nn.Module)


def constraints(model: nn.Module) -> dict[str, Constraint]:
    """List the constraints of a model.

    Args:
        model: The model.

    Returns:
        The records by parameter name.
    """
    check_model(model)
    return {
        f"{prefix}.{name}" if prefix else name: constraint
        for prefix, module in model.named_modules()
        for name, constraint in module.__dict__.get(RECORDS, {}).items()
    }


def check(model: nn.Module, *, tolerance: float | None = None) -> DefectTable:
    """Measure how far a model's constrained weights are from their manifolds.

    A weight stored in bfloat16 is off by its rounding whatever one does, and is judged by that.

    Args:
        model: The model.
        tolerance: Largest Frobenius norm of the defect of Q = W / s that is ok; default: what rounding to each
            weight's dtype explains.

    Returns:
        One row per constrained weight; empty if there is none.
    """
    return DefectTable(tuple(_judge(name, record, tolerance) for name, record in constraints(model).items()))


def release(model: nn.Module, names: str | Sequence[str] | None = None) -> tuple[str, ...]:
    """Take the marks off; the weights stay as they are, and any optimizer may move them.

    Args:
        model: The model.
        names: Names or patterns of constrained parameters; default: all.

    Returns:
        The names of the parameters released.

    Raises:
        ValueError: If a name matches no constrained parameter.
    """
    found = constraints(model)
    chosen = matching(list(found), names)
    for name in chosen:
        record = found[name]
        records = record.module.__dict__[RECORDS]
        del records[record.name]
        if not records:
            del record.module.__dict__[RECORDS]
        unregister(record)
    return chosen


def bake(model: Model, names: str | Sequence[str] | None = None) -> Model:
    """Project the constrained weights once more, in float64, and take the marks off: for export.

    The weights are then on their manifolds up to the rounding of their dtype, whatever drift the training left.

    Args:
        model: The model; changed in place.
        names: Names or patterns of constrained parameters; default: all.

    Returns:
        The model.

    Raises:
        ValueError: If a name matches no constrained parameter, or a weight can no longer be projected.
    """
    found = constraints(model)
    chosen = matching(list(found), names)
    points = {}
    for name in chosen:
        record = found[name]
        weight = record.weight()
        try:
            points[name] = record.manifold.project(record.matrix(weight.double())), record.scale()
        except ValueError as error:
            raise ValueError(f"{name} cannot be projected on {record.given.name}: {error}") from error
    for name, (point, scale) in points.items():
        found[name].write_(point, scale)
    if chosen:
        release(model, chosen)
    return model


def _judge(name: str, record: Constraint, tolerance: float | None) -> DefectRow:
    if record.lost:
        note = "no longer a parameter of its module (parametrized since?)"
        return DefectRow(name, record.given.name, record.shape, None, None, None, None, None, None, ok=False, note=note)
    weight = record.weight()
    columns = record.matrix(weight).shape[-1]
    allowed = rounding_tolerance(columns, weight.dtype) if tolerance is None else tolerance
    measured = float(record.measured_scale(weight.double()))
    scale = float(record.scale())
    base = (name, record.given.name, record.shape, weight.dtype, scale, measured)
    if not bool(torch.isfinite(weight).all()):
        return DefectRow(*base, None, None, allowed, ok=False, note="holds NaN or infinity")
    if scale == 0:
        return DefectRow(*base, None, None, allowed, ok=False, note="is zero")
    found = record.manifold.check(record.point(), tolerance=allowed)
    note = ""
    # A scale that is off by a factor 1 + d makes a defect of ((1 + d)^2 - 1) sqrt(p) by itself.
    if not found.ok and abs((measured / scale) ** 2 - 1) * columns**0.5 > found.frobenius / 2:
        note = f"its scale is {measured:.6g} instead of {scale:.6g}"
    return DefectRow(*base, found.max_abs, found.frobenius, allowed, found.ok, note)
