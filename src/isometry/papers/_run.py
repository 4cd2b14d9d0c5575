"""Running a study, and writing down what came out with all that it depends on."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isometry._base import Result, stopwatch
from isometry._version import __version__
from isometry.papers._evidence import Evidence
from isometry.papers._registry import Paper, home, show
from isometry.papers._rules import interval
from isometry.papers._verdicts import ClaimVerdict, judge

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

__all__ = ["SCHEMA", "Run", "run", "write_evidence"]

SCHEMA = 1


@dataclass(frozen=True)
class Run(Result):
    """One run of a paper's study, judged.

    Attributes:
        paper: The paper's slug.
        evidence: What was measured.
        claims: The verdicts.
        versions: Versions of everything that shapes the numbers.
        commit: The commit of the source, None outside a git checkout.
        dirty: Whether the source differed from that commit; None outside a git checkout.
        created: When, ISO 8601 in UTC.
        seconds: Wall-clock seconds.
    """

    paper: str
    evidence: Evidence
    claims: tuple[ClaimVerdict, ...]
    versions: dict[str, str]
    commit: str | None
    dirty: bool | None
    created: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Give the run as ``evidence.json`` holds it.

        Returns:
            Plain data: values per seed with mean and interval, verdicts, versions.
        """
        evidence = self.evidence
        plain = evidence.to_dict()
        return {
            "created": self.created,
            "seconds": round(self.seconds, 2),
            "commit": self.commit,
            "dirty": self.dirty,
            "versions": self.versions,
            "scale": evidence.scale,
            "seeds": list(evidence.seeds),
            "datasets": plain["datasets"],
            "notes": plain["notes"],
            "skipped": plain["skipped"],
            "quantities": {name: _quantity(evidence, name, plain) for name in evidence.quantities},
            "claims": [claim.to_dict() for claim in self.claims],
        }

    def __str__(self) -> str:
        head = f"{self.paper} at scale {self.evidence.scale}, {len(self.evidence.seeds)} seeds, {self.seconds:.1f} s"
        return "\n".join([head, *(f"{c.verdict:>21}  {c.id}: {c.why}" for c in self.claims)])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the verdicts as a table.

        Yields:
            A heading and a table.
        """
        from rich.table import Table
        from rich.text import Text

        yield Text(str(self).splitlines()[0], style="bold")
        table = Table("Verdict", "Claim", "Why")
        for claim in self.claims:
            style = {"holds": "bold green", "fails": "bold red"}.get(claim.verdict, "bold yellow")
            table.add_row(Text(claim.verdict, style=style), Text(claim.id), Text(claim.why))
        yield table


def run(
    slug: str, *, scale: str = "smoke", seeds: int | Iterable[int] | None = None, folder: Path | str | None = None
) -> Run:
    """Run a paper's study and compute its verdicts.

    Args:
        slug: The paper.
        scale: ``smoke`` (seconds), ``full``, or ``paper`` (the paper's own sizes) where a study has it.
        seeds: How many seeds (then 0, 1, ...), or which; by default as many as the paper's claims say.
        folder: Where the papers' folders lie; by default in this package.

    Returns:
        The run; ``write_evidence`` keeps it.

    Raises:
        TypeError: If the study returns something else than ``Evidence``.
        ValueError: If paper, scale or seeds make no sense, or the evidence does not answer to the claims.
    """
    paper = show(slug, folder=folder)
    chosen = _seeds(paper, scale, seeds)
    study = paper.study()
    with stopwatch() as watch:
        evidence = study(scale, chosen)
    if not isinstance(evidence, Evidence):
        raise TypeError(f"study of {paper.slug}: run returned {type(evidence).__name__}; return papers.Evidence.")
    if evidence.scale != scale or evidence.seeds != chosen:
        raise ValueError(
            f"study of {paper.slug}: the evidence is for scale {evidence.scale!r} and seeds {evidence.seeds}, asked "
            f"were {scale!r} and {chosen}; pass both on as given."
        )
    arrays = {name: evidence.array(name) for name in evidence.quantities}
    verdicts = tuple(judge(claim, arrays, evidence.skipped, scale=scale) for claim in paper.claims.asked(scale))
    commit, dirty = _commit(paper.folder)
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return Run(paper.slug, evidence, verdicts, _versions(), commit, dirty, created, watch.seconds)


def write_evidence(result: Run, *, folder: Path | str | None = None) -> Path:
    """Write a run into the paper's ``evidence.json``, in place of the last one at the same scale.

    Args:
        result: The run.
        folder: Where the papers' folders lie; by default in this package.

    Returns:
        The file.
    """
    from isometry.report import write_text

    paper = show(result.paper, folder=folder)
    scales = {**paper.evidence(), result.evidence.scale: result.to_dict()}
    ordered = {scale.name: scales[scale.name] for scale in paper.claims.scales if scale.name in scales}
    content = {"schema": SCHEMA, "paper": paper.slug, "scales": ordered}
    return write_text(_compact(content) + "\n", paper.folder / "evidence.json")


def _compact(content: object) -> str:
    """Write JSON with indentation, but lists of numbers on one line each.

    Returns:
        The text.
    """
    import re

    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    flat = re.compile(r"\[\s+((?:-?[\d.e+-]+|null)(?:,\s+(?:-?[\d.e+-]+|null))*)\s+\]")
    return flat.sub(lambda match: "[" + re.sub(r"\s+", " ", match.group(1)) + "]", text)


def _seeds(paper: Paper, scale: str, seeds: int | Iterable[int] | None) -> tuple[int, ...]:
    default = paper.claims.scale(scale).seeds
    if seeds is None:
        return tuple(range(default))
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        if seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {seeds}.")
        return tuple(range(seeds))
    chosen = tuple(seeds) if isinstance(seeds, Iterable) else ()
    if not chosen or not all(isinstance(s, int) and s >= 0 for s in chosen) or len(set(chosen)) < len(chosen):
        raise ValueError(f"seeds must be a count or distinct whole numbers >= 0, got {seeds!r}.")
    return chosen


def _quantity(evidence: Evidence, name: str, plain: dict[str, Any]) -> dict[str, Any]:
    array = evidence.array(name)
    pooled = isinstance(evidence.quantities[name], int | float)
    described: dict[str, Any] = {"values": plain["quantities"][name]}
    if not pooled and np.isfinite(array).all():
        described["mean"] = array.mean(axis=0).tolist()
        described["interval"] = [end.tolist() for end in interval(array)] if len(array) > 1 else None
    if name in evidence.axes:
        described["axis"] = plain["axes"][name]
    return described


def _versions() -> dict[str, str]:
    found = {"isometry": __version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "scipy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # vendored without metadata
            found[package] = "unknown"
    found["platform"] = f"{platform.system()} {platform.machine()}"
    return found


def _commit(folder: Path) -> tuple[str | None, bool | None]:
    """Find the commit that the source is at, if git tracks this very folder.

    Returns:
        The commit and whether the source differs from it; None and None outside a checkout.
    """

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(folder), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # A package installed below somebody's own checkout is not part of it.
    if git("ls-files", "--error-unmatch", "claims.toml") is None:
        return None, None
    # The package's source alone decides: notes or reports lying about do not change the numbers.
    source = str(home().parent if folder.parent == home() else folder)
    changes = git("status", "--porcelain", "--untracked-files=no", "--", source, ":(exclude)*evidence.json")
    return git("rev-parse", "HEAD"), None if changes is None else bool(changes)
