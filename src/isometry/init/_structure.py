"""The operations of a model without running it, where torch.fx can trace it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from isometry.init._graph import Graph, Node, atomic

__all__ = ["structure"]

_NOT_TENSORS = {"getattr", "size", "dim", "numel", "len", "ndimension"}


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, _qualified_name: str) -> bool:
        return atomic(module)


def structure(model: nn.Module) -> Graph | str:
    """Trace a model symbolically.

    Args:
        model: The model; its code is run on symbols, none of its numbers are read.

    Returns:
        The graph, or the reason why the model cannot be traced, as a clause.
    """
    tracer = _Tracer()
    try:
        traced = tracer.trace(model)
    except Exception as error:  # noqa: BLE001 - the model's code runs on symbols and may do anything
        return f"its forward pass cannot be followed without an input ({type(error).__name__}: {_first_line(error)})"
    names = {id(p): name for name, p in model.named_parameters()}
    made: dict[fx.Node, int] = {}
    fixed: dict[fx.Node, str] = {}
    graph = Graph([])
    for node in traced.nodes:
        if node.op == "placeholder":
            if graph.nodes:
                if not node.args:  # no default value: a second input
                    return "it takes several inputs"
                continue
            made[node] = 0
            graph.nodes.append(Node(0, "input"))
        elif node.op == "get_attr":
            value = _attribute(model, str(node.target))
            if id(value) in names:
                fixed[node] = names[id(value)]
        elif node.op == "output":
            sources = [n for n in node.all_input_nodes if n in made]
            if len(sources) != 1:
                return "it returns several tensors"
            graph.output = made[sources[0]]
        else:
            _add(model, node, graph, made, fixed)
    return graph


def _add(model: nn.Module, node: fx.Node, graph: Graph, made: dict[fx.Node, int], fixed: dict[fx.Node, str]) -> None:
    op = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", str(node.target))
    parents = tuple(made[n] for n in node.all_input_nodes if n in made)
    if not parents or op in _NOT_TENSORS:
        return
    module, name, params = None, "", tuple(fixed[n] for n in node.all_input_nodes if n in fixed)
    if node.op == "call_module":
        module, name = model.get_submodule(str(node.target)), str(node.target)
        op = type(module).__name__
        params += tuple(n for n, _ in module.named_parameters(prefix=name))
    made[node] = len(graph.nodes)
    graph.nodes.append(Node(made[node], op, module, name, parents, params, _function(node)))


def _function(node: fx.Node) -> Any:
    rest, kwargs = node.args[1:], dict(node.kwargs)
    if any(isinstance(a, fx.Node) for a in (*rest, *kwargs.values())):
        return None
    if node.op == "call_function":
        target: Any = node.target
        return lambda u: target(u, *rest, **kwargs)
    if node.op == "call_method":
        method = str(node.target)
        return lambda u: getattr(u, method)(*rest, **kwargs)
    return None


def _attribute(model: nn.Module, target: str) -> Tensor | None:
    value: Any = model
    for part in target.split("."):
        value = getattr(value, part, None)
    return value if isinstance(value, torch.Tensor) else None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
