"""Initialize a whole model so that signals and gradients pass: by theory where it applies, else calibrated on data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from isometry._base import Cost, base_seed, check_finite, check_positive, check_tensor, stopwatch
from isometry.init._analytic import initialize_chain
from isometry.init._calibrate import calibrate
from isometry.init._chain import Chain, chain_of
from isometry.init._graph import Event, Graph, follow, mean_square
from isometry.init._kinds import kind_of
from isometry.init._operating_point import OperatingPoint, Shift
from isometry.init._plan import make_plan
from isometry.init._rescale import rescale_chain
from isometry.init._rows import Ledger
from isometry.init._structure import structure
from isometry.init._table import InitTable, LayerCheck
from isometry.roles import Override, ParameterTable, table
from isometry.tape import Inputs, as_inputs, untouched
from isometry.theory import Activation
from isometry.theory._resolve import resolve_activation

__all__ = ["critical_"]

Weights = Literal["orthogonal", "gaussian"]
Method = Literal["auto", "analytic", "data"]
_TOLERANCE = math.log(1.5)  # how far a layer's mean square may be off: finite width moves it by about this much


def critical_(
    model: nn.Module,
    *,
    activation: str | nn.Module | Callable[[Tensor], Tensor] | None = None,
    q_star: float | None = None,
    data: Tensor | Inputs | Mapping[str, Any] | Sequence[Any] | None = None,
    weights: Weights = "orthogonal",
    overrides: Mapping[str, Override] | None = None,
    method: Method = "auto",
    shift: Shift = "auto",
    absorb_inputs: bool = True,
    generator: torch.Generator | None = None,
) -> InitTable:
    """Overwrite a model's parameters so that signals and gradients keep their size through its depth.

    A plain chain (weights and known activations in turn, nothing else that mixes) is set by mean-field theory:
    (delta-)orthogonal weights times sigma_w, biases of standard deviation sigma_b, both from criticality at q*, the
    inputs brought to q* by the first layer. Everything else is calibrated on a batch: from an orthogonal start, each
    layer is scaled to its activation's operating point, each residual branch to its share of the sum's growth, the
    outputs to small logits, all in one forward pass.

    Every parameter is either overwritten or listed with the reason why not: frozen ones (``requires_grad`` False) are
    skipped, since their values are taken to be meant; parametrized ones are set through their right inverse or
    skipped; tied ones are set once.

    Args:
        model: The model; overwritten in place. Its modes, gradients and hooks stay as they are.
        activation: The activation, where it cannot be recognised; a name, a module or an elementwise callable.
        q_star: Variance of the pre-activations. Default: the largest, up to 1/2, that keeps the predicted variance of
            the Jacobian's squared singular values at 4 over the model's depth; about 0.08 for tanh at depth 100.
        data: A batch of inputs, shape ``(B, ...)``; a tuple, a dict by argument name or ``Inputs`` for models that take
            several tensors. Needed where the model is not a plain chain; otherwise it measures
            the inputs' scale and verifies the result.
        weights: "orthogonal", or "gaussian" with variance sigma_w^2 / fan_in.
        overrides: Roles or axes by parameter-name pattern, as in ``roles.table``.
        method: "analytic", "data", or "auto": analytic where possible.
        shift: Whether biases may move the operating point where criticality around zero does not exist (sigmoid,
            softplus) or cannot give isometry (ReLU in deep nets): "auto", "never" or "always".
        absorb_inputs: Put the inputs' scale and mean into the first layer of a chain. Otherwise the first layer is
            exactly sigma_w Q, and the table's ``input_scale`` says what to multiply the inputs with; without data it
            is None, and ``scale_inputs`` brings each sample to q*.
        generator: Source of the seed; each parameter draws from a stream of its own name, so adding or freezing
            another one does not change its draw.

    Returns:
        The table of what was done to each parameter, and what was then measured.

    Raises:
        TypeError: If the model is not a module or the data not a tensor.
        ValueError: If the data are empty or not finite, ``q_star`` is not positive, an option is unknown, every
            parameter is frozen, or the analytic route does not apply and there are no data; the message says why.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4))
        >>> done = critical_(net, q_star=0.25, generator=torch.Generator().manual_seed(0))
        >>> round(done.sigma_w, 3), round(done.sigma_b, 3)
        (1.181, 0.09)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}; build the model first.")
    _check_options(weights, method, shift)
    if q_star is not None:
        check_positive("q_star", q_star)
    given = None if activation is None else resolve_activation(activation)
    batch = None if data is None else _fitting(model, _checked(data))
    ledger = Ledger(_table(model, overrides, batch))
    _insist_on_unfrozen(model)
    seed = base_seed(generator)
    with stopwatch() as watch:
        chain = "the caller asked for data" if method == "data" else _chain(model, batch, given)
        if isinstance(chain, Chain):
            result = _analytic(model, chain, ledger, batch, q_star, weights, shift, absorb_inputs, seed, method)
        elif method == "analytic":
            raise ValueError(f"method='analytic' does not apply to this model: {chain}; use method='auto' with data=.")
        elif batch is None:
            raise ValueError(
                f"data is needed to initialize this model: it is no plain chain, since {chain}. "
                "Pass a batch of inputs as data=."
            )
        else:
            if method == "auto":
                ledger.note(f"calibrated on data, since {chain}")
            result = _data_driven(model, ledger, batch, q_star, weights, shift, given, seed)
    return _with_seconds(result, watch.seconds)


def _insist_on_unfrozen(model: nn.Module) -> None:
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(
            "model has no parameter that requires a gradient, and frozen values are taken to be meant, so nothing "
            "would be written; call requires_grad_(True) on what may be initialized."
        )


def _checked(data: object) -> Inputs:
    """Insist on a batch of finite inputs.

    Returns:
        The batch.

    Raises:
        TypeError: If it is no tensor and holds none.
    """
    if isinstance(data, Tensor):
        check_tensor("data", data, min_ndim=2 if data.is_floating_point() else 1)
    try:
        inputs = as_inputs(data)
    except TypeError as error:
        raise TypeError(f"data{str(error).removeprefix('x')}") from None
    for tensor in inputs.tensors():
        check_finite("data", check_tensor("data", tensor))
    return inputs


def _check_options(weights: str, method: str, shift: str) -> None:
    for name, value, known in (
        ("weights", weights, ("orthogonal", "gaussian")),
        ("method", method, ("auto", "analytic", "data")),
        ("shift", shift, ("auto", "never", "always")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}.")


def _table(model: nn.Module, overrides: Mapping[str, Override] | None, batch: Inputs | None) -> ParameterTable:
    rows = table(model, overrides)  # complains about the model itself
    meta = [name for name, p in model.named_parameters() if p.is_meta]
    if meta:
        raise ValueError(
            f"model has parameters on the meta device ({meta[0]}, ...), which have no storage to write to; materialize "
            'it first, for example with model.to_empty(device="cpu").'
        )
    if batch is None:
        return rows
    try:
        return table(model, overrides, example=batch)
    except ValueError as error:
        raise ValueError(f"data: {str(error).removeprefix('example: ')}") from error


def _fitting(model: nn.Module, data: Inputs) -> Inputs:
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    return data if first is None else data.to(first.device, first.dtype)


def _chain(model: nn.Module, x: Inputs | None, given: Activation | None) -> Chain | str:
    graph = structure(model) if x is None else _run(model, x)
    if isinstance(graph, str):
        return graph
    return chain_of(graph, given)


def _run(model: nn.Module, x: Inputs, listener: Any = None, *, statistics: bool = False) -> Graph:
    """Follow a forward pass without a trace on the model.

    Args:
        model: The model.
        x: The batch.
        listener: Sees the operations.
        statistics: Normalize batches by their own statistics, as in training.

    Returns:
        The graph.
    """
    with untouched(model, training=False):
        if statistics:
            _batch_statistics(model)
        return follow(model, x, listener)


def _batch_statistics(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train()


def _analytic(
    model: nn.Module,
    chain: Chain,
    ledger: Ledger,
    x: Inputs | None,
    q_star: float | None,
    weights: Weights,
    shift: Shift,
    absorb: bool,
    seed: int,
    method: Method,
) -> InitTable:
    read = None if x is None else _read_by(model, x, chain.stages[0].node.name)
    done = initialize_chain(
        model, chain, ledger, x=read, q_star=q_star, weights=weights, shift=shift, absorb=absorb, seed=seed
    )
    if chain.dropout:
        ledger.note("the theory leaves dropout out of account")
    checks: tuple[LayerCheck, ...] = ()
    passes = 0
    if x is not None:
        scaled = x if done.input_scale is None else x.scaled(done.input_scale)
        checks, passes = _check_chain(model, chain, done.points, scaled), 3
        if method == "auto" and not _verdict(checks)[1]:
            rescale_chain(model, chain, ledger, done.points, scaled, _run)
            checks, passes = _check_chain(model, chain, done.points, scaled), 5
            ledger.note("layers that finite width had moved off q* were rescaled on the data")
    residual, converged = _verdict(checks)
    return InitTable(
        rows=ledger.finish(),
        method="analytic",
        weights=weights,
        operating_point=done.points[0],
        input_scale=done.input_scale,
        absorbed_scale=done.absorbed_scale,
        checks=checks,
        residual=residual,
        converged=converged,
        notes=tuple(ledger.notes),
        seed=seed,
        cost=Cost(forward_passes=passes),
    )


def _read_by(model: nn.Module, x: Inputs, name: str) -> Tensor:
    read: list[Tensor] = []

    def listener(event: Event) -> None:
        if event.node.name == name:
            read.append(event.args[0].detach().clone())

    _run(model, x, listener)
    return read[0]


def _check_chain(
    model: nn.Module, chain: Chain, points: tuple[OperatingPoint, ...], x: Inputs
) -> tuple[LayerCheck, ...]:
    aims = {
        stage.node.name: (points[i].q_star, points[i].shift) if stage.activation is not None else (None, 0.0)
        for i, stage in enumerate(chain.stages)
    }
    checks: list[LayerCheck] = []

    def listener(event: Event) -> None:
        if event.node.name in aims:
            target, shift = aims[event.node.name]
            checks.append(LayerCheck(event.node.name, mean_square(event.result - shift), target, shift))

    _run(model, x, listener)
    return tuple(checks)


def _data_driven(
    model: nn.Module,
    ledger: Ledger,
    x: Inputs,
    q_star: float | None,
    weights: Weights,
    shift: Shift,
    given: Activation | None,
    seed: int,
) -> InitTable:
    graph = _run(model, x, statistics=True)
    plan = make_plan(graph, q_star=q_star, shift=shift, given=given)
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        _batch_statistics(model)
        with torch.random.fork_rng(devices=[]):
            targets = calibrate(model, plan, ledger, x, weights=weights, seed=seed)
    finally:
        for module, mode in modes:
            module.training = mode
    checks: list[LayerCheck] = []

    def listener(event: Event) -> None:
        if kind_of(event.node) in ("weight", "recurrent", "attention", "norm"):
            target, shift = targets.get(event.node.index, (None, 0.0))
            checks.append(LayerCheck(event.node.label, mean_square(event.result - shift), target, shift))

    _run(model, x, listener, statistics=True)
    residual, converged = _verdict(tuple(checks))
    return InitTable(
        rows=ledger.finish(),
        method="data",
        weights=weights,
        operating_point=plan.points[0] if plan.points else None,
        checks=tuple(checks),
        residual=residual,
        converged=converged,
        notes=tuple(ledger.notes),
        seed=seed,
        cost=Cost(forward_passes=3),
    )


def _verdict(checks: tuple[LayerCheck, ...]) -> tuple[float | None, bool | None]:
    if not checks:
        return None, None
    errors = []
    for check in checks:
        if not math.isfinite(check.q) or (check.target is not None and not check.q > 0):
            return math.inf, False
        if check.target is not None:
            errors.append(abs(math.log(check.q / check.target)))
    residual = max(errors, default=0.0)
    return residual, residual <= _TOLERANCE


def _with_seconds(result: InitTable, seconds: float) -> InitTable:
    return replace(result, cost=replace(result.cost, seconds=seconds))
