"""Re-running the papers at smoke scale and comparing with what is committed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isometry._base import Result
from isometry.papers._registry import Paper, list_papers, show
from isometry.papers._run import run
from isometry.papers._verdicts import ClaimVerdict, judge

__all__ = ["Verification", "verify"]

_FLOOR = 1e-9  # differences below this are rounding, whatever the value


@dataclass(frozen=True)
class Verification(Result):
    """What a re-run showed.

    Attributes:
        paper: The paper's slug.
        agrees: Whether nothing differs.
        differences: One sentence for each thing that differs.
        seconds: What the re-run took.
    """

    paper: str
    agrees: bool
    differences: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        head = f"{self.paper}: {'agrees' if self.agrees else 'DIFFERS'} ({self.seconds:.1f} s)"
        return "\n".join([head, *(f"  {line}" for line in self.differences)])


def verify(
    slug: str | None = None, *, scale: str = "smoke", folder: Path | str | None = None
) -> tuple[Verification, ...]:
    """Re-run studies with their committed seeds and compare values and verdicts with the committed evidence.

    The verdicts of every committed run are also computed anew from its committed values, so that a rule that was
    changed after the evidence was written is found.

    Args:
        slug: The paper; None for all.
        scale: The scale to re-run.
        folder: Where the papers' folders lie; by default in this package.

    Returns:
        One verification a paper.
    """
    papers = list_papers(folder) if slug is None else (show(slug, folder=folder),)
    return tuple(_verify(paper, scale, folder) for paper in papers)


def _verify(paper: Paper, scale: str, folder: Path | str | None) -> Verification:
    paper.claims.scale(scale)
    committed = paper.evidence()
    differences = [line for name, old in committed.items() for line in _stale(paper, name, old)]
    if scale not in committed:
        differences.append(f"no evidence is committed at scale {scale}; run it with --write")
        return Verification(paper.slug, False, tuple(differences), 0.0)
    old = committed[scale]
    again = run(paper.slug, scale=scale, seeds=tuple(old["seeds"]), folder=folder)
    differences += _verdicts_differ(scale, old, again.claims, "re-run gives")
    differences += _values_differ(paper, old, again.to_dict())
    return Verification(paper.slug, not differences, tuple(differences), again.seconds)


def _stale(paper: Paper, scale: str, old: dict[str, Any]) -> list[str]:
    """Judge committed values by the present rules.

    Returns:
        What the committed verdicts say differently.
    """
    arrays = {name: _array(row["values"]) for name, row in old["quantities"].items()}
    try:
        judged = tuple(judge(claim, arrays, old["skipped"], scale=scale) for claim in paper.claims.asked(scale))
    except ValueError as error:
        return [f"{scale}: the committed evidence does not answer to the rules: {error}"]
    return _verdicts_differ(scale, old, judged, "the rules now give")


def _verdicts_differ(scale: str, old: dict[str, Any], new: tuple[ClaimVerdict, ...], says: str) -> list[str]:
    committed = {row["id"]: row["verdict"] for row in old["claims"]}
    return [
        f"{scale}, {claim.id}: committed is {committed.get(claim.id, 'no verdict')!r}, {says} {claim.verdict!r}"
        for claim in new
        if committed.get(claim.id) != claim.verdict
    ]


def _values_differ(paper: Paper, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    tolerances = {
        rule.quantity: claim.tolerance for claim in paper.claims.claims for rule in (*claim.rules, *claim.controls)
    }
    loosest = max(claim.tolerance for claim in paper.claims.claims)
    lines = []
    for name in sorted(old["quantities"].keys() | new["quantities"].keys()):
        if name not in old["quantities"] or name not in new["quantities"]:
            where = "the re-run" if name not in new["quantities"] else "the committed evidence"
            lines.append(f"{name}: missing in {where}")
            continue
        one, other = (_array(side["quantities"][name]["values"]) for side in (old, new))
        tolerance = tolerances.get(name, loosest)
        if one.shape != other.shape or not np.allclose(one, other, rtol=tolerance, atol=_FLOOR, equal_nan=True):
            gap = "shapes differ" if one.shape != other.shape else f"largest relative difference {_gap(one, other):.2g}"
            lines.append(f"{name}: {gap}, allowed {tolerance:g}")
    return lines


def _gap(one: np.ndarray, other: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        return float(np.nanmax(np.abs(other - one) / np.maximum(np.abs(one), _FLOOR)))


def _array(values: Any) -> np.ndarray:
    array = np.array(values, dtype=np.float64)  # null becomes NaN
    return array[None] if array.ndim == 0 else array
