"""The page: one file that opens offline, findings first.

A content security policy forbids the page every request and every script but its own two (named by their hashes), so
a string that slipped through the escaping could still neither run nor call out.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from isometry._version import __version__
from isometry.report import _icons
from isometry.report._content import Content
from isometry.report._coverage import coverage_table
from isometry.report._figures import EVIDENCE, Plot, phase_plot, proof
from isometry.report._plotly_js import packed_plotly, source_hash
from isometry.report._sections import (
    cost_section,
    findings_section,
    layers_table,
    prescription_section,
    skipped_section,
    verdict_section,
)
from isometry.report._theme import DARK, LIGHT, stylesheet_variables, template
from isometry.report._tidy import DIGITS, tidy, tidy_phase
from isometry.report._verdict import headline, remedy_title
from isometry.report._wording import clean, html_text, prose, script_json

__all__ = ["render", "render_phase_diagram"]


def render(content: Content | Mapping[str, Any]) -> str:
    """Draw a diagnosis as one self-contained HTML page.

    Args:
        content: The structure of ``report.Content``; any section and any number may be missing or ``None``.

    Returns:
        The page: about 2 MB, nearly all of it plotly.js, which the page unpacks after the findings are shown.

    Raises:
        TypeError: If the content is not a mapping of plain data.
        ValueError: If it was written for another schema.
        FileNotFoundError: If plotly's JavaScript is missing from the installation.

    Example:
        >>> page = render({"verdict": "healthy"})
        >>> page.startswith("<!doctype html>"), "This network is healthy" in page
        (True, True)
    """
    whole = tidy(content)
    plots = [plot for build in EVIDENCE if (plot := build(whole)) is not None]
    trained = proof(whole)
    body = [verdict_section(whole), findings_section(whole), _remedy(whole, trained), _evidence(whole, plots)]
    body += [skipped_section(whole), "" if whole["cost"] is None else cost_section(whole["cost"])]
    body.append(raw_html("diagnosis.json", " <code>diagnosis.json</code> beside this page has all of them."))
    drawn = plots + ([trained] if trained else [])
    subject = whole["subject"]["model"]
    title = headline(whole) + (f": {subject}" if subject else "")
    present = {"findings": True, "remedy": _has_remedy(whole), "evidence": bool(plots), "skipped": bool(body[4])}
    links = _links(present, remedy_title(whole))
    return page_html(title, links, "".join(body), drawn, raw=whole, created=whole["created"], version=whole["isometry"])


def render_phase_diagram(phase: Mapping[str, Any]) -> str:
    """Draw a phase diagram alone as one self-contained HTML page.

    Args:
        phase: The structure of ``report.PhaseSection``: ``sigma_w`` and ``sigma_b`` (standard deviations), ``chi``
            (rows: sigma_b, columns: sigma_w), and, where known, ``activation``, ``critical``, ``before``, ``after``.

    Returns:
        The page.

    Raises:
        ValueError: If the grid is empty.
    """
    section = tidy_phase(phase)
    plot = phase_plot(section)
    if plot is None:
        raise ValueError("phase has no grid: give sigma_w, sigma_b and chi (rows: sigma_b, columns: sigma_w).")
    plot = Plot(plot.key, plot.title, plot.figure, plot.reading, height=520, wide=True)
    name = section["activation"] or "an activation"
    head = f"<h1>Phase diagram of {html_text(name)}</h1>"
    body = (
        f'<section class="phase stack">{head}{figure_html(plot, title=False)}</section>{raw_html("phase-diagram.json")}'
    )
    return page_html(f"Phase diagram of {name}", "", body, [plot], raw=section, created=None, version=None)


def _has_remedy(content: Content) -> bool:
    return content["prescription"] is not None or content["proof"] is not None


def _remedy(content: Content, trained: Plot | None) -> str:
    """Set the prescription and, below it, the proof that it works.

    Returns:
        HTML, or nothing where there is neither.
    """
    if not _has_remedy(content):
        return ""
    parts = []
    if content["prescription"] is not None:
        parts.append(prescription_section(content["prescription"]))
    proved = content["proof"]
    if proved is not None and trained is None and proved["verdict"]:
        parts.append(f'<p class="card">{prose(proved["verdict"])}</p>')
    if trained is not None:
        verdict = prose(proved["verdict"]) if proved is not None and proved["verdict"] else ""
        parts.append(f'<div class="plots">{figure_html(trained, lead=verdict)}</div>')
    return (
        '<section id="remedy" aria-labelledby="h-remedy"><h2 id="h-remedy">'
        f"{remedy_title(content)}</h2>"
        f'<div class="stack">{"".join(parts)}</div></section>'
    )


def _evidence(content: Content, plots: list[Plot]) -> str:
    if not plots:
        return ""
    figures = "".join(figure_html(plot) for plot in plots)
    return (
        '<section id="evidence" aria-labelledby="h-evidence"><h2 id="h-evidence">Measured, and what theory expects</h2>'
        f'<div class="plots">{figures}</div>{layers_table(content)}{coverage_table(content)}</section>'
    )


def figure_html(plot: Plot, *, title: bool = True, lead: str = "") -> str:
    head = f'<h3 id="t-{plot.key}">{html_text(plot.title)}</h3>' if title else ""
    name = f'aria-labelledby="t-{plot.key}"' if title else f'aria-label="{html_text(plot.title)}"'
    lead = f"<p>{lead}</p>" if lead else ""
    return (
        f'<figure class="card{" wide" if plot.wide else ""}" {name}>{head}{lead}'
        f'<div class="plot" id="plot-{plot.key}" style="height:{plot.height}px" role="group" '
        f'aria-label="Interactive plot" aria-describedby="r-{plot.key}">'
        '<div class="waiting">Drawing the plot&hellip;</div></div>'
        f'<figcaption id="r-{plot.key}">{prose(plot.reading)}</figcaption></figure>'
    )


def raw_html(name: str, note: str = "") -> str:
    return (
        '<section id="data" class="raw needs-js" aria-labelledby="h-data"><h2 id="h-data">Data</h2>'
        '<div class="card"><div class="actions">'
        f'<button type="button" id="download" data-name="{name}">Download as JSON</button>'
        f'<span class="muted">Series to {DIGITS} significant digits.{note}</span></div>'
        '<details class="more" id="raw"><summary>Show it here</summary><pre tabindex="0"></pre></details>'
        "</div></section>"
    )


def _links(present: dict[str, bool], remedy: str) -> str:
    labels = {"findings": "Findings", "remedy": remedy, "evidence": "Measured", "skipped": "Not measured"}
    links = "".join(f'<a href="#{key}">{labels[key]}</a>' for key, there in present.items() if there)
    return f'<nav aria-label="Sections">{links}</nav>'


def page_html(
    title: str, links: str, body: str, plots: list[Plot], *, raw: object, created: str | None, version: str | None
) -> str:
    assets = files("isometry.report") / "_assets"
    script = (assets / "report.js").read_text(encoding="utf-8")
    style = stylesheet_variables() + (assets / "report.css").read_text(encoding="utf-8")
    packed, plotly_hash = packed_plotly() if plots else ("", "")
    policy = (
        f"default-src 'none'; script-src {source_hash(script.encode())} {plotly_hash}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    figures = {
        "themes": {"light": template(LIGHT), "dark": template(DARK)},
        "figures": {plot.key: plot.figure for plot in plots},
    }
    made = f"isometry {version or __version__}" + (f" · {created}" if created else "")
    toggle = (
        '<button type="button" class="toggle needs-js" id="theme" aria-label="Dark colours" aria-pressed="false">'
        f"{_icons.SUN}{_icons.MOON}</button>"
    )
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f'<title>{html_text(title)}</title><link rel="icon" href="data:,">',
        f"<style>{style}</style><script>{script}</script></head><body>",
        '<a class="skip" href="#main">Skip to the findings</a>',
        f'<header class="bar"><div><span class="brand">{_icons.BRAND}isometry</span>{links}{toggle}</div></header>',
        f'<main id="main">{body}</main>',
        f"<footer>{html_text(made)}</footer>",
        f'<script type="application/json" id="isometry-content">{script_json(raw)}</script>',
        f'<script type="application/json" id="isometry-figures">{script_json(figures)}</script>',
        f'<script type="application/octet-stream;base64" id="plotly-gz">{packed}</script>',
        "</body></html>",
    ]
    return clean("\n".join(lines)) + "\n"
