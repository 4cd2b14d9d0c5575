"""What a probe can follow by name: scalars out of the measurements of ``isometry.measure``, cheap enough to repeat.

All of them look at the model in evaluation mode, at the same few samples every time. Where an exact measurement would
need too much, a part of it is taken, the same every time, so that the numbers of different steps compare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from isometry._base import MemoryBudgetError, stream
from isometry.tape import Inputs, measuring
from isometry.training._objective import Likelihood

__all__ = ["BUILT_IN", "NEED_TARGETS", "Batch", "Values", "checked_values"]

Values = tuple[dict[str, float], str | None]  # quantities by name, and what there is to say in words

EXACT_ROWS = 512  # samples times directions of the Fisher matrix's dual, at most; above it labels are drawn
DRAWN_ROWS = 128  # the same of the drawn one
OUTPUTS = 16  # of the tangent kernel, at most; above it evenly spaced ones
INPUTS = 8  # of the Jacobian
DENSE_OUTPUTS = 64  # up to which the Jacobian's whole spectrum is formed
PROBES = 16  # random vectors for the Hessian's trace
LANCZOS_STEPS = 24
LANCZOS_TOLERANCE = 1e-2  # relative: a curve over the training needs no more


@dataclass(frozen=True)
class Batch:
    """The samples that the built-in measures see.

    Attributes:
        x: The inputs, on the model's device.
        y: Their targets, or None.
        likelihood: Of the outputs.
        seed: Of everything that is drawn.
    """

    x: Inputs
    y: Tensor | None
    likelihood: Likelihood
    seed: int

    def out_shape(self, model: nn.Module) -> tuple[int, ...]:
        """Run the model once to see what it returns.

        Returns:
            The outputs' shape, samples first.

        Raises:
            ValueError: If the model raises.
        """
        with measuring(model), torch.no_grad():
            try:
                return tuple(self.x.clone().run(model).shape)
            except Exception as error:
                raise ValueError(
                    f"model raised {type(error).__name__} on {self.x}: {error}; pass inputs that it accepts."
                ) from error

    def targets(self, measure: str) -> Tensor:
        """Insist on targets.

        Returns:
            The targets.

        Raises:
            ValueError: If there are none.
        """
        if self.y is None:
            raise ValueError(f"measure {measure!r} needs targets; pass y to the probe, or leave it out of measures.")
        return self.y


def _signal(model: nn.Module, batch: Batch) -> Values:
    from isometry import measure

    result = measure.signal(model, batch.x, batch.y, training=False, generator=stream(batch.seed, "signal"))
    layers = result.weight_layers or result.layers
    if not layers:
        raise ValueError("the model has no layer with a weight matrix, so there is no signal to follow; leave it out.")
    dead = [a.dead for a in result.activations if not math.isnan(a.dead)]
    saturated = [a.saturated for a in result.activations if not math.isnan(a.saturated)]
    last = layers[-1].gradient_norm
    values = {
        "q_min": min(layer.q for layer in layers),
        "q_max": max(layer.q for layer in layers),
        "correlation": layers[-1].correlation,
        "gradient_ratio": layers[0].gradient_norm / last if last > 0 else math.nan,
        "nonfinite": float(sum(layer.nonfinite + layer.gradient_nonfinite for layer in result.layers)),
    }
    values |= {"dead": max(dead)} if dead else {}
    values |= {"saturated": max(saturated)} if saturated else {}
    if any(math.isnan(layer.q) for layer in layers):  # min and max pass NaN by
        values["q_min"] = values["q_max"] = math.nan
    return values, result.nonfinite_at or result.gradient_nonfinite_at


def _fisher(model: nn.Module, batch: Batch) -> Values:
    from isometry import measure

    shape, count = batch.out_shape(model), len(batch.x)
    directions = math.prod(shape[1:-1]) * (shape[-1] - 1) if batch.likelihood == "categorical" else math.prod(shape[1:])
    exact = count * directions <= EXACT_ROWS
    result = measure.fisher(
        model,
        batch.x,
        likelihood=batch.likelihood,
        kind="true" if exact else "monte-carlo",
        draws=max(1, DRAWN_ROWS // count),
        generator=stream(batch.seed, "fisher"),
    )
    values = {"lambda_max": result.lambda_max, "trace": result.trace, "effective_rank": result.effective_rank}
    if exact:
        return values, None
    drawn = f"labels drawn from the model, {result.rows} a sample"
    top, why = _exact_top(model, batch)
    if top is None:
        return values, f"{drawn}: lambda_max is biased upwards, effective_rank downwards ({why})"
    values |= {"lambda_max": top, "effective_rank": result.trace / top if top > 0 else math.nan}
    return values, f"trace by {drawn}; lambda_max exact"


def _exact_top(model: nn.Module, batch: Batch) -> tuple[float | None, str]:
    """Take the true Fisher matrix's largest eigenvalue by products, since that of few draws is far too large.

    Returns:
        The eigenvalue, or None and why.
    """
    from isometry import measure

    try:
        matrix = measure.fisher(model, batch.x, likelihood=batch.likelihood, dense=False)
        found = matrix.top(1, tolerance=LANCZOS_TOLERANCE, max_steps=LANCZOS_STEPS)
    except (ValueError, RuntimeError, MemoryBudgetError) as error:
        return None, " ".join(str(error).split())[:200]
    if not found.converged:
        return None, f"{LANCZOS_STEPS} products left a residual of {float(found.residuals[0]):.2g}"
    return float(found.eigenvalues[0]), ""


def _jacobian(model: nn.Module, batch: Batch) -> Values:
    from isometry import measure

    operator = measure.jacobian(model, batch.x if batch.x.whole else batch.x[:INPUTS], training=False)
    if min(operator.shape) <= DENSE_OUTPUTS:
        top = operator.spectrum().s_max
    else:
        draw = stream(batch.seed, "jacobian")
        top = operator.extremes(which="largest", tolerance=LANCZOS_TOLERANCE, generator=draw).s_max
    return {"s_max": float(top.mean()), "s_max_highest": float(top.max())}, None


def _ntk(model: nn.Module, batch: Batch) -> Values:
    from isometry import measure

    total = math.prod(batch.out_shape(model)[1:])
    chosen = None if total <= OUTPUTS else [i * total // OUTPUTS for i in range(OUTPUTS)]
    kernel = measure.ntk(model, batch.x, form="trace", outputs=chosen)
    spectrum = kernel.eigenvalues()
    top = float(spectrum[0])
    values = {"lambda_max": top, "effective_rank": float(spectrum.sum()) / top if top > 0 else math.nan}
    if batch.y is not None and (batch.y.is_floating_point() or batch.y.ndim == 1):  # one label a position is no row
        values["alignment"] = kernel.alignment(batch.y).cosine
    return values, None if chosen is None else f"{OUTPUTS} of {total} outputs"


def _confusion(model: nn.Module, batch: Batch) -> Values:
    from isometry import measure

    found = measure.gradient_confusion(
        model, batch.x, batch.targets("confusion"), generator=stream(batch.seed, "confusion")
    )
    return {"min_cosine": found.min_cosine, "mean_cosine": found.mean, "eta": found.eta}, None


def _curvature(model: nn.Module, batch: Batch) -> Values:
    from isometry import measure

    hessian = measure.curvature(
        model,
        batch.x,
        batch.targets("curvature"),
        loss="cross-entropy" if batch.likelihood == "categorical" else "mse",
    )
    top = hessian.top(tolerance=LANCZOS_TOLERANCE, max_steps=LANCZOS_STEPS)
    trace = hessian.trace(max_probes=PROBES, generator=stream(batch.seed, "curvature", batch.x.device))
    return {"lambda_max": float(top.eigenvalues[0]), "trace": trace.value, "trace_stderr": trace.stderr}, None


BUILT_IN: dict[str, Callable[[nn.Module, Batch], Values]] = {
    "signal": _signal,
    "fisher": _fisher,
    "jacobian": _jacobian,
    "ntk": _ntk,
    "confusion": _confusion,
    "curvature": _curvature,
}
NEED_TARGETS = ("confusion", "curvature")


def checked_values(name: str, given: Any) -> dict[str, float]:
    """Insist on what a measure of the user's must return.

    Args:
        name: The measure's name, for the message.
        given: What it returned.

    Returns:
        Floats by name.

    Raises:
        TypeError: If it is no mapping of names to single numbers, or empty.
    """
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise TypeError(
            f"measure {name!r} returned {type(given).__name__}; return a dict of numbers by name, {{'norm': 1.5}} say."
        )
    if not given:
        raise TypeError(f"measure {name!r} returned an empty dict; return at least one number by name.")
    values = {}
    for key, value in given.items():
        try:
            values[key] = float(value.detach() if isinstance(value, Tensor) else value)  # arrays' scalars, too
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"measure {name!r} returned {type(value).__name__} for {key!r}; return single real numbers."
            ) from error
    return values
