"""``claims.toml`` read into typed dataclasses; whatever is not understood is an error that names it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from isometry._base import Result, TomlTable, read_toml, unknown_name
from isometry.papers._rules import COMPARISONS, OVERS, Comparison, Over, Rule

__all__ = ["SCALES", "Claim", "Claims", "Scale", "read_claims"]

SCALES = ("smoke", "full", "paper")
_COMPULSORY = ("smoke", "full")
_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Scale(Result):
    """One size at which a study runs.

    Attributes:
        name: ``smoke``, ``full`` or ``paper``.
        seeds: How many seeds it runs by default.
        about: What it means, with its cost: "width 64, depth 40; 10 s".
    """

    name: str
    seeds: int
    about: str


@dataclass(frozen=True)
class Claim(Result):
    """One claim of a paper and how it is tested.

    Attributes:
        id: Short name, lower case with hyphens.
        statement: What the paper claims, in our words.
        where: Where the paper states it.
        quantity: What is measured, in words.
        predicted: The predicted value or direction, in words.
        cost: What testing it costs.
        rules: All must hold for the claim to hold.
        controls: None may hold: each is a rule on a baseline or a broken case that a meaningful check turns down.
        control_note: What the control is.
        tolerance: Relative difference that a re-run may show.
        scales: Scales at which the claim is asked; empty for all.
    """

    id: str
    statement: str
    where: str
    quantity: str
    predicted: str
    cost: str
    rules: tuple[Rule, ...]
    controls: tuple[Rule, ...]
    control_note: str
    tolerance: float = 0.05
    scales: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claims(Result):
    """A whole ``claims.toml``.

    Attributes:
        title: The paper's title.
        authors: Its authors.
        year: Year of publication.
        venue: Where it was published.
        link: Where it can be read.
        summary: One line: what it is about.
        scales: The sizes at which its study runs.
        claims: The claims.
    """

    title: str
    authors: str
    year: int
    venue: str
    link: str
    summary: str
    scales: tuple[Scale, ...]
    claims: tuple[Claim, ...]

    def asked(self, scale: str) -> tuple[Claim, ...]:
        """Choose the claims that are asked at a scale.

        Args:
            scale: The scale.

        Returns:
            The claims, in their order.
        """
        return tuple(claim for claim in self.claims if not claim.scales or scale in claim.scales)

    def scale(self, name: str) -> Scale:
        """Find a scale by name.

        Returns:
            The scale.

        Raises:
            ValueError: If there is none of that name.
        """
        for scale in self.scales:
            if scale.name == name:
                return scale
        error: ValueError = unknown_name("scale", name, [scale.name for scale in self.scales])
        raise error


def read_claims(path: Path) -> Claims:
    """Read and check a ``claims.toml``.

    Args:
        path: The file.

    Returns:
        The claims.

    Raises:
        ValueError: If the file is not TOML, or a key is missing, unknown, repeated or of a wrong type.
    """
    top = read_toml(path)
    read = Claims(
        title=top.text("title"),
        authors=top.text("authors"),
        year=top.take("year", int),
        venue=top.text("venue"),
        link=top.text("link"),
        summary=top.text("summary"),
        scales=_scales(top.table("scales")),
        claims=tuple(_claim(t) for t in top.tables("claims")),
    )
    top.done()
    seen: set[str] = set()
    for claim in read.claims:
        if claim.id in seen:
            raise ValueError(f"{path.name}: two claims are called {claim.id!r}; give each its own id.")
        seen.add(claim.id)
    return read


def _scales(table: TomlTable) -> tuple[Scale, ...]:
    scales = []
    for name in SCALES:
        if name not in _COMPULSORY and name not in table.values:
            continue
        inner = table.table(name)
        seeds = inner.take("seeds", int)
        if seeds < 1:
            raise ValueError(f"{inner.where}: seeds must be at least 1, got {seeds}.")
        scales.append(Scale(name, seeds, inner.text("about")))
        inner.done()
    table.done()
    return tuple(scales)


def _claim(table: TomlTable) -> Claim:
    name = table.text("id")
    if not _ID.fullmatch(name):
        raise ValueError(f"{table.where}: id {name!r} must be lower-case words with hyphens, such as 'jacobian-law'.")
    table.where = f"{table.file}, claim {name!r}"
    claim = Claim(
        id=name,
        statement=table.text("statement"),
        where=table.text("where"),
        quantity=table.text("quantity"),
        predicted=table.text("predicted"),
        cost=table.text("cost"),
        control_note=table.text("control_note"),
        rules=tuple(r for t in table.tables("pass") for r in _rules(t)),
        controls=tuple(r for t in table.tables("control") for r in _rules(t)),
        tolerance=float(table.take("tolerance", float, 0.05)),
        scales=_asked_at(table),
    )
    if not 0 <= claim.tolerance < math.inf:
        raise ValueError(f"{table.where}: tolerance must be a finite number >= 0, got {claim.tolerance}.")
    table.done()
    return claim


def _rules(table: TomlTable) -> list[Rule]:
    """Read one rule; a list of quantities stands for one rule each.

    Returns:
        The rules.
    """
    quantities = table.words("quantity")
    comparison = cast("Comparison", table.choice("comparison", COMPARISONS))
    over = cast("Over", table.choice("over", OVERS, "all"))
    threshold = _threshold(table, comparison)
    scales = _asked_at(table)
    table.done()
    return [Rule(quantity, comparison, over, threshold, scales) for quantity in quantities]


def _asked_at(table: TomlTable) -> tuple[str, ...]:
    scales = tuple(table.words("scales", ()))
    for scale in scales:
        if scale not in SCALES:
            error: ValueError = unknown_name(f"scale in {table.where}", scale, SCALES)
            raise error
    return scales


def _threshold(table: TomlTable, comparison: Comparison) -> float | tuple[float, float] | None:
    if comparison in ("increasing", "decreasing"):
        return None  # a threshold given here is an unknown key
    value: object = table.take("threshold", object)
    if comparison == "within":
        pair = [_number(v) for v in value] if isinstance(value, list) else []
        if len(pair) != 2 or None in pair or pair[0] >= pair[1]:  # type: ignore[operator]
            raise ValueError(f"{table.where}: threshold must be [low, high] for 'within', got {value!r}.")
        return cast("tuple[float, float]", tuple(pair))
    number = _number(value)
    if number is None:
        raise ValueError(f"{table.where}: threshold must be a finite number, got {value!r}.")
    return number


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
