"""The signal through a model, layer by layer: second moments, correlations, gradients, sick units.

The quantities are those of mean field theory (Poole et al. 2016, Schoenholz et al. 2017): q^l is the second moment of
the pre-activations h^l, c^l the cosine between those of two inputs, and the ratio of squared gradient norms of
neighbouring layers of equal width is chi.

References:
    S. S. Schoenholz, J. Gilmer, S. Ganguli, J. Sohl-Dickstein. Deep Information Propagation, 2017.
    https://arxiv.org/abs/1611.01232
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from isometry._base import IGNORED, Cost, stopwatch
from isometry.linalg._precision import working_dtype
from isometry.measure._guards import (
    check_model,
    check_per_sample,
    differentiable,
    open_inputs,
    ordinary,
    outside_inference,
    run_model,
    sample_mixing,
)
from isometry.measure._moments import RangeRisk, by_sample, mean_cosine, range_risk, second_moment
from isometry.measure._signal_result import ActivationSignal, LayerSignal, SignalResult
from isometry.measure._signal_watch import LayerTrace, Watch, layer_kinds
from isometry.tape import Inputs, measuring

__all__ = ["signal"]

Probe = Literal["cross-entropy", "mse", "random cotangent"]


@outside_inference
def signal(
    model: nn.Module,
    x: Tensor | Inputs | Mapping[str, Any] | Sequence[Any],
    targets: Tensor | None = None,
    *,
    training: bool | None = None,
    generator: torch.Generator | None = None,
) -> SignalResult:
    """Measure the signal through a model in one forward and one backward pass.

    The layers are the modules that own weight matrices, and normalizations; a layer's q, correlation and gradient are
    those of its output, the pre-activation. Elementwise activations are found whether they are modules or functions.

    Batch normalization and dropout decide what is measured, so a model that has them in training mode is refused until
    ``training`` says which of two different things is wanted. True is what a training step sees: batch statistics, one
    draw of the masks; gradients are then of the batch's loss with respect to one sample's activations. False is what
    evaluation sees: running statistics, which of a model that was never trained are mean 0 and variance 1 (a note in
    the result says so).

    Args:
        model: Any module.
        x: Inputs, the batch as the first dimension: a tensor, a tuple, a dict by argument name, or ``Inputs``.
        targets: Class indices (N,) for the cross-entropy of the outputs (N, K), (N, T) for one label per position, or
            real values of the outputs' shape for the mean squared error. None sends random unit cotangents back.
        training: Measure in training mode, in evaluation mode, or (None) in the modes that the model is in.
        generator: Source of the random cotangents.

    Returns:
        A frozen table of the layers, which prints itself.

    Raises:
        TypeError: If the model is no module or returns no single real-valued tensor, or an input is no tensor.
        ValueError: If the inputs are empty, not finite or do not fit the model, if the targets do not fit the
            outputs, or if samples mix and ``training`` does not say how to measure.

    Example:
        >>> layer = nn.Linear(4, 4, bias=False)
        >>> _ = nn.init.orthogonal_(layer.weight)
        >>> result = signal(layer, torch.eye(4))
        >>> round(result.layers[0].q, 4), round(result.input_q, 4)  # an isometry keeps the second moment
        (0.25, 0.25)
    """
    check_model(model)
    inputs = open_inputs(model, x)
    with stopwatch() as watch, measuring(model, training=training, denormals=True), differentiable(model):
        if training is None:
            check_per_sample(
                model,
                "one sample's signal is",
                "Pass training=True to measure what a training step sees, or training=False for evaluation mode.",
            )
        kinds = layer_kinds(model)
        traces = Watch(len(inputs), kinds)
        leaf = None if inputs.leaf is None else inputs.leaf.detach().requires_grad_()
        given = inputs.clone()  # which a model that works in place may overwrite
        with traces.attached(model):
            output = run_model(model, given if leaf is None else given.with_leaf(leaf.clone()))
        notes = _notes(model, traces)
        probe, losses = _losses(output, targets, generator)
        input_gradient, weights = _send_back(losses.sum(), leaf, len(inputs), model)
        modes = any(module.training for module in model.modules())
    loss = losses.detach().double().mean().item() if targets is not None else math.nan
    rows = by_sample(inputs.leaf, len(inputs)) if inputs.leaf is not None else None
    return SignalResult(
        layers=tuple(_layer(trace, weights) for trace in traces.layers),
        activations=_activations(traces),
        samples=len(inputs),
        input_q=second_moment(rows)[0] if rows is not None else math.nan,
        input_correlation=mean_cosine(rows) if rows is not None else math.nan,
        input_gradient_norm=input_gradient,
        probe=probe,
        loss=loss,
        training=modes,
        nonfinite_at=next((t.name for t in traces.layers if t.nonfinite), None),
        gradient_nonfinite_at=next(
            (t.name for t in sorted(traces.layers, key=lambda t: t.order_back) if t.gradient_nonfinite), None
        ),
        notes=notes,
        dtype=str(output.dtype).removeprefix("torch."),
        cost=Cost(forward_passes=1, backward_passes=1, seconds=watch.seconds),
    )


def _losses(output: Tensor, targets: Tensor | None, generator: torch.Generator | None) -> tuple[Probe, Tensor]:
    """Choose what to differentiate: one number per sample.

    Returns:
        The probe's name, and shape ``(N,)``.

    Raises:
        TypeError: If the targets are no tensor.
        ValueError: If the targets do not fit the outputs.
    """
    if targets is None:
        direction = torch.randn(output.shape, dtype=torch.float64, generator=generator)  # the CPU's stream, everywhere
        rows = torch.nn.functional.normalize(direction.reshape(len(output), -1), dim=1)
        cotangent = rows.reshape(output.shape).to(output.device, output.dtype)
        return "random cotangent", (output * cotangent).reshape(len(output), -1).sum(1)
    if not isinstance(targets, Tensor):
        raise TypeError(f"targets must be a torch.Tensor, got {type(targets).__name__}; convert them first.")
    targets = ordinary(targets)
    if targets.is_floating_point():
        if targets.shape != output.shape:
            raise ValueError(
                f"targets have shape {tuple(targets.shape)}, the outputs {tuple(output.shape)}; real-valued targets "
                "need the outputs' shape (class indices need an integer dtype)."
            )
        wanted = targets.to(output)
        return "mse", (output - wanted).square().reshape(len(output), -1).mean(1)
    logits = output if output.ndim > 1 and targets.shape == output.shape[:-1] else output.movedim(1, -1)  # (N, ..., C)
    if output.ndim < 2 or targets.shape != logits.shape[:-1]:
        raise ValueError(
            f"targets have shape {tuple(targets.shape)}, the outputs {tuple(output.shape)}; class indices need shape "
            "(N,) for outputs (N, classes), (N, T) for outputs (N, T, classes) or (N, classes, T)."
        )
    labels, classes = targets.long().to(output.device), logits.shape[-1]
    known = labels[labels != IGNORED]
    low, high = (int(known.min()), int(known.max())) if known.numel() else (IGNORED, IGNORED)
    if low < 0 or high >= classes:
        raise ValueError(
            f"targets lie in {low}..{high}, but the model has {classes} outputs; labels must be 0..{classes - 1}."
        )
    wide = logits.to(working_dtype(logits.dtype)).reshape(-1, classes)
    flat = torch.nn.functional.cross_entropy(wide, labels.flatten(), reduction="none", ignore_index=IGNORED)
    flat = flat.reshape(len(output), -1)
    # Of samples with fewer labels than others each label counts the same, as in the usual mean over positions.
    return "cross-entropy", flat.sum(1) * (len(output) / known.numel())


def _send_back(
    total: Tensor, leaf: Tensor | None, count: int, model: nn.Module
) -> tuple[float, dict[int, tuple[float, RangeRisk]]]:
    """Differentiate the summed losses; the layers' hooks see their share as it passes.

    Returns:
        The input's gradient norm, and by parameter the squared norm and range of the mean loss's gradient.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    inputs = [] if leaf is None else [leaf]
    if not total.requires_grad or not (parameters or inputs):
        return math.nan, {}
    gradients = torch.autograd.grad(total, [*inputs, *parameters], allow_unused=True)
    weights = {
        id(p): ((_norm(g) / count) ** 2, range_risk(g, count))
        for p, g in zip(parameters, gradients[len(inputs) :], strict=True)
        if g is not None
    }
    if not inputs:
        return math.nan, weights
    first = gradients[0]
    return 0.0 if first is None else _norm(first) / math.sqrt(count), weights


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64).item())


def _layer(trace: LayerTrace, weights: dict[int, tuple[float, RangeRisk]]) -> LayerSignal:
    own = [(weights[id(p)], p.numel()) for p in trace.module.parameters() if id(p) in weights]
    return LayerSignal(
        name=trace.name,
        kind=trace.kind,
        depth=trace.depth,
        units=trace.units,
        q=trace.q,
        q_error=trace.q_error,
        correlation=trace.correlation,
        gradient_norm=math.sqrt(trace.gradient_square),
        gradient_second_moment=trace.gradient_square / trace.units,
        weight_gradient_norm=math.sqrt(sum(square for (square, _), _ in own)),
        dead=trace.health.dead if trace.health else math.nan,
        saturated=trace.health.saturated if trace.health else math.nan,
        constant=trace.constant,
        nonfinite=trace.nonfinite,
        gradient_nonfinite=trace.gradient_nonfinite,
        values=trace.values,
        gradients=trace.gradients,
        weight_gradients=_pooled([(risk, count) for (_, risk), count in own]),
        activation=trace.activation,
    )


def _pooled(parts: list[tuple[RangeRisk, int]]) -> RangeRisk | None:
    total = sum(count for _, count in parts)
    if not total:
        return None
    names = RangeRisk.__dataclass_fields__
    return RangeRisk(**{n: sum(getattr(risk, n) * count for risk, count in parts) / total for n in names})


def _activations(traces: Watch) -> tuple[ActivationSignal, ...]:
    return tuple(
        ActivationSignal(
            name=trace.name,
            function=trace.function,
            depth=trace.depth,
            follows=trace.follows,
            q=trace.q,
            correlation=trace.correlation,
            dead=trace.health.dead,
            saturated=trace.health.saturated,
            saturation=trace.health.saturation,
            nonfinite=trace.nonfinite,
        )
        for trace in traces.activations
    )


def _notes(model: nn.Module, traces: Watch) -> tuple[str, ...]:
    notes = [f"samples mix: {m.name!r} ({m.kind}) {m.why}" for m in sample_mixing(model)[:1]]
    fresh = [
        name
        for name, module in model.named_modules()
        if not module.training and getattr(module, "num_batches_tracked", None) is not None
        if int(module.num_batches_tracked) == 0
    ]
    if fresh:
        notes.append(
            f"{fresh[0]!r}{f' and {len(fresh) - 1} more' if len(fresh) > 1 else ''} never saw a training batch: "
            "evaluation mode shows running statistics of mean 0 and variance 1"
        )
    if traces.folded:
        notes.append(f"no batch dimension recognized in the output of {', '.join(traces.folded[:3])}: no correlation")
    unseen = sorted(set(traces.kinds) - {t.name.split("#")[0] for t in traces.layers})
    if unseen:
        notes.append(f"never called: {', '.join(unseen[:5])}")
    return tuple(notes)
