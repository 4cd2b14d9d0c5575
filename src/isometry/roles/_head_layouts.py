"""How libraries divide the rows of query, key and value projections between attention heads.

Where query, key and value are stacked in one projection, libraries differ in how: all queries, then all keys, then all
values; or query, key and value of one head after the other. Nothing static tells these apart, so both are candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from isometry.roles._rows import ParameterRow

__all__ = ["HeadLayout", "Ranges", "head_layouts", "insist_on_parts"]

Ranges = list[tuple[int, int]]


@dataclass(frozen=True)
class HeadLayout:
    """One way in which an attention block's rows may be divided between its heads.

    Attributes:
        queries: For every head, ranges of outputs by projection module.
        keys: For every key-and-value head, ranges of outputs by projection module.
    """

    queries: tuple[dict[str, Ranges], ...]
    keys: tuple[dict[str, Ranges], ...]


def head_layouts(
    keyed: dict[str, ParameterRow], heads: int, width: int, name: str
) -> tuple[int, tuple[HeadLayout, ...]]:
    """Divide the rows of the projections between heads.

    Args:
        keyed: The weights of the query, key and value projections, by what to call them.
        heads: Heads of queries.
        width: Inputs of the output projection that a head has.
        name: The block's name.

    Returns:
        How many heads the keys and values have, and the candidates.

    Raises:
        ValueError: If a projection is missing.
    """
    by_role: dict[str, tuple[str, int]] = {row.role: (key, row.shape[row.axes.out[0]]) for key, row in keyed.items()}
    fused = by_role.get("attention_qkv")
    query, key, value = (by_role.get(f"attention_{part}") for part in ("q", "k", "v"))
    if fused is not None and query is None:
        shared = (fused[1] - heads * width) // (2 * width)
        insist_on_parts(fused[1] - heads * width, 2 * width, fused[0], name)
        insist_on_parts(heads, shared, f"the {heads} heads of the queries of {fused[0]}", name)
        return shared, tuple(_stacked(fused[0], heads, shared, width))
    if query is not None and fused is not None:  # queries apart, keys and values together
        shared = fused[1] // (2 * width)
        insist_on_parts(fused[1], 2 * width, fused[0], name)
        queries = tuple({query[0]: [span]} for span in _spans(query, heads, name))
        pairs = [_runs(fused[0], [(0, j, width), (shared * width, j, width)]) for j in range(shared)]
        mixed = [_runs(fused[0], [(0, j, 2 * width)]) for j in range(shared)]
        return shared, (HeadLayout(queries, tuple(pairs)), HeadLayout(queries, tuple(mixed)))
    if query is None or key is None or value is None:
        raise ValueError(
            f"by='head': {name!r} has only the projections {', '.join(keyed)}, where queries, keys and values are "
            "looked for; name groups by patterns instead."
        )
    spans = _spans(query, heads, name)
    each = query[1] // heads
    insist_on_parts(key[1], each, key[0], name)
    shared = key[1] // each
    return shared, (
        HeadLayout(
            tuple({query[0]: [span]} for span in spans),
            tuple(
                {key[0]: [k], value[0]: [v]}
                for k, v in zip(_spans(key, shared, name), _spans(value, shared, name), strict=True)
            ),
        ),
    )


def _stacked(module: str, heads: int, shared: int, width: int) -> Iterator[HeadLayout]:
    end, each = heads * width, heads // shared
    yield HeadLayout(  # all queries, all keys, all values
        tuple(_runs(module, [(0, i, width)]) for i in range(heads)),
        tuple(_runs(module, [(end, j, width), (end + shared * width, j, width)]) for j in range(shared)),
    )
    period = (each + 2) * width
    yield HeadLayout(  # the queries that share a key and a value, this key, this value; then the next
        tuple(_runs(module, [(i // each * period, i % each, width)]) for i in range(heads)),
        tuple(_runs(module, [(j * period + each * width, 0, 2 * width)]) for j in range(shared)),
    )


def _runs(module: str, runs: list[tuple[int, int, int]]) -> dict[str, Ranges]:
    return {module: [(begin + i * width, begin + (i + 1) * width) for begin, i, width in runs]}


def _spans(projection: tuple[str, int], count: int, name: str) -> Ranges:
    insist_on_parts(projection[1], count, projection[0], name)
    width = projection[1] // count
    return [(i * width, (i + 1) * width) for i in range(count)]


def insist_on_parts(size: int, parts: int, what: str, name: str) -> None:
    """Insist that a dimension can be divided evenly.

    Args:
        size: Its size.
        parts: Into how many.
        what: Its name.
        name: The block's name.

    Raises:
        ValueError: If it cannot.
    """
    if parts < 1 or size < parts or size % parts:
        raise ValueError(
            f"by='head': {what!r} cannot be divided evenly between the heads of {name!r} ({size} by {parts}); pass the "
            "right heads=, or name groups by patterns."
        )
