"""The page of a comparison: which combination came out ahead, how sure that is, and how the trainings went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from isometry.report import _icons
from isometry.report._figures._comparison import comparison_plots, short_names
from isometry.report._page import figure_html, page_html, raw_html
from isometry.report._tidy import plain_data
from isometry.report._wording import count, html_number, html_text, number, prose, sentence

__all__ = ["render_comparison"]

_PARTS = ("Model", "Initialization", "Constraint", "Optimizer")
_METRICS = (
    ("test/accuracy", "Test accuracy"),
    ("test/loss", "Test loss"),
    ("validation/accuracy", "Validation accuracy"),
    ("validation/loss", "Validation loss"),
    ("train/loss", "Training loss"),
)


def render_comparison(content: Mapping[str, Any]) -> str:
    """Draw a comparison as one self-contained HTML page.

    Args:
        content: What ``training.compare.Comparison.to_dict`` gives.

    Returns:
        The page.

    Raises:
        TypeError: If the content is no such mapping.

    Example:
        >>> page = render_comparison({"name": "Nothing yet", "entries": []})
        >>> page.startswith("<!doctype html>"), "Nothing yet" in page
        (True, True)
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("entries"), list | tuple):
        raise TypeError(
            f"content must be a mapping with a list of entries, got {type(content).__name__}; pass what "
            "Comparison.to_dict() gives."
        )
    whole: dict[str, Any] = {"name": "", "settings": {}, "failures": [], "notes": [], "left_out": [], "versions": {}}
    whole |= plain_data(content, "content")
    plots = comparison_plots(whole["entries"])
    body = [_head(whole), _table(whole["entries"])]
    if plots:
        drawn = "".join(figure_html(plot) for plot in plots)
        body.append(
            '<section id="evidence" aria-labelledby="h-evidence"><h2 id="h-evidence">Over the training</h2>'
            f'<div class="plots">{drawn}</div></section>'
        )
    remarks = _remarks(whole)
    body += [remarks, raw_html("comparison.json", " The results database has all of them in full.")]
    shown = {"table": ("Table", True), "evidence": ("Curves", bool(plots)), "remarks": ("Remarks", bool(remarks))}
    links = "".join(f'<a href="#{key}">{label}</a>' for key, (label, there) in shown.items() if there)
    return page_html(
        f"Comparison: {whole['name'] or 'an experiment'}",
        f'<nav aria-label="Sections">{links}</nav>',
        "".join(body),
        plots,
        raw=whole,
        created=None,
        version=whole["versions"].get("isometry"),
    )


def _head(whole: Mapping[str, Any]) -> str:
    """Set the experiment's name, what was done in words, and the facts.

    Returns:
        HTML.
    """
    kind = "error" if whole["failures"] else "info"
    settings = whole["settings"]
    sole = {
        part: labels[0]
        for part, labels in zip(_PARTS, _columns(whole["entries"]), strict=False)
        if len(set(labels)) == 1 and labels[0] not in ("default", "none")
    }
    facts = sole | {
        "Data": (settings.get("data") or {}).get("name"),
        "Epochs": settings.get("epochs"),
        "Batch": settings.get("batch_size"),
        "Seeds": len(settings["seeds"]) if settings.get("seeds") else None,
        "Runs": whole.get("runs"),
        "Seconds of training": whole.get("seconds"),
    }
    listed = "".join(
        f"<div><dt>{label}</dt><dd>{html_number(value)}</dd></div>"
        for label, value in facts.items()
        if value is not None
    )
    return (
        f'<section class="verdict card {kind}" aria-labelledby="verdict">'
        f'<div class="headline">{_icons.SEVERITY[kind]}<h1 id="verdict">{html_text(whole["name"])}</h1></div>'
        f"<p>{' '.join(map(prose, _paragraph(whole)))}</p>"
        + (f'<dl class="facts">{listed}</dl>' if listed else "")
        + "</section>"
    )


def _columns(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return list(zip(*(entry["combination"] for entry in entries), strict=True))


def _paragraph(whole: Mapping[str, Any]) -> list[str]:
    entries = whole["entries"]
    parts = [f"{count(whole.get('ended') or 0, 'run')} of {whole.get('runs') or 0:,} have ended."]
    if whole["failures"]:
        parts.append(f"{count(len(whole['failures']), 'run')} failed; they are listed below.")
    metric, values = _judged(entries)
    if len(values) > 1:
        parts += _ranking(metric, values)
    edges = sum(1 for entry in entries if entry["choice"] and entry["choice"]["edge"])
    if edges:
        parts.append(
            f"For {count(edges, 'combination')} the best learning rate was the lowest or the highest that was tried; "
            "widen the grid there."
        )
    if whole.get("settings", {}).get("select"):
        when = "last epoch" if whole["settings"]["select"] == "final" else "best epoch"
        parts.append(
            f"Learning rates are chosen by the mean validation loss of the {when}; the test set is seen by those alone."
        )
    return parts


def _judged(entries: Sequence[Mapping[str, Any]]) -> tuple[str, list[tuple[str, Mapping[str, Any]]]]:
    names = short_names([entry["combination"] for entry in entries])
    for metric, _ in _METRICS[:4]:
        values = [
            (name, entry["numbers"][metric])
            for name, entry in zip(names, entries, strict=True)
            if metric in entry["numbers"] and entry["numbers"][metric]["mean"] is not None
        ]
        if values:
            return metric, values
    return "", []


def _ranking(metric: str, values: list[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Say who is ahead, and whether the intervals of the first two overlap.

    Returns:
        Sentences.
    """
    ordered = sorted(values, key=lambda v: v[1]["mean"], reverse=metric.endswith("accuracy"))
    (first, one), (second, two) = ordered[:2]
    words = dict(_METRICS)[metric].lower()
    parts = [
        f"Ahead in {words}: `{first}` with {number(one['mean'], 4)}; next `{second}` with {number(two['mean'], 4)}."
    ]
    if None in (one["low"], one["high"], two["low"], two["high"]):
        parts.append("With one seed there is no interval, so the order may be chance.")
    elif one["low"] <= two["high"] and two["low"] <= one["high"]:
        parts.append("Their 95 % intervals overlap, so the order of the two may be chance.")
    else:
        parts.append("Their 95 % intervals do not overlap.")
    return parts


def _table(entries: Sequence[Mapping[str, Any]]) -> str:
    """Set one row for each combination: labels, learning rate, numbers with intervals.

    Returns:
        HTML.
    """
    varying = [i for i, labels in enumerate(_columns(entries)) if len(set(labels)) > 1]
    parts = varying or [0]  # what all have in common stands among the facts above
    metrics = [(key, label) for key, label in _METRICS if any(key in entry["numbers"] for entry in entries)]
    heads = "".join(f'<th scope="col">{_PARTS[i]}</th>' for i in parts)
    heads += '<th scope="col" class="num">Learning rate</th><th scope="col" class="num">Seeds</th>'
    heads += "".join(f'<th scope="col" class="num">{label}</th>' for _, label in metrics)
    rows = "".join(_row(entry, parts, metrics) for entry in entries)
    body = rows or '<tr><td data-label="Table">Nothing has ended yet.</td></tr>'
    return (
        '<section id="table" aria-labelledby="h-table"><h2 id="h-table">Compared</h2><div class="card">'
        '<p class="muted">Mean over the seeds that did not diverge, ± half of Student’s 95 % interval.</p>'
        '<table class="cards"><caption class="visually-hidden">Combinations compared</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _row(entry: Mapping[str, Any], parts: Sequence[int], metrics: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f'<td data-label="{_PARTS[i]}">{html_text(entry["combination"][i])}</td>' for i in parts)
    choice = entry["choice"]
    lr = html_number(None if choice is None else choice["lr"])
    if choice is not None and choice["edge"]:
        lr += f' <span class="muted">({html_text(choice["edge"])} tried)</span>'
    seeds = html_number(entry["runs"])
    if entry["diverged"]:
        seeds += f' <span class="muted">({entry["diverged"]} diverged)</span>'
    cells += f'<td class="num" data-label="Learning rate"><span>{lr}</span></td>'
    cells += f'<td class="num" data-label="Seeds"><span>{seeds}</span></td>'
    for key, label in metrics:
        cells += f'<td class="num" data-label="{label}"><span>{_interval(entry["numbers"].get(key))}</span></td>'
    return f"<tr>{cells}</tr>"


def _interval(found: Mapping[str, Any] | None) -> str:
    if found is None or found["mean"] is None:
        return html_number(None)
    text = html_number(found["mean"], 4)
    if found["low"] is None or found["high"] is None:
        return text
    return f"{text} ± {html_number((found['high'] - found['low']) / 2, 2)}"


def _remarks(whole: Mapping[str, Any]) -> str:
    """List failures, notes, and what of the grid was not trained.

    Returns:
        HTML, or nothing where there is nothing to say.
    """
    rows = [("Failed", f"{run}: {why}") for run, why in whole["failures"]]
    rows += [("Left out", text) for text in whole["left_out"]]
    rows += [("Note", text) for text in whole["notes"]]
    if not rows:
        return ""
    body = "".join(
        f'<tr><td data-label="What">{what}</td><td data-label="Why"><span>{prose(sentence(text))}</span></td></tr>'
        for what, text in rows
    )
    return (
        '<section id="remarks" aria-labelledby="h-remarks"><h2 id="h-remarks">Failures and remarks</h2>'
        '<div class="card"><table class="cards"><caption class="visually-hidden">Failures and remarks</caption><thead>'
        f'<tr><th scope="col">What</th><th scope="col">Why</th></tr></thead><tbody>{body}</tbody></table>'
        "</div></section>"
    )
