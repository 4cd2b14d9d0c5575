"""Findings for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from isometry.report._content import Content, FindingItem
from isometry.report._tidy import tidy
from isometry.report._verdict import headline, ordered, paragraph, tone
from isometry.report._wording import clean, number

__all__ = ["print_findings"]

_STYLES = {
    "error": "bold red",
    "warning": "bold yellow",
    "info": "bold cyan",
    "healthy": "bold green",
    "unknown": "bold",
}
SHOWN = 3  # layer names printed of each finding


def print_findings(content: Content | Mapping[str, Any], console: Console | None = None) -> None:
    """Print the verdict and the findings as a table that wraps at the terminal's width.

    User strings are printed as they are: neither rich's markup nor terminal codes in them have any effect.

    Args:
        content: The structure of ``report.Content``.
        console: Where to print; standard output by default.
    """
    whole = tidy(content)
    console = console or Console()
    kind = tone(whole)
    console.print(Text(headline(whole) + ".", style=_STYLES[kind]))
    console.print(Text(clean(" ".join(paragraph(whole))), overflow="fold"))
    findings = ordered(whole)
    if findings:
        console.print(_table(findings))


def _table(findings: list[FindingItem]) -> Table:
    table = Table(box=box.HORIZONTALS, show_lines=True, expand=True, pad_edge=False, header_style="bold")
    table.add_column("Finding", ratio=1, overflow="fold")
    table.add_column("Measured", justify="right", overflow="fold", min_width=8, max_width=12)
    table.add_column("Expected", justify="right", overflow="fold", min_width=8, max_width=12)
    for finding in findings:
        table.add_row(_words(finding), Text(number(finding["value"])), Text(number(finding["expected"])))
    return table


def _words(finding: FindingItem) -> Text:
    severity = finding["severity"]
    words = Text(f"{clean(severity)}  ", style=_STYLES.get(severity, "bold"), overflow="fold")
    words.append(clean(finding["message"] or ""), style="default not bold")
    words.append(f"\n{clean(finding['code'] or '')}", style="dim")
    if finding["unit"] and finding["value"] is not None:
        words.append(f", {clean(finding['unit'])}", style="dim")
    if finding["where"]:
        words.append(f"\nin {_where(finding['where'])}", style="dim")
    if finding["remedy"]:
        words.append("\n→ ", style="default not bold green")
        words.append(clean(finding["remedy"]), style="default not bold")
    return words


def _where(names: list[str]) -> str:
    shown = names if len(names) <= SHOWN else [*names[: SHOWN - 1], "…", names[-1]]
    return clean(", ".join(map(str, shown)))
