"""The fragment that a diagnosis shows of itself in a notebook: no script, no request, a few kilobytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from isometry.report import _icons
from isometry.report._content import Content, FindingItem
from isometry.report._figures._signal import by_depth
from isometry.report._theme import SERIES
from isometry.report._tidy import tidy
from isometry.report._verdict import headline, ordered, paragraph, tone
from isometry.report._wording import html_number, html_text, prose, split_lead

__all__ = ["notebook_html"]

# Mid-tones that are readable on a notebook's white and on its dark page; texts inherit the notebook's own colour.
_TONES = {"error": "#d5483c", "warning": "#b27500", "info": "#2f7fd6", "healthy": "#129e77", "unknown": "#7d8590"}
_RULE = "border-bottom:1px solid rgba(128,128,128,.35)"
_CELL = f"text-align:left;vertical-align:top;padding:6px 14px 6px 0;white-space:normal;{_RULE}"


def notebook_html(content: Content | Mapping[str, Any]) -> str:
    """Draw a diagnosis as a compact HTML fragment for ``_repr_html_``.

    Args:
        content: The structure of ``report.Content``.

    Returns:
        HTML with inline styles: the verdict, the findings as a table, and the signal by depth as a small static SVG.
    """
    whole = tidy(content)
    kind = tone(whole)
    colour = _TONES[kind]
    size = "display:inline-block;width:1.1em;height:1.1em;vertical-align:-.15em"
    frame = f"max-width:980px;border-left:4px solid {colour};padding:2px 0 2px 14px"
    return (
        f'<div class="isometry-diagnosis" style="{frame}"><div style="font-size:1.15em;font-weight:600">'
        f'<span style="color:{colour};{size}">{_icons.SEVERITY[kind]}</span> {headline(whole)}</div>'
        f'<p style="margin:.4em 0 .6em">{" ".join(map(prose, paragraph(whole)))}</p>'
        f"{_table(ordered(whole))}{_sparklines(whole)}</div>"
    )


def _table(findings: list[FindingItem]) -> str:
    if not findings:
        return ""
    head = "".join(
        f'<th scope="col" style="{_CELL};font-weight:600">{name}</th>'
        for name in ("", "Finding", "Measured", "Expected")
    )
    rows = "".join(_row(finding) for finding in findings)
    body = f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
    return f'<table style="border-collapse:collapse;width:100%">{body}</table>'


def _row(finding: FindingItem) -> str:
    colour = _TONES.get(finding["severity"], _TONES["unknown"])
    remedy = f'<br><span style="opacity:.8">→ {prose(finding["remedy"])}</span>' if finding["remedy"] else ""
    unit = f'<br><small style="opacity:.7">{html_text(finding["unit"])}</small>' if finding["unit"] else ""
    lead, rest = split_lead(finding["message"] or "")
    cells = [
        f'<span style="color:{colour};font-weight:600">{html_text(finding["severity"])}</span>',
        f"<b>{prose(lead)}</b> {prose(rest)}{remedy}",
        html_number(finding["value"]) + (unit if finding["value"] is not None else ""),
        "" if finding["expected"] is None else html_number(finding["expected"]),
    ]
    return "<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells) + "</tr>"


def _sparklines(content: Content) -> str:
    section = content["signal"]
    if section is None or len(section["layers"]) < 3:
        return ""
    layers, _ = by_depth(section)
    pairs = (
        ("signal q by depth", [row["q"] for row in layers], [row["q_theory"] for row in layers]),
        (
            "gradient norm by depth",
            [row["gradient_norm"] for row in layers],
            [row["gradient_theory"] for row in layers],
        ),
    )
    drawn = [_sparkline(*pair) for pair in pairs]
    if not any(drawn):
        return ""
    return f'<div style="display:flex;flex-wrap:wrap;gap:28px;margin-top:10px">{"".join(drawn)}</div>'


def _sparkline(label: str, values: Sequence[float | None], theory: Sequence[float | None]) -> str:
    """Draw one curve (and theory's, dashed) on a log scale.

    Returns:
        A captioned SVG of 260 by 64 pixels, or nothing where too little was measured.
    """
    drawn = [v for v in (*values, *theory) if v is not None and v > 0]
    if sum(1 for v in values if v is not None and v > 0) < 2:
        return ""
    low, high = math.log10(min(drawn)), math.log10(max(drawn))
    low, high = (low, high) if high - low > 1 else ((low + high) / 2 - 0.5, (low + high) / 2 + 0.5)

    def path(row: Sequence[float | None], style: str) -> str:
        points = [
            f"{4 + 252 * i / (len(row) - 1):.1f},{4 + 56 * (high - math.log10(v)) / (high - low):.1f}"
            for i, v in enumerate(row)
            if v is not None and v > 0
        ]
        line = f'<polyline points="{" ".join(points)}" fill="none" stroke-width="2" {style}/>'
        return line if len(points) > 1 else ""

    blue, orange = SERIES["measured"], SERIES["theory"]
    lines = path(theory, f'stroke="{orange}" stroke-dasharray="4 3"') + path(values, f'stroke="{blue}"')
    legend = f'(<span style="color:{blue}">measured</span>, <span style="color:{orange}">theory</span>)'
    extent = f"{html_number(min(drawn), 2)} to {html_number(max(drawn), 2)}"
    return (
        f'<div><svg width="260" height="64" viewBox="0 0 260 64" role="img" aria-label="{label}">{lines}</svg>'
        f'<div style="font-size:.85em;opacity:.8">{label}, log scale, {extent} {legend}</div></div>'
    )
