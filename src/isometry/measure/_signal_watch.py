"""Watch one forward and backward pass: layers by hooks, elementwise activations wherever they are called."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from isometry import roles
from isometry.measure._moments import (
    RangeRisk,
    UnitHealth,
    by_sample,
    constant_units,
    mean_cosine,
    range_risk,
    second_moment,
    unit_health,
)

__all__ = ["ActivationTrace", "LayerTrace", "Watch", "layer_kinds"]

# name of the torch function -> (units can die, units can saturate, steepest slope)
_ACTIVATIONS: dict[str, tuple[bool, bool, float]] = {
    **dict.fromkeys(("relu", "threshold", "hardshrink", "softshrink", "softplus"), (True, False, 1.0)),
    **dict.fromkeys(("gelu", "silu", "mish", "hardswish", "relu6"), (True, False, 1.0)),
    **dict.fromkeys(("leaky_relu", "prelu", "rrelu", "elu", "selu", "celu"), (False, False, 1.0)),
    **dict.fromkeys(("tanhshrink", "log_sigmoid", "logsigmoid", "sin"), (False, False, 1.0)),
    **dict.fromkeys(("tanh", "hardtanh", "softsign"), (False, True, 1.0)),
    "sigmoid": (False, True, 0.25),
    "hardsigmoid": (False, True, 1 / 6),
    "erf": (False, True, 1.1283791670955126),
}
_KINDS: tuple[tuple[type[nn.Module] | tuple[type[nn.Module], ...], str], ...] = (
    (nn.MultiheadAttention, "attention"),
    ((nn.RNNBase, nn.RNNCellBase), "recurrent"),
    (nn.modules.conv._ConvNd, "conv"),
    ((nn.Embedding, nn.EmbeddingBag), "embedding"),
    ((nn.Linear, nn.Bilinear), "linear"),
)


@dataclass
class LayerTrace:
    """What was seen of one call of a layer; the gradient's share is filled in by the backward pass."""

    name: str
    module: nn.Module
    kind: str
    depth: int
    units: int
    q: float
    q_error: float
    correlation: float
    constant: float
    nonfinite: int
    values: RangeRisk
    activation: str | None = None
    health: UnitHealth | None = None
    gradient_square: float = 0.0  # mean over samples of the squared norm, of the samples' own losses
    gradient_nonfinite: int = 0
    gradients: RangeRisk | None = None
    order_back: int = -1


@dataclass
class ActivationTrace:
    """What was seen of one call of an elementwise activation."""

    name: str
    function: str
    depth: int
    follows: str | None
    q: float
    correlation: float
    health: UnitHealth
    nonfinite: int


def layer_kinds(model: nn.Module) -> dict[str, str]:
    """Choose the modules to watch: those that own weight matrices or norms, and leaves with parameters of their own.

    Returns:
        The kind by qualified name.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    first = {id(module): name for name, module in model.named_modules()}
    kinds: dict[str, str] = {}
    for row in roles.table(model):
        module = modules[row.module_name]
        parent = modules.get(row.module_name.rpartition(".")[0])
        inner = "parametrizations" in row.module_name.split(".")
        if inner or (row.module_name and isinstance(parent, nn.MultiheadAttention)):
            continue  # the attention's output projection is never called as a module
        name = first[id(module)]
        leaf = not any(True for _ in module.children()) or row.parametrized
        if row.role == "norm":
            kinds.setdefault(name, "norm")
        elif row.role in (*roles.MATRIX_ROLES, "embedding") and (leaf or isinstance(module, nn.MultiheadAttention)):
            kinds[name] = next((kind for types, kind in _KINDS if isinstance(module, types)), "other")
        elif leaf and row.role == "other":
            kinds.setdefault(name, "other")
    return kinds or {"": "other"}


class Watch(TorchFunctionMode):
    """Collects traces while the model runs inside the block, and while gradients come back after it.

    Args:
        samples: Size of the batch.
        kinds: The layers to watch, from ``layer_kinds``.
    """

    def __init__(self, samples: int, kinds: dict[str, str]) -> None:
        super().__init__()
        self.samples = samples
        self.kinds = kinds
        self.layers: list[LayerTrace] = []
        self.activations: list[ActivationTrace] = []
        self.folded: list[str] = []  # layers whose output has no recognizable batch dimension
        self._counts: dict[str, int] = {}
        self._path: list[str] = []
        self._outputs: dict[int, tuple[weakref.ref[Tensor], int, LayerTrace]] = {}
        self._depth = 0
        self._returned = 0
        self._images = False
        self._sequence_first = False

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """Hook the model inside the block.

        Yields:
            Nothing.
        """
        with ExitStack() as stack:
            for name, module in model.named_modules():
                # Called even if the module raises, so that the path stays true for whoever catches the error.
                enter = module.register_forward_pre_hook(self._entering(name))
                leave = module.register_forward_hook(self._leaving(name), always_call=True)
                stack.callback(enter.remove)
                stack.callback(leave.remove)
            stack.enter_context(self)
            yield

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").rstrip("_")
        if name in _ACTIVATIONS and args and isinstance(args[0], Tensor) and args[0].is_floating_point():
            self._see_activation(name, func, args, kwargs)
        return func(*args, **kwargs)

    def _entering(self, name: str) -> Callable[[nn.Module, Any], None]:
        def on_enter(_module: nn.Module, _args: Any) -> None:
            self._path.append(name)

        return on_enter

    def _leaving(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def on_leave(module: nn.Module, _args: Any, result: Any) -> None:
            if self._path:
                self._path.pop()
            output = result if isinstance(result, Tensor) else _first_tensor(result)
            if name in self.kinds and output is not None and output.is_floating_point() and output.numel():
                # The statistics are no calls of the model's.
                with torch._C.DisableTorchFunction():
                    self._see_layer(name, module, output)

        return on_leave

    def _see_layer(self, name: str, module: nn.Module, output: Tensor) -> None:
        kind = self.kinds[name]
        self._depth += kind != "norm"
        count = self._counts[name] = self._counts.get(name, 0) + 1
        label = name if count == 1 else f"{name}#{count}"
        self._images = _has_channels(kind, module, output, before=self._images)
        self._sequence_first = getattr(module, "batch_first", True) is False and output.ndim == 3
        rows = by_sample(output, self.samples, 1 if self._sequence_first else 0)
        if rows is None:
            self.folded.append(label)
            rows = output.detach().reshape(1, -1).double()
        q, q_error = second_moment(rows)
        trace = LayerTrace(
            name=label,
            module=module,
            kind=kind,
            depth=self._depth,
            units=output.numel() // self.samples,
            q=q,
            q_error=q_error,
            correlation=mean_cosine(rows),
            constant=constant_units(rows),
            nonfinite=int((~rows.isfinite()).sum()),
            values=range_risk(output),
        )
        self.layers.append(trace)
        self._outputs[id(output)] = (weakref.ref(output), output._version, trace)
        if output.requires_grad:
            output.register_hook(self._receiver(trace))  # type: ignore[no-untyped-call]

    def _receiver(self, trace: LayerTrace) -> Callable[[Tensor], None]:
        def on_gradient(gradient: Tensor) -> None:
            # The sum of the samples' losses is what is differentiated; a training step sees their mean.
            finite = gradient.isfinite()
            trace.gradient_square = gradient.detach().double().square().sum().item() / self.samples
            trace.gradient_nonfinite = int((~finite).sum())
            trace.gradients = range_risk(gradient, self.samples)
            trace.order_back = self._returned
            self._returned += 1

        return on_gradient

    def _see_activation(self, name: str, func: Any, args: Any, kwargs: Any) -> None:
        h: Tensor = args[0]
        if not h.requires_grad or h.ndim < 2 or not h.numel():
            return  # not a function of the model's parameters or inputs: a table of constants
        rectifies, squashes, steepest = _ACTIVATIONS[name]
        with torch._C.DisableTorchFunction():
            rows = by_sample(h, self.samples)
            if rows is None:
                return
            unit_dim = 1 if self._images and h.ndim >= 3 else -1
            health = unit_health(
                lambda t: func(t, *args[1:], **kwargs),
                h,
                unit_dim,
                rectifies=rectifies,
                squashes=squashes,
                steepest=steepest,
            )
            source = self._source(h)
            path = self._path[-1] if self._path else ""
            self.activations.append(
                ActivationTrace(
                    name=path,
                    function=name,
                    depth=self._depth,
                    follows=None if source is None else source.name,
                    q=second_moment(rows)[0],
                    correlation=mean_cosine(rows),
                    health=health,
                    nonfinite=int((~rows.isfinite()).sum()),
                )
            )
        if source is not None:
            source.activation, source.health = name, health

    def _source(self, h: Tensor) -> LayerTrace | None:
        """Find the layer that returned this very tensor, untouched since.

        Returns:
            Its trace, or None.
        """
        reference, version, trace = self._outputs.get(id(h), (None, 0, None))
        return trace if reference is not None and reference() is h and h._version == version else None


def _has_channels(kind: str, module: nn.Module, output: Tensor, *, before: bool) -> bool:
    """Tell whether activations have channels in dimension 1, as images do, rather than features in the last one.

    Returns:
        True behind convolutions, until a layer that works on the last dimension.
    """
    if kind == "norm" and not isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return before and output.ndim >= 3
    return kind == "conv"


def _first_tensor(result: Any) -> Tensor | None:
    if isinstance(result, tuple | list):
        return next((r for r in result if isinstance(r, Tensor)), None)
    return None
