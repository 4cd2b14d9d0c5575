"""Which layers lie in branches: a path from the input to the output goes around them.

What comes back to a layer in a branch is the gradient of the branch, which a small factor behind it (LayerScale, a
zero-initialized projection) scales down while the trunk beside it carries the whole. The answer is read off autograd's
graph of one call, not off the model's code: a layer lies on the trunk if every path from the output to the source (the
input, or the first layer behind whole numbers) passes its output.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from isometry._base import preserved_rng
from isometry.diagnosis._nodes import NodeInputs
from isometry.tape import Inputs, untouched

__all__ = ["branch_layers"]


def branch_layers(model: nn.Module, x: Inputs, layers: Collection[str]) -> frozenset[str]:
    """Find the layers that a path goes around.

    Args:
        model: The model; run once on two samples (a graph as it is), in evaluation mode.
        x: Inputs.
        layers: Names of modules; calls of a reused one after the first have ``#2``, ``#3``, ... behind, as in
            ``measure.signal``.

    Returns:
        Those of the names that lie in a branch; none where no gradient flows.
    """
    modules = {name.split("#")[0] for name in layers}
    seen: dict[str, Any] = {}
    counts: dict[str, int] = {}

    def watch(name: str) -> Any:
        def on_leave(_module: nn.Module, _args: Any, result: Any) -> None:
            output = next((t for t in _flat(result) if t.is_floating_point()), None)
            if output is not None and output.numel():
                count = counts[name] = counts.get(name, 0) + 1
                seen[name if count == 1 else f"{name}#{count}"] = output.grad_fn

        return on_leave

    few = x if isinstance(x, NodeInputs) else x[:2]
    leaf = None if few.leaf is None else few.leaf.detach().clone().requires_grad_()
    with untouched(model, training=False), torch.enable_grad(), preserved_rng():
        hooks = [m.register_forward_hook(watch(n)) for n, m in model.named_modules() if n in modules]
        try:
            output = (few if leaf is None else few.with_leaf(leaf)).run(model)
        finally:
            for hook in hooks:
                hook.remove()
    nodes = {name: node for name, node in seen.items() if node is not None and name in layers}
    source = next(iter(nodes.values()), None) if leaf is None else leaf.view_as(leaf).grad_fn.next_functions[0][0]  # type: ignore[union-attr]
    if output.grad_fn is None or source is None:
        return frozenset()
    trunk = _passed_by_all(output.grad_fn, source)
    return frozenset(name for name, node in nodes.items() if node not in trunk) if trunk else frozenset()


def _flat(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [t for part in result for t in _flat(part)] if isinstance(result, tuple | list) else []


def _passed_by_all(output: Any, source: Any) -> set[Any]:
    """Find the nodes that every path from the output to the source passes.

    Of nodes in topological order, one is passed by all paths if no edge spans its place.

    Returns:
        The nodes; none where no path leads to the source.
    """
    order = _leading_to(output, source)
    place = {node: i for i, node in enumerate(order)}
    opened = [0] * (len(order) + 1)
    for node, i in place.items():
        for following, _ in node.next_functions if node is not source else ():
            if following in place:
                opened[i + 1] += 1
                opened[place[following]] -= 1
    return {node for node, spanning in zip(order, accumulate(opened), strict=False) if spanning == 0}


def _leading_to(output: Any, source: Any) -> list[Any]:
    """List the nodes from which a path leads to the source, in topological order.

    Returns:
        The output first, the source last.
    """
    leads: dict[Any, bool] = {source: True}
    finished = [source]
    stack = [(output, iter(output.next_functions))] if output is not source else []
    started = {output, source}
    while stack:
        node, following = stack[-1]
        child = next((f for f, _ in following if f is not None and f not in started), None)
        if child is not None:
            started.add(child)
            stack.append((child, iter(child.next_functions)))
            continue
        stack.pop()
        leads[node] = any(leads.get(f, False) for f, _ in node.next_functions)
        finished.append(node)
    return [node for node in reversed(finished) if leads[node]]
