"""Which rows of an attention block's weights belong to which head, seen by running the model on one sample.

A cotangent at one head's inputs of the output projection comes back to the queries, keys and values of this head alone,
and is exactly zero everywhere else. That tells apart the ways in which libraries stack projections, and it refuses
blocks whose heads are mixed before the output projection.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from isometry.measure._fisher_setup import Setup
from isometry.roles import AttentionBlock, HeadLayout, ParameterSlice, attention_blocks

__all__ = ["head_groups"]


def head_groups(setup: Setup, heads: int | None) -> dict[str, tuple[ParameterSlice, ...]]:
    """Name every attention head of a model, and the slices of the chosen parameters that belong to it.

    Args:
        setup: The measurement.
        heads: Heads in each block; default: what the blocks say.

    Returns:
        Heads to slices, in the model's order.

    Raises:
        ValueError: If there are no heads among the chosen parameters, or they cannot be told apart.
    """
    blocks = attention_blocks(setup.model, heads)
    chosen = setup.plan.parameters
    blocks = tuple(b for b in blocks if any(row.name in chosen for row in b.weights.values()))
    if not blocks:
        raise ValueError(
            "by='head': no layer among the chosen parameters has the name of an attention projection (such as q_proj, "
            "query, qkv, c_attn); name groups by patterns instead."
        )
    with setup.measuring(), _watching(setup.model, blocks) as seen:
        (setup.x if setup.x.whole else setup.x[:1]).clone().run(setup.model)
    found: dict[str, tuple[ParameterSlice, ...]] = {}
    for block in blocks:
        layout = _layout(block, seen[block.name], setup.plan.unused)
        for name, slices in block.slices(layout).items():
            kept = tuple(s for s in slices if s.name in chosen)
            if kept:
                found[name] = kept
    return found


@dataclass
class _Seen:
    """What went out of a block's projections and into its output projection."""

    projected: dict[str, Tensor] = field(default_factory=dict)
    mixed: Tensor | None = None


@contextmanager
def _watching(model: nn.Module, blocks: tuple[AttentionBlock, ...]) -> Iterator[dict[str, _Seen]]:
    """Cut the graph behind the projections of every block and keep what passes.

    Yields:
        What was seen, by block.
    """
    modules = dict(model.named_modules())
    seen = {block.name: _Seen() for block in blocks}
    handles = []

    def projected(block: str, name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, out: Tensor) -> Tensor:
            leaf = out.detach().requires_grad_()
            seen[block].projected[name] = leaf
            return leaf.clone()  # a model may overwrite it

        return hook

    def arrived(block: str) -> Any:
        def hook(_module: nn.Module, args: Any) -> None:
            seen[block].mixed = args[0]

        return hook

    try:
        for block in blocks:
            own = [name for name in block.weights if name in modules and name != block.out]  # torch's block has none
            handles += [modules[name].register_forward_hook(projected(block.name, name)) for name in own]
            handles.append(modules[block.out].register_forward_pre_hook(arrived(block.name)))
        with torch.enable_grad():
            yield seen
    finally:
        for handle in handles:
            handle.remove()


def _layout(block: AttentionBlock, seen: _Seen, unused: tuple[str, ...]) -> HeadLayout:
    """Find the candidate that a cotangent's way back agrees with.

    Returns:
        The layout.

    Raises:
        ValueError: If there is none, or the block could not be watched.
    """
    if block.plain or all(row.name in unused for row in block.weights.values()):
        return block.layouts[0]
    if seen.mixed is None or not seen.mixed.requires_grad:
        raise ValueError(
            f"by='head': the projections of {block.name!r} do not run as modules, so which rows belong to which head "
            "cannot be seen; name groups by patterns instead."
        )
    reached = [_reached(seen.mixed, seen.projected, columns) for columns in block.columns]
    for layout in block.layouts:
        if all(_agrees(layout, block, i, rows) for i, rows in enumerate(reached)):
            return layout
    raise ValueError(
        f"by='head': the heads of {block.name!r} are not where {block.heads} heads would be: what one of them sends to "
        f"{block.out!r} depends on rows of others. Pass the right heads=, or name groups by patterns."
    )


def _reached(mixed: Tensor, projected: dict[str, Tensor], columns: tuple[int, int]) -> dict[str, Tensor]:
    """Send a cotangent back from one head's inputs of the output projection.

    Returns:
        By projection, which of its outputs it reaches, shape (outputs,); NaN counts as reached.
    """
    back = torch.zeros_like(mixed)
    width = columns[1] - columns[0]
    back[..., columns[0] : columns[1]] = torch.linspace(0.5, 1.5, width, dtype=back.dtype, device=back.device)
    leaves = list(projected.values())
    with torch.enable_grad():
        grads = torch.autograd.grad(mixed, leaves, back, retain_graph=True, allow_unused=True, materialize_grads=True)
    return {name: (grad != 0).flatten(0, -2).any(0) for name, grad in zip(projected, grads, strict=True)}


def _agrees(layout: HeadLayout, block: AttentionBlock, head: int, reached: dict[str, Tensor]) -> bool:
    allowed = {name: torch.zeros_like(rows) for name, rows in reached.items()}
    for part in (layout.queries[head], layout.keys[head * block.shared // block.heads]):
        for name, ranges in part.items():
            for start, stop in ranges:
                allowed[name][start:stop] = True
    anything = any(bool(rows.any()) for rows in reached.values())
    return anything and not any(bool((rows & ~allowed[name]).any()) for name, rows in reached.items())
