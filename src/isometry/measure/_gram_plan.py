"""Which of a model's parameters have Jacobian rows in closed form, found by running the model on two samples.

The closed forms of a module hold only for what its own ``forward`` does. So a small run watches every operation: a
parameter that is read anywhere else (a weight used functionally, a parametrization, a recurrent network) goes to the
general route. The same run finds out where the samples are in each module's tensors, by changing the batch size, and
sends cotangents of single samples back: they must be exactly zero at every other sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from isometry.measure._gram_modules import Kind, Layout, by_sample, find_layout, is_scale, kind_of, leading_dimensions
from isometry.measure._guards import ModelCallError, run_model
from isometry.tape import Call, Inputs, record

__all__ = ["Bundle", "CallPlan", "Plan", "make_plan"]


@dataclass(frozen=True)
class CallPlan:
    """One call of a module with a closed form.

    Attributes:
        order: Which recorded call it is.
        name: The module's name.
        module: The module.
        kind: Its closed form.
        layout: Where the samples are, or None if that cannot be told.
        output_numel: Elements of its output per sample.
        input_numel: Elements of its input per sample.
    """

    order: int
    name: str
    module: nn.Module
    kind: Kind
    layout: Layout | None
    output_numel: int
    input_numel: int


@dataclass(frozen=True)
class Bundle:
    """Parameters whose Jacobian rows come from the same calls, handled together.

    Attributes:
        names: "weight" and "bias", as the modules call them, to the parameters' names in the model.
        calls: Orders of the calls that use them.
        group: The layer that they are counted under.
    """

    names: dict[str, str]
    calls: tuple[int, ...]
    group: str


@dataclass(frozen=True)
class Plan:
    """How the Gram matrix of a model's parameter Jacobians will be made.

    Attributes:
        samples: The batch size.
        parameters: The chosen parameters by name, tied ones once.
        calls: Every call of a module with a closed form, by order.
        bundles: Parameters with closed forms.
        general: Parameters without.
        unused: Parameters that the forward pass does not read.
        watched: Names of the modules whose calls are recorded.
    """

    samples: int
    parameters: dict[str, nn.Parameter]
    calls: dict[int, CallPlan]
    bundles: tuple[Bundle, ...]
    general: tuple[str, ...]
    unused: tuple[str, ...]
    watched: frozenset[str] = field(default=frozenset())

    @property
    def size(self) -> int:
        """How many numbers the chosen parameters hold."""
        return sum(p.numel() for p in self.parameters.values())

    def general_groups(self) -> dict[str, list[str]]:
        """Sort the parameters without a closed form by layer.

        Returns:
            Layers to their parameters' names.
        """
        groups: dict[str, list[str]] = {}
        for name in self.general:
            groups.setdefault(self.group_of(name), []).append(name)
        return groups

    def group_of(self, name: str) -> str:
        """Name the layer that a parameter is counted under.

        Returns:
            The module's name; for a parametrization's original, that of the module it parametrizes.
        """
        return name.rpartition(".")[0].split(".parametrizations")[0].removeprefix("parametrizations")


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which parameters are read by an operation outside the forward of their own closed-form module."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ids = {id(p) for p in parameters}
        self.inside: list[nn.Module] = []
        self.elsewhere: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its whole compiler, which takes seconds, for this one small pass

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for arg in (*args, *(kwargs or {}).values()):
            for part in arg if isinstance(arg, list | tuple) else (arg,):
                if id(part) in self.ids and not self._own(part):
                    self.elsewhere.add(id(part))
        return func(*args, **(kwargs or {}))

    def _own(self, parameter: Tensor) -> bool:
        return bool(self.inside) and any(
            self.inside[-1]._parameters.get(name) is parameter for name in ("weight", "bias")
        )


@contextmanager
def _stack_of(reads: _Reads, modules: Iterable[nn.Module]) -> Iterator[None]:
    handles = []
    for module in modules:
        handles.append(module.register_forward_pre_hook(lambda m, _args: reads.inside.append(m)))
        handles.append(module.register_forward_hook(lambda _m, _args, _out: _pop(reads), prepend=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pop(reads: _Reads) -> None:
    reads.inside.pop()


def make_plan(model: nn.Module, x: Inputs, parameters: dict[str, nn.Parameter]) -> Plan:
    """Run a model on a few samples and plan how each chosen parameter's Jacobian rows are had.

    Args:
        model: The model; the caller has put it in the mode that is measured and restores it.
        x: The batch, samples first.
        parameters: The chosen parameters by name.

    Returns:
        The plan.

    Raises:
        ValueError: If samples influence each other's outputs, or the output depends on no parameter.
    """
    chosen = {id(p): name for name, p in parameters.items()}
    watched = frozenset(
        name
        for name, module in model.named_modules()
        if kind_of(module) is not None and any(id(p) in chosen for p in module._parameters.values() if p is not None)
    )
    samples = len(x)
    few = 2 if samples == 3 else 3  # not the batch's own size: it must be told apart from other dimensions
    if x.whole:
        few, small = 1, x
    else:
        small = x[:few] if samples > few else x[torch.arange(few, device=x.device) % samples]
    reads = _Reads(parameters.values())
    closed = [m for n, m in model.named_modules() if n in watched]
    calls: dict[int, Call] = {}
    with (
        record(model, lambda n, _m: n in watched, cotangents=True, copy=True) as recording,
        torch.enable_grad(),
    ):
        with _stack_of(reads, closed), reads:
            out = _run_few(model, small)
        calls = {call.order: call for call in recording.calls}
        back: dict[int, Tensor] = {}
        if not x.whole and isinstance(out, Tensor) and out.requires_grad and out.ndim and out.shape[0] == few:
            each = torch.zeros(few, *out.shape, dtype=out.dtype, device=out.device)
            for n in range(few):
                each[n, n] = torch.linspace(0.5, 1.5, max(out[0].numel(), 1), dtype=out.dtype).reshape(out[0].shape)
            recording.pull_back(out, each, lambda call, a: back.__setitem__(call.order, a.clone()))
    if x.whole:
        plans = {order: _whole_plan(call) for order, call in calls.items()}
    else:
        alone = _alone(model, small[:1], watched)
        plans = {order: _call_plan(call, alone, back.get(order), few) for order, call in calls.items()}
    plan = _sort(parameters, plans, chosen, reads.elsewhere, samples, watched)
    if isinstance(out, Tensor) and not out.requires_grad and plan.bundles and not plan.general:
        raise ValueError(
            "the model's output does not depend on any parameter through differentiable operations; look for "
            ".detach(), no_grad or argmax in its forward pass."
        )
    return plan


def _whole_plan(call: Call) -> CallPlan:
    """Plan a call in a model whose batch is one sample: whatever precedes the features are positions.

    Returns:
        The plan.
    """
    shape = call.output_shape
    known = leading_dimensions(call.module, len(shape)) > 0 and _is_what_it_seems(call)
    layout = Layout(0, 1, shape[0]) if known else None
    return CallPlan(call.order, call.name, call.module, _kind(call), layout, shape.numel(), call.input.numel())


def _is_what_it_seems(call: Call) -> bool:
    return _kind(call) != "norm" or is_scale(call.module, call.inputs, call.output)


def _kind(call: Call) -> Kind:
    kind = kind_of(call.module)
    if kind is None:  # pragma: no cover - only modules with a closed form are watched
        raise AssertionError(call.name)
    return kind


def _run_few(model: nn.Module, x: Inputs) -> Tensor:
    try:
        return run_model(model, x.clone())
    except ModelCallError as error:
        raise ValueError(
            f"model ran on the whole batch but not on {len(x)} of its samples ({error}); if its rows influence each "
            "other, as the nodes of a graph do, pass the batch as one sample: isometry.Inputs(..., whole=True)."
        ) from error


def _alone(model: nn.Module, x: Inputs, watched: frozenset[str]) -> list[Call]:
    with record(model, lambda n, _m: n in watched, copy=True) as recording, torch.no_grad():
        _run_few(model, x)
    return recording.calls


def _call_plan(call: Call, alone: list[Call], back: Tensor | None, samples: int) -> CallPlan:
    layout = None
    if _is_what_it_seems(call) and call.order < len(alone) and alone[call.order].name == call.name:
        first = alone[call.order].output
        layout = find_layout(call.module, call.output_shape, first.shape, (samples, 1))
        if layout is not None and back is not None:
            layout = _confirmed(call, layout, back, first, samples)
    return CallPlan(
        order=call.order,
        name=call.name,
        module=call.module,
        kind=_kind(call),
        layout=layout,
        output_numel=call.output_shape.numel() // samples,
        input_numel=call.input.numel() // samples,
    )


def _confirmed(call: Call, layout: Layout, back: Tensor, first: Tensor, samples: int) -> Layout | None:
    """Check by single-sample cotangents that samples are where the layout says, and in which order.

    Args:
        call: The call on a few samples.
        layout: The dimension that holds the samples.
        back: Cotangents at its output, direction n for sample n.
        first: The call's output on the first sample alone.
        samples: How many.

    Returns:
        The one order of samples and positions that fits, or None if several do.

    Raises:
        ValueError: If none does because samples influence each other.
    """
    merged = layout.outer * layout.inner
    fitting = []
    for outer in (o for o in range(1, merged + 1) if merged % o == 0):
        candidate = Layout(layout.axis, outer, merged // outer)
        parts = by_sample(back, candidate, samples, 0, lead=1).flatten(2)  # (samples, samples, everything)
        stray = ((parts != 0) & ~parts.isnan()).any(-1)
        stray.fill_diagonal_(False)
        if not bool(stray.any()):
            fitting.append(candidate)
    if not fitting and merged == 1:
        raise ValueError(
            f"model: the output for one sample depends on the other samples (seen at {call.name!r}), so per-sample "
            "quantities are undefined; use running statistics (eval mode) or a normalization within the sample."
        )
    if len(fitting) > 1:  # cotangents at few positions can fit both orders: then the values decide
        rows = first.flatten().double()
        gaps = [float((by_sample(call.output, c, samples, 0)[0].flatten() - rows).norm()) for c in fitting]
        best = min(gaps)
        fitting = [c for c, gap in zip(fitting, gaps, strict=True) if gap <= 10 * best + 1e-12 * float(rows.norm())]
    return fitting[0] if len(fitting) == 1 else None


def _sort(
    parameters: dict[str, nn.Parameter],
    calls: dict[int, CallPlan],
    chosen: dict[int, str],
    elsewhere: set[int],
    samples: int,
    watched: frozenset[str],
) -> Plan:
    uses: dict[str, list[tuple[int, str]]] = {}  # parameter -> (call, the module's word for it)
    for order, call in calls.items():
        for word in ("weight", "bias"):
            parameter = call.module._parameters.get(word)
            if parameter is not None and id(parameter) in chosen:
                uses.setdefault(chosen[id(parameter)], []).append((order, word))
    general = []
    for name, parameter in parameters.items():
        lost = any(calls[order].layout is None for order, _ in uses.get(name, []))
        mixed = len({word for _, word in uses.get(name, [])}) > 1
        if id(parameter) in elsewhere or lost or mixed:
            general.append(name)
            uses.pop(name, None)
    unused = tuple(name for name in parameters if name not in uses and name not in general)
    plan = Plan(samples, parameters, calls, (), tuple(general), unused, watched)
    bundles: dict[tuple[tuple[int, ...], str], Bundle] = {}
    for name, where in uses.items():
        orders, word, group = tuple(order for order, _ in where), where[0][1], plan.group_of(name)
        key = (orders, group)
        previous = bundles.get(key)
        names = {**(previous.names if previous else {}), word: name}
        bundles[key] = Bundle(names, orders, group)
    return Plan(samples, parameters, calls, tuple(bundles.values()), tuple(general), unused, watched)
