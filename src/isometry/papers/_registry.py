"""The papers that ship with the package: every folder here that holds a ``claims.toml``."""

from __future__ import annotations

import importlib
import importlib.resources
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isometry._base import BadReferenceError, load_callable, short_traceback, unknown_name
from isometry.papers._claims import Claims, read_claims

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from isometry.papers._evidence import Evidence

__all__ = ["Paper", "home", "list_papers", "show"]


@dataclass(frozen=True)
class Paper:
    """A paper's folder.

    Attributes:
        slug: Its name on the command line, with hyphens.
        folder: Its folder, with underscores.
        claims: What its ``claims.toml`` says.
    """

    slug: str
    folder: Path
    claims: Claims

    def study(self) -> Callable[[str, tuple[int, ...]], Evidence]:
        """Import ``run`` from the paper's ``study.py``.

        Returns:
            The function ``run(scale, seeds)``.

        Raises:
            BadReferenceError: If the study cannot be imported or has no ``run``.
        """
        if self.folder.parent == home():
            try:
                run: Any = importlib.import_module(f"isometry.papers.{self.folder.name}.study").run
            except Exception as error:
                raise BadReferenceError(
                    f"study of {self.slug}: cannot be imported:\n{short_traceback(error)}"
                ) from error
        else:
            run = load_callable(f"{self.folder / 'study.py'}:run", argument=f"study of {self.slug}")
        if not callable(run):
            raise BadReferenceError(f"study of {self.slug}: run is a {type(run).__name__}; make it a function.")
        checked: Callable[[str, tuple[int, ...]], Evidence] = run
        return checked

    def evidence(self) -> dict[str, Any]:
        """Read the committed ``evidence.json``.

        Returns:
            Its runs by scale; empty if there is no such file yet.

        Raises:
            ValueError: If the file is damaged.
        """
        path = self.folder / "evidence.json"
        if not path.is_file():
            return {}
        try:
            scales: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["scales"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.slug}: evidence.json is damaged ({error!r}); run the study again.") from error
        return scales

    def verdicts(self, scale: str = "full") -> dict[str, str]:
        """Look up the committed verdicts.

        Args:
            scale: Which run to look at.

        Returns:
            The verdict by claim; "not run" where there is none.
        """
        rows = self.evidence().get(scale, {}).get("claims", [])
        found = {row["id"]: row["verdict"] for row in rows}
        return {claim.id: found.get(claim.id, "not run") for claim in self.claims.claims}

    def __str__(self) -> str:
        claims = self.claims
        lines = [f"{self.slug}: {claims.title}", f"{claims.authors}, {claims.venue} {claims.year}, {claims.link}", ""]
        lines += [claims.summary, ""]
        verdicts = self.verdicts()
        for claim in claims.claims:
            lines += [f"{claim.id}: {verdicts[claim.id]}", f"  {claim.statement} ({claim.where})"]
            lines += [f"  measured: {claim.quantity}", f"  predicted: {claim.predicted}"]
            lines += [f"  passes if {rule}" for rule in claim.rules]
            lines += [f"  control, must not pass ({claim.control_note}): {rule}" for rule in claim.controls]
            lines += [f"  cost: {claim.cost}", ""]
        lines += [f"{scale.name}: {scale.seeds} seeds, {scale.about}" for scale in claims.scales]
        return "\n".join(lines)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the paper as text with its verdicts coloured.

        Yields:
            Lines of rich text.
        """
        from rich.text import Text

        text = Text(str(self))
        for verdict, style in (
            ("holds", "bold green"),
            ("fails", "bold red"),
            ("unclear at this scale", "bold yellow"),
        ):
            text.highlight_regex(rf"(?m)(?<=: ){verdict}$", style)
        yield text


def list_papers(folder: Path | str | None = None) -> tuple[Paper, ...]:
    """List the papers.

    Args:
        folder: Where the papers' folders lie; by default in this package.

    Returns:
        The papers, by slug.

    Raises:
        ValueError: If a ``claims.toml`` is not right; the message names paper and key.
    """
    papers = []
    for path in sorted((home() if folder is None else Path(folder)).iterdir()):
        if (path / "claims.toml").is_file():
            slug = path.name.replace("_", "-")
            try:
                claims = read_claims(path / "claims.toml")
            except ValueError as error:
                raise ValueError(f"paper {slug}: {error}") from error
            papers.append(Paper(slug, path, claims))
    return tuple(papers)


def show(slug: str, *, folder: Path | str | None = None) -> Paper:
    """Find a paper by its slug.

    Args:
        slug: The paper's name; underscores may stand for hyphens.
        folder: Where the papers' folders lie; by default in this package.

    Returns:
        The paper; printing it shows its claims, rules and verdicts.

    Raises:
        ValueError: If there is no such paper; the message gives near matches.
    """
    papers = {paper.slug: paper for paper in list_papers(folder)}
    key = slug.replace("_", "-")
    if key not in papers:
        error: ValueError = unknown_name("paper", slug, papers)
        raise error
    return papers[key]


def home() -> Path:
    """Say where the shipped papers lie.

    Returns:
        This package's folder.
    """
    return Path(str(importlib.resources.files("isometry.papers")))
