"""One whole graph as a data set: targets are those of its nodes, and a mask says which of them count."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isometry._base import IGNORED
from isometry.data._dataset import Dataset
from isometry.data._gather import to_tensor
from isometry.tape import Inputs

__all__ = ["whole_graph"]


def whole_graph(
    graph: Inputs,
    targets: object,
    test_graph: object = None,
    test_targets: object = None,
    *,
    name: str,
    classes: int | None,
    notes: Sequence[str],
    source: str,
) -> Dataset:
    """Build a data set of one graph.

    Args:
        graph: The graph, with ``whole=True``; its mask, (nodes,), says which nodes are trained on.
        targets: (nodes,) class labels, -100 or any number outside of the mask where there is none; or real values,
            (nodes,) or (nodes, K).
        test_graph: The graph with the mask of the nodes that are tested, or None.
        test_targets: As ``targets``, or None.
        name: Name of the data set.
        classes: Number of classes; by default one more than the largest label of a node that counts.
        notes: Notes that the data set starts with.
        source: Where it comes from.

    Returns:
        The data set; labels of nodes that do not count are -100, real values 0.

    Raises:
        TypeError: If the test graph is no whole graph.
    """
    values, counted = _counted("targets", graph, targets)
    labelled = classes is not None or not values.is_floating_point()
    said = [*notes, f"one whole graph: {int(counted.sum())} of {len(counted)} nodes count"]
    if labelled:
        values = _labels(values, counted)
        known = values[values != IGNORED]
        classes = classes if classes is not None else max(int(known.max()) + 1, 2)
    else:
        values = _reals(values, counted)
    if test_graph is None or test_targets is None:
        return Dataset(name, graph, values, classes, None, None, tuple(said), source)
    if not (isinstance(test_graph, Inputs) and test_graph.whole):
        raise TypeError(
            f"test_inputs must be a whole graph as the inputs are, got {type(test_graph).__name__}; pass the graph "
            "with another mask: isometry.Inputs(..., whole=True, mask=test_mask)."
        )
    tests, held = _counted("test_targets", test_graph, test_targets)
    tests = _labels(tests, held) if labelled else _reals(tests, held)
    return Dataset(name, graph, values, classes, test_graph, tests, tuple(said), source)


def _counted(argument: str, graph: Inputs, targets: object) -> tuple[Tensor, Tensor]:
    """Find the nodes that count.

    Returns:
        The targets as a tensor with nodes first, and a boolean per node.

    Raises:
        ValueError: If targets and mask do not fit each other, or no node counts.
    """
    values = to_tensor(argument, targets)
    if values.ndim == 0 or values.numel() == 0:
        raise ValueError(f"{argument} have shape {tuple(values.shape)}; pass one target per node of the graph.")
    integers = not values.is_floating_point()
    if integers and values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if integers and values.ndim > 1:
        raise ValueError(
            f"{argument} must be (nodes,) class labels of one graph, got shape {tuple(values.shape)}; pass one label "
            "per node, or floats for regression."
        )
    counted = torch.ones(len(values), dtype=torch.bool, device=values.device)
    if graph.mask is not None:
        if graph.mask.numel() != len(values):
            raise ValueError(
                f"mask has shape {tuple(graph.mask.shape)} but there are {len(values)} {argument}, one per node; make "
                "both as long as the graph has nodes."
            )
        counted = graph.mask.reshape(-1).bool().to(values.device)
    if integers:
        counted = counted & (values != IGNORED)
    if not bool(counted.any()):
        raise ValueError(f"mask and {argument} leave no node that counts; mark at least two nodes with a label.")
    return values, counted


def _labels(values: Tensor, counted: Tensor) -> Tensor:
    return values.long().where(counted, IGNORED)


def _reals(values: Tensor, counted: Tensor) -> Tensor:
    return values.reshape(len(values), -1).where(counted.unsqueeze(1), 0.0)  # NaN, perhaps, where there is none
