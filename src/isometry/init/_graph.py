"""Follow one forward pass: which layer's output goes where, through which operations.

Works on any Python control flow, since it watches the tensors themselves: a function mode sees every torch operation,
hooks see the modules of torch.nn, whose insides are not looked at. A listener may replace what an operation returns,
which is how calibration corrects layer after layer in a single pass.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from isometry.init._foreign import is_foreign_activation, is_foreign_linear, is_foreign_norm
from isometry.tape import Inputs, select_output
from isometry.theory import activation_of

__all__ = ["Event", "Graph", "Node", "follow"]


@dataclass(eq=False)
class Node:
    """One operation on the way from the input to the output.

    Attributes:
        index: Its number, in order of execution.
        op: The module's class name or the function's name.
        module: The module, for operations that are modules.
        name: The module's qualified name; "" for functions.
        parents: Numbers of the operations whose results it reads.
        params: Names of the model's parameters that it reads: a module's own, or a function's arguments.
        function: For functions, the operation on its tensor argument alone, with the other arguments bound.
        shape: Shape of its (first) result.
        q: Mean square of that result; NaN for integers.
    """

    index: int
    op: str
    module: nn.Module | None = None
    name: str = ""
    parents: tuple[int, ...] = ()
    params: tuple[str, ...] = ()
    function: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    shape: tuple[int, ...] = ()
    q: float = float("nan")

    @property
    def label(self) -> str:
        """A name for messages."""
        return self.name or self.op


@dataclass
class Graph:
    """The operations between the input (node 0) and the output.

    Attributes:
        nodes: All of them, in order of execution.
        output: Number of the operation that made the model's output; None if it does not depend on the input.
    """

    nodes: list[Node]
    output: int | None = None

    def users(self) -> dict[int, list[Node]]:
        """List who reads each operation's result.

        Returns:
            Nodes by the number of the operation that they read.
        """
        found: dict[int, list[Node]] = {node.index: [] for node in self.nodes}
        for node in self.nodes:
            for parent in node.parents:
                found[parent].append(node)
        return found


@dataclass
class Event:
    """What a listener sees of an operation that has just run.

    Attributes:
        node: The operation.
        args: Its positional arguments.
        result: Its (first) tensor result.
        redo: Run it again, for example after its weight was changed.
    """

    node: Node
    args: tuple[Any, ...]
    result: Tensor
    redo: Callable[[], Any]


Listener = Callable[[Event], Tensor | None]


class _Follower(TorchFunctionMode):
    def __init__(self, model: nn.Module, listener: Listener | None) -> None:
        super().__init__()
        self.graph = Graph([])
        self.listener = listener
        self.inside = 0
        self.makers: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self.params = {id(p): name for name, p in model.named_parameters()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.inside:
            return result
        name = getattr(func, "__name__", str(func))
        made = result if result is not None or not args else args[0]  # item assignment returns nothing
        return self.note(
            name, None, "", args, kwargs, made, lambda: func(*args, **kwargs), _bound(func, args, kwargs), result
        )

    def note(
        self,
        op: str,
        module: nn.Module | None,
        name: str,
        args: Any,
        kwargs: Any,
        made: Any,
        redo: Callable[[], Any],
        function: Callable[[Tensor], Tensor] | None,
        result: Any,
    ) -> Any:
        read = list(_tensors((args, tuple(kwargs.values()))))
        parents = tuple(dict.fromkeys(i for i in map(self.maker, read) if i is not None))
        outputs = list(_tensors(made))
        if not parents or not outputs:
            return result
        params = tuple(n for n, _ in module.named_parameters(prefix=name)) if module is not None else ()
        params += tuple(self.params[id(t)] for t in read if id(t) in self.params)
        first = outputs[0]
        node = Node(len(self.graph.nodes), op, module, name, parents, params, function, tuple(first.shape))
        self.graph.nodes.append(node)
        replaced = None
        self.inside += 1
        try:
            if self.listener is not None:
                replaced = self.listener(Event(node, tuple(args), first, redo))
            node.q = mean_square(first if replaced is None else replaced)
        finally:
            self.inside -= 1
        if replaced is not None:
            result = replaced if isinstance(result, Tensor) else _with_first(result, replaced)
            outputs = list(_tensors(result))
        for tensor in outputs:
            self.remember(tensor, node.index)
        return result

    def maker(self, tensor: Tensor) -> int | None:
        entry = self.makers.get(id(tensor))
        return entry[1] if entry is not None and entry[0]() is tensor else None

    def remember(self, tensor: Tensor, index: int) -> None:
        self.makers[id(tensor)] = (weakref.ref(tensor), index)


@contextmanager
def _followed(model: nn.Module, follower: _Follower) -> Iterator[None]:
    names = {id(module): name for name, module in model.named_modules()}
    handles = []

    def before(_module: nn.Module, _args: Any, _kwargs: Any) -> None:
        follower.inside += 1

    def after(module: nn.Module, args: Any, kwargs: Any, result: Any) -> Any:
        follower.inside -= 1
        if follower.inside:
            return None

        def redo() -> Any:
            return module.forward(*args, **kwargs)

        name = names[id(module)]
        return follower.note(type(module).__name__, module, name, args, kwargs, result, redo, None, result)

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # else fused encoder layers never call their parts
    try:
        for module in model.modules():
            if atomic(module):
                handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
                handles.append(module.register_forward_hook(after, with_kwargs=True))
        with follower:
            yield
    finally:
        for handle in handles:
            handle.remove()
        torch.backends.mha.set_fastpath_enabled(fast)


def follow(model: nn.Module, x: Inputs, listener: Listener | None = None) -> Graph:
    """Run a model on a batch, without gradients, and record its operations.

    Args:
        model: The model, in whatever mode it is to be followed.
        x: The batch.
        listener: Called after each operation that depends on the input; a tensor that it returns replaces the
            operation's (first) result.

    Returns:
        The graph; node 0 is the input.
    """
    follower = _Follower(model, listener)
    real = x.first if x.leaf is None else x.leaf
    follower.graph.nodes.append(Node(0, "input", shape=tuple(real.shape), q=mean_square(real)))
    given = x.mapped(Tensor.detach, shared=True)
    for tensor in given.tensors():
        follower.remember(tensor, 0)
    with torch.no_grad(), _followed(model, follower):
        output = model(*given.args, **given.kwargs)
    follower.graph.output = follower.maker(select_output(output, x.output))
    return follower.graph


def atomic(module: nn.Module) -> bool:
    """Tell whether a module counts as one operation: torch.nn's leaves and their like, recurrent layers, attention.

    Returns:
        False for containers and for users' own modules, which are looked into (unless they are activations).
    """
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase | nn.RNNCellBase):
        return True
    if any(name != "parametrizations" for name, _ in module.named_children()):
        return False
    if activation_of(module) is not None or is_foreign_activation(module):
        return True
    if is_foreign_linear(module) or is_foreign_norm(module):
        return True
    kinds = [kind for kind in type(module).__mro__ if kind is not nn.Module]
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return not isinstance(module, containers) and any(kind.__module__.startswith("torch.nn.modules") for kind in kinds)


def mean_square(tensor: Tensor) -> float:
    """Average the squares of a tensor in float64, which holds the square of any float32.

    Returns:
        The mean square; NaN for integers.
    """
    if not tensor.is_floating_point():
        return float("nan")
    return float(tensor.detach().double().square().mean())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)


def _with_first(result: Any, replacement: Tensor) -> Any:
    if isinstance(result, tuple | list):
        return type(result)((replacement, *result[1:]))
    return result


def _bound(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[Tensor], Tensor] | None:
    if not args or not isinstance(args[0], Tensor) or any(isinstance(a, Tensor) for a in args[1:]):
        return None
    rest = args[1:]
    return lambda u: func(u, *rest, **kwargs)
