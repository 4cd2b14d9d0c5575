"""The page of a probe: how measurements developed in a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isometry.report import _icons
from isometry.report._figures._timeline import Point, Series, gather, timelines
from isometry.report._page import figure_html, page_html, raw_html
from isometry.report._tidy import plain_data
from isometry.report._wording import count, html_number, html_text, joined, number, prose, sentence

__all__ = ["render_timeline"]

_FACTS = (
    ("model", "Model"),
    ("size", "Parameters"),
    ("samples", "Samples"),
    ("likelihood", "Likelihood"),
    ("schedule", "Schedule"),
    ("cap", "Cap on the probe's time"),
    ("seed", "Seed"),
)


def render_timeline(content: Mapping[str, Any]) -> str:
    """Draw what a probe has measured as one self-contained HTML page.

    Args:
        content: ``header`` (a mapping with ``model``, ``measures``, ...) and ``records``, a list of mappings with
            ``step``, ``seconds``, ``measure``, ``values`` and perhaps ``note``: what ``ProbeLog.to_dict`` gives.

    Returns:
        The page.

    Raises:
        TypeError: If the content is no such mapping.

    Example:
        >>> record = {"step": 0, "seconds": 0.0, "measure": "norm", "values": {"w": 1.0}}
        >>> page = render_timeline({"header": {"model": "Net"}, "records": [record]})
        >>> page.startswith("<!doctype html>"), "1 measurement" in page
        (True, True)
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("records"), list | tuple):
        raise TypeError(
            f"content must be a mapping with a header and a list of records, got {type(content).__name__}; pass what "
            "ProbeLog.to_dict() gives."
        )
    whole = plain_data(content, "content")
    header, records = whole.get("header") or {}, [{"note": None, "seconds": 0.0} | r for r in whole["records"]]
    series = gather(records)
    events = [r for r in records if r["measure"] == "nonfinite"]
    plots = timelines(series, [Point(r["step"], r["seconds"], None) for r in events])
    body = [_head(header, records, series, events)]
    if plots:
        figures = "".join(figure_html(plot) for plot in plots)
        body.append(
            '<section id="evidence" aria-labelledby="h-evidence"><h2 id="h-evidence">Measured over the training</h2>'
            f'<div class="plots">{figures}</div>{_table(series)}</section>'
        )
    missing = _missing(records)
    body += [missing, raw_html("probe.json", " The probe's own file has them in full.")]
    shown = {"evidence": ("Measured", bool(plots)), "skipped": ("Not measured", bool(missing)), "data": ("Data", True)}
    links = "".join(f'<a href="#{key}">{label}</a>' for key, (label, there) in shown.items() if there)
    title = f"Training of {header.get('model') or 'a model'}"
    return page_html(
        title,
        f'<nav aria-label="Sections">{links}</nav>',
        "".join(body),
        plots,
        raw=whole,
        created=header.get("created"),
        version=header.get("isometry"),
    )


def _head(header: dict[str, Any], records: list[dict[str, Any]], series: Series, events: list[dict[str, Any]]) -> str:
    """Set the page's headline, what the probe did in words, and the facts.

    Returns:
        HTML.
    """
    kind = "error" if events else "info"
    headline = "This training stopped being finite" if events else "What the probe saw in the training"
    cap = header.get("max_overhead")
    known = header | ({} if cap is None else {"cap": f"{number(100 * cap)} %"})
    facts = "".join(
        f"<div><dt>{label}</dt><dd>{html_number(known[key])}</dd></div>"
        for key, label in _FACTS
        if known.get(key) is not None
    )
    return (
        f'<section class="verdict card {kind}" aria-labelledby="verdict">'
        f'<div class="headline">{_icons.SEVERITY[kind]}<h1 id="verdict">{headline}</h1></div>'
        f"<p>{' '.join(map(prose, _paragraph(records, series, events)))}</p>"
        + (f'<dl class="facts">{facts}</dl>' if facts else "")
        + "</section>"
    )


def _paragraph(records: list[dict[str, Any]], series: Series, events: list[dict[str, Any]]) -> list[str]:
    taken = [r for r in records if r["measure"] in series and r["measure"] != "training"]
    if not taken:
        return ["Nothing has been measured yet."]
    last = max(r["step"] for r in taken)
    names = joined([f"`{name}`" for name in series if name != "training"])
    seconds = max(r["seconds"] or 0.0 for r in records)
    parts = [
        f"{count(sum(1 for r in taken if r['values']), 'measurement')} of {names}, from step "
        f"{min(r['step'] for r in taken):,} to step {last:,}, in {number(seconds)} seconds of training."
    ]
    shares = [p.value for p in series.get("training", {}).get("overhead", []) if p.value is not None]
    if shares:
        parts.append(f"The probe took {number(100 * shares[-1])} % of the training's time.")
    parts.extend(sentence(f"not finite at step {event['step']:,}: {event['note'] or 'no note'}") for event in events)
    return parts


def _table(series: Series) -> str:
    """Give first, lowest, highest and last value of every quantity.

    Returns:
        HTML.
    """
    heads = ("First", "Lowest", "Highest", "Last")
    rows = []
    for measure, quantities in series.items():
        for quantity, points in quantities.items():
            values = [p.value for p in points if p.value is not None]
            ends = (points[0].value, min(values, default=None), max(values, default=None), points[-1].value)
            cells = "".join(
                f'<td class="num" data-label="{head}">{html_number(value)}</td>'
                for head, value in zip(heads, ends, strict=True)
            )
            name = f"<span>{html_text(measure)} <code>{html_text(quantity)}</code></span>"
            rows.append(f'<tr><td data-label="Quantity">{name}</td>{cells}</tr>')
    head = "".join(f'<th scope="col" class="num">{label}</th>' for label in heads)
    return (
        '<details class="more card layers"><summary>Numbers by quantity</summary><table class="cards">'
        '<caption class="visually-hidden">First, lowest, highest and last value of each quantity</caption>'
        f'<thead><tr><th scope="col">Quantity</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></details>'
    )


def _missing(records: list[dict[str, Any]]) -> str:
    """List what was not measured: measures that were left out or failed, and what the cap did not allow.

    Returns:
        HTML, or nothing where all was measured.
    """
    rows = [
        (r["measure"], f"{r['note']} (step {r['step']:,})")
        for r in records
        if not r["values"] and r["note"] is not None
    ]
    gaps: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        if record["measure"] == "skipped":
            gaps.setdefault(record["note"] or "", []).append(record["values"])
    for note, found in gaps.items():
        name, _, reason = note.rpartition(": ")
        times = int(sum(gap["times"] for gap in found))
        first, last = (int(pick(gap[key] for gap in found)) for pick, key in ((min, "first"), (max, "last")))
        where = f"at step {first:,}" if first == last else f"between steps {first:,} and {last:,}"
        rows.append((name, f"{count(times, 'due measurement')} skipped {where}: {reason}"))
    if not rows:
        return ""
    body = "".join(
        f'<tr><td data-label="Measure">{html_text(name)}</td><td data-label="Why">{prose(sentence(why))}</td></tr>'
        for name, why in rows
    )
    return (
        '<section id="skipped" aria-labelledby="h-skipped"><h2 id="h-skipped">Not measured</h2><div class="card">'
        '<table class="cards"><caption class="visually-hidden">What was skipped, and why</caption><thead><tr>'
        f'<th scope="col">Measure</th><th scope="col">Why</th></tr></thead><tbody>{body}</tbody></table>'
        "</div></section>"
    )
