"""One whole graph as a diagnosis sees it: its nodes stand for the samples, and are never taken apart.

What the rules ask of samples can be asked of nodes: whether they stay distinguishable with depth (where they do not,
the literature speaks of over-smoothing), how large their signal is, whether units are silent for all of them. What
needs samples that do not influence each other is measured on the graph as a single call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from isometry._base import IGNORED
from isometry.diagnosis._words import count
from isometry.tape import Inputs, untouched

__all__ = ["NodeInputs", "as_nodes", "counted_rows", "signal_targets"]


@dataclass(frozen=True, eq=False)
class NodeInputs(Inputs):
    """A whole graph's arguments, with a row per node.

    The tensors with a row per node are those whose first dimension is the number of nodes, except for matrices of
    nodes by nodes (an adjacency), sparse tensors and what is named in ``shared``. If only such matrices are left, the
    first of them holds the features.

    Attributes:
        nodes: How many nodes the graph has.
        numbers: The nodes that count, for the call in one piece; None for all.
    """

    nodes: int = 0
    numbers: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        own = [
            not shared and leaf.layout == torch.strided and leaf.ndim > 0 and len(leaf) == self.nodes
            for leaf, shared in self._leaves()
        ]
        square = [tuple(leaf.shape[:2]) == (self.nodes, self.nodes) for leaf in self.tensors()]
        rows = [mine and not pairs for mine, pairs in zip(own, square, strict=True)]
        if not any(rows) and any(own):
            rows[own.index(True)] = True
        object.__setattr__(self, "_is_row", tuple(rows))
        object.__setattr__(self, "_samples", self.nodes)

    def __getitem__(self, index: slice | Tensor | Sequence[int]) -> Inputs:
        """Give all nodes.

        Args:
            index: A slice that covers all of them.

        Returns:
            These inputs.

        Raises:
            ValueError: If some are asked for.
        """
        if isinstance(index, slice) and len(range(*index.indices(self.nodes))) == self.nodes:
            return self
        raise ValueError(f"the {self.nodes} nodes are one graph and cannot be taken apart.")

    def changed(self, **fields: Any) -> Inputs:
        """Replace fields, and keep what is known of which tensors have a row per node.

        Args:
            fields: New values by field name.

        Returns:
            New inputs.
        """
        other = replace(self, **fields)
        object.__setattr__(other, "_is_row", self._is_row)
        return other

    @property
    def counting(self) -> int:
        """How many nodes count."""
        return self.nodes if self.numbers is None else len(self.numbers)

    @property
    def together(self) -> Inputs:
        """The graph as one sample, whose positions are the nodes that count."""
        fields = {name: getattr(self, name) for name in ("args", "kwargs", "output", "shared", "class_dim")}
        return _CountedNodes(**fields, whole=True, numbers=self.numbers)


@dataclass(frozen=True, eq=False)
class _CountedNodes(Inputs):
    numbers: Tensor | None = None

    def chosen(self, output: Any) -> Tensor:
        found = super().chosen(output)  # (1, nodes, outputs)
        return found if self.numbers is None else found[:, self.numbers.to(found.device)]


def as_nodes(graph: Inputs, out: Tensor, y: Tensor | None, notes: list[str]) -> NodeInputs:
    """See a graph as its nodes.

    Args:
        graph: The whole graph.
        out: The model's outputs for it, (1, nodes, outputs).
        y: Targets of the nodes, or None; labels of nodes that do not count are -100.
        notes: Gets a line about what was done.

    Returns:
        The nodes.

    Raises:
        ValueError: If the outputs have no row per node, there are too few nodes, targets or mask do not fit, or no node
            counts.
    """
    if out.ndim != 3:
        raise ValueError(
            f"model must return one row of outputs per node of the graph, (nodes, outputs), got "
            f"{tuple(out.shape[1:])}; of several graphs with one row each, pass the graphs as samples."
        )
    nodes = out.shape[1]
    if nodes < 2:
        raise ValueError("data hold a graph of one node; at least 2 are needed, a correlation takes two of them.")
    if y is not None and len(y) != nodes:
        raise ValueError(f"data have {count(len(y), 'target')} for a graph of {nodes} nodes; pass one target per node.")
    mask = graph.counted((1, nodes))
    counted = torch.ones(nodes, dtype=torch.bool, device=out.device) if mask is None else mask[0].to(out.device)
    if y is not None and not y.is_floating_point():
        counted = counted & (y.to(out.device) != IGNORED)
    kept = counted.nonzero().flatten()
    if not len(kept):
        raise ValueError("mask and targets leave no node that counts; mark at least two nodes with a label.")
    some = len(kept) < nodes
    notes.append(
        f"one whole graph was run in one piece; its {nodes} nodes stand for samples, and the loss is that of "
        + (f"{count(len(kept), 'node')} that {'counts' if len(kept) == 1 else 'count'}" if some else "all of them")
    )
    fields = {name: getattr(graph, name) for name in ("args", "kwargs", "output", "shared", "class_dim")}
    return NodeInputs(**fields, mask=counted if some else None, nodes=nodes, numbers=kept if some else None)


def counted_rows(x: Inputs, values: Tensor) -> Tensor:
    """Choose what a loss is averaged over.

    Args:
        x: The batch.
        values: A row per sample, or per node.

    Returns:
        The rows of the nodes that count; all of them where samples are not nodes.
    """
    return values if not isinstance(x, NodeInputs) or x.numbers is None else values[x.numbers.to(values.device)]


def signal_targets(model: nn.Module, x: NodeInputs, y: Tensor | None) -> Tensor | None:
    """Choose targets with which the signal's loss, a mean over all nodes, has the gradient of the mean over some.

    Labels of nodes that do not count are -100, which does it. Of real values, a node that does not count is given its
    own output, which sends nothing back, and the others' distances are lengthened by the number of nodes over theirs.

    Args:
        model: The model.
        x: The nodes.
        y: Their targets, or None.

    Returns:
        The targets.
    """
    if y is None or x.numbers is None or not y.is_floating_point():
        return y
    with untouched(model, training=False), torch.no_grad():
        out = x.clone().run(model)
    wanted = out.clone()
    at = x.numbers.to(out.device)
    wanted[at] = out[at] + (y.reshape(out.shape)[at] - out[at]) * (len(out) / len(at))
    return wanted
