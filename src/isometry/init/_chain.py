"""Recognise a plain chain: weight, activation, weight, activation, ..., weight."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd

from isometry.init._graph import Graph, Node
from isometry.init._kinds import ENDINGS, activation_at, kind_of
from isometry.theory import Activation
from isometry.theory._resolve import resolve_activation

__all__ = ["Chain", "Stage", "chain_of"]


@dataclass(frozen=True)
class Stage:
    """One layer of a chain.

    Attributes:
        node: The weight's operation.
        activation: What follows it; None behind the last weight.
        pooled: Whether positions were averaged in front of it.
    """

    node: Node
    activation: Activation | None
    pooled: bool = False


@dataclass(frozen=True)
class Chain:
    """A model that is a plain chain of weights and activations.

    Attributes:
        stages: Its layers; the last one has no activation.
        dropout: Whether there is dropout between them.
    """

    stages: tuple[Stage, ...]
    dropout: bool = False

    @property
    def depth(self) -> int:
        """Number of layers with an activation."""
        return sum(stage.activation is not None for stage in self.stages)


def chain_of(graph: Graph, given: Activation | None = None) -> Chain | str:
    """Read a graph as a chain.

    Args:
        graph: The model's operations.
        given: The activation that the caller names, for operations that cannot be resolved.

    Returns:
        The chain, or the reason why it is none, as a clause.
    """
    if graph.output is None:
        return "its output does not depend on its input"
    path = _path(graph)
    if isinstance(path, str):
        return path
    stages: list[Stage] = []
    seen: set[int] = set()
    dropout = pooled = False
    waiting: Node | None = None  # a weight whose activation has not come yet
    linear: Activation | None = None
    for node in path:
        kind = kind_of(node)
        if kind in ("input", "reshape"):
            continue
        if kind == "dropout":
            dropout = True
        elif kind == "weight":
            reason = _unsuitable(node, seen)
            if reason:
                return reason
            if waiting is not None:
                linear = linear or _linear()
                stages.append(Stage(waiting, linear, pooled))
                pooled = False
            waiting = node
        elif kind == "activation":
            found = activation_at(node) or given
            if found is None:
                return f"the activation {node.label!r} is not known to the theory"
            if waiting is None:
                return f"{node.label!r} does not follow a weight"
            stages.append(Stage(waiting, found, pooled))
            waiting, pooled = None, False
        elif kind == "pool" and waiting is None and stages and _is_mean(node):
            pooled = True
        elif node.op not in ENDINGS or node.index != graph.output:
            return f"{node.label!r} ({kind}) is no part of a plain chain of weights and activations"
        if pooled and kind == "activation":
            return "there is pooling in the middle"
    if waiting is None:
        return "it does not end in a weight"
    stages.append(Stage(waiting, None, pooled))
    if any(stage.pooled for stage in stages[:-1]):
        return "there is pooling in the middle"
    if len(stages) < 2:
        return "it has no hidden layer"
    return Chain(tuple(stages), dropout)


def _path(graph: Graph) -> list[Node] | str:
    index: int | None = graph.output
    path: list[Node] = []
    while index is not None:
        node = graph.nodes[index]
        path.append(node)
        if len(node.parents) > 1:
            return f"{node.label!r} joins several signals"
        index = node.parents[0] if node.parents else None
    on_path = {node.index for node in path}
    for node in graph.nodes:
        if node.index not in on_path and kind_of(node) in ("weight", "recurrent", "attention", "norm"):
            return f"{node.label!r} lies off the path from input to output"
    return path[::-1]


def _unsuitable(node: Node, seen: set[int]) -> str:
    module = node.module
    if module is None:
        return f"a weight is used in {node.op!r} outside of a layer"
    if id(module) in seen:
        return f"{node.name!r} is used several times"
    seen.add(id(module))
    if isinstance(module, _ConvNd) and module.transposed:
        return f"{node.name!r} is a transposed convolution"
    if isinstance(module, nn.Bilinear):
        return f"{node.name!r} is bilinear"
    return ""


def _is_mean(node: Node) -> bool:
    return "Avg" in node.op or "avg" in node.op or node.op == "mean"


def _linear() -> Activation:
    return resolve_activation("linear")
