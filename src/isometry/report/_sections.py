"""The page's parts that are words and tables, as HTML. Every user string passes through ``_wording``."""

from __future__ import annotations

from isometry.report import _icons
from isometry.report._content import Content, CostSection, FindingItem, LayerItem, PrescriptionSection
from isometry.report._figures._signal import by_depth
from isometry.report._verdict import headline, ordered, paragraph, tone
from isometry.report._wording import html_number, html_text, number, prose, sentence, split_lead

__all__ = [
    "cost_section",
    "findings_section",
    "layers_table",
    "names_html",
    "prescription_section",
    "skipped_section",
    "verdict_section",
]

SHOWN = 6  # layer names that are shown without asking

_FACTS = (
    ("model", "Model", True),
    ("data", "Data", True),
    ("parameters", "Parameters", False),
    ("layers", "Layers", False),
    ("samples", "Samples", False),
    ("nodes", "Nodes", False),
    ("classes", "Classes", False),
    ("activation", "Activation", False),
    ("likelihood", "Likelihood", False),
    ("dtype", "Number format", False),
    ("device", "Device", False),
)


def verdict_section(content: Content) -> str:
    """Set the verdict, its paragraph and the facts about model and data.

    Returns:
        HTML.
    """
    kind = tone(content)
    facts = []
    for key, label, broad in _FACTS:
        value = content["subject"][key]  # type: ignore[literal-required]
        if value is None:
            continue
        css = ' class="broad"' if broad else ""
        mark = ' class="code"' if isinstance(value, str) and broad else ""
        facts.append(f"<div{css}><dt>{label}</dt><dd{mark}>{html_number(value)}</dd></div>")
    return (
        f'<section class="verdict card {kind}" aria-labelledby="verdict">'
        f'<div class="headline">{_icons.SEVERITY[kind]}<h1 id="verdict">{headline(content)}</h1></div>'
        f"<p>{' '.join(map(prose, paragraph(content)))}</p>"
        + (f'<dl class="facts">{"".join(facts)}</dl>' if facts else "")
        + "</section>"
    )


def findings_section(content: Content) -> str:
    """List the findings, the gravest first.

    Returns:
        HTML.
    """
    findings = ordered(content)
    if findings:
        body = f'<ol class="findings">{"".join(_finding(finding) for finding in findings)}</ol>'
    else:
        healthy = tone(content) == "healthy"
        words = "Every check passed: nothing to report." if healthy else "No findings were recorded."
        kind = "healthy" if healthy else "unknown"
        body = f'<div class="card nothing {kind}">{_icons.SEVERITY[kind]}<p>{words}</p></div>'
    return f'<section id="findings" aria-labelledby="h-findings"><h2 id="h-findings">Findings</h2>{body}</section>'


def _finding(finding: FindingItem) -> str:
    severity = finding["severity"] if finding["severity"] in _icons.SEVERITY else "info"
    remedy = finding["remedy"]
    advice = f'<p class="remedy"><b>What to do.</b> {prose(remedy)}</p>' if remedy else ""
    return (
        f'<li class="finding card {severity}"><div><div class="label">'
        f'<span class="badge">{_icons.SEVERITY[severity]}{severity.capitalize()}</span>'
        f'<span class="code">{html_text(finding["code"] or "")}</span></div>'
        f"{_message(finding['message'] or '')}{advice}</div>"
        f"{_numbers(finding)}{_where(finding['where'])}</li>"
    )


def _message(message: str) -> str:
    head, rest = split_lead(message)
    return f"<h3>{prose(head)}</h3>" + (f"<p>{prose(rest)}</p>" if rest else "")


def _numbers(finding: FindingItem) -> str:
    if finding["value"] is None and finding["expected"] is None:
        return ""
    unit = f'<p class="unit">{html_text(finding["unit"])}</p>' if finding["unit"] else ""
    return (
        '<div class="numbers"><dl>'
        f"<div><dt>Measured</dt>{_number(finding['value'])}</div>"
        f"{_expected(finding['expected'])}</dl>{unit}</div>"
    )


def _expected(value: float | str | None) -> str:
    if value is None:  # not every finding has a norm: the largest stable step size is what it is
        return ""
    return f'<div class="expected"><dt>Expected</dt>{_number(value)}</div>'


def _number(value: float | str | None) -> str:
    css = ' class="words"' if isinstance(value, str) else ""
    return f"<dd{css}>{html_number(value)}</dd>"


def _where(names: list[str]) -> str:
    if not names:
        return ""
    marks = [f"<code>{html_text(name)}</code>" for name in names]
    if len(names) <= SHOWN:
        return f'<div class="where"><p>Where: {" ".join(marks)}</p></div>'
    items = "".join(f"<li>{mark}</li>" for mark in marks)
    lead = f"Where: {marks[0]} … {marks[-1]}"
    return f'<div class="where"><details><summary>{lead}</summary><ul>{items}</ul></details></div>'


def prescription_section(section: PrescriptionSection) -> str:
    """Set the prescription: summary, one row for every kind of change, notes.

    Returns:
        HTML.
    """
    notes = "".join(f"<li>{prose(note)}</li>" for note in section["notes"])
    scale = section["input_scale"]
    scaled = "" if scale is None else f"<p>Multiply the inputs by <b>{html_number(scale, 4)}</b>.</p>"
    return (
        f'<div class="card stack"><p class="summary">{prose(sentence(section["summary"]) or "No summary.")}</p>'
        f"{scaled}{_changes(section)}" + (f'<ul class="notes">{notes}</ul>' if notes else "") + "</div>"
    )


def _changes(section: PrescriptionSection) -> str:
    groups: dict[tuple[str, str], list[str]] = {}  # equal changes take one row, wherever they stand
    for change in section["changes"]:
        groups.setdefault((change["action"] or "", change["detail"] or ""), []).append(change["name"] or "")
    rows = [
        f'<tr><td data-label="Parameter">{names_html(names)}</td>'
        f'<td class="word" data-label="Action">{prose(action)}</td>'
        f'<td data-label="How">{prose(detail)}</td></tr>'
        for (action, detail), names in groups.items()
    ]
    if not rows:
        return ""
    return (
        '<table class="cards"><caption class="visually-hidden">Prescribed changes</caption><thead><tr>'
        f'<th scope="col">Parameter</th><th scope="col">Action</th><th scope="col">How</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def names_html(names: list[str]) -> str:
    """Set names of parameters; many unfold.

    Args:
        names: At least one.

    Returns:
        HTML.
    """
    marks = [f"<code>{html_text(name)}</code>" for name in names]
    if len(marks) <= 3:
        return f"<span>{'<br>'.join(marks)}</span>"
    lead = f"{marks[0]} … {marks[-1]} ({len(marks)})"
    return f"<div><details><summary>{lead}</summary>{'<br>'.join(marks)}</details></div>"


def layers_table(content: Content) -> str:
    """Give the numbers of the plots by depth as a table that unfolds.

    Returns:
        HTML, or nothing where no layer was measured.
    """
    section = content["signal"]
    if section is None or not section["layers"]:
        return ""
    columns: tuple[tuple[str, str], ...] = (
        ("q", "q"),
        ("q_theory", "q, theory"),
        ("correlation", "correlation"),
        ("gradient_norm", "gradient"),
        ("gradient_theory", "gradient, theory"),
        ("dead", "dead"),
        ("saturated", "saturated"),
        ("nonfinite", "not finite"),
    )
    layers, depths = by_depth(section)
    kept = [(key, label) for key, label in columns if any(layer[key] is not None for layer in layers)]  # type: ignore[literal-required]
    head = "".join(f'<th scope="col" class="num">{label}</th>' for _, label in kept)
    rows = "".join(_layer(layer, depth, kept) for layer, depth in zip(layers, depths, strict=True))
    return (
        '<details class="more card layers"><summary>Numbers by layer</summary><table class="cards">'
        '<caption class="visually-hidden">Signal and gradient, layer by layer</caption>'
        f'<thead><tr><th scope="col">Depth</th><th scope="col">Layer</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></details>"
    )


def _layer(layer: LayerItem, depth: int, columns: list[tuple[str, str]]) -> str:
    cells = "".join(
        f'<td class="num" data-label="{label}">{html_number(layer[key])}</td>'  # type: ignore[literal-required]
        for key, label in columns
    )
    kind = f' <span class="muted">{html_text(layer["kind"])}</span>' if layer["kind"] else ""
    return (
        f'<tr><td data-label="Depth">{depth}</td>'
        f'<td data-label="Layer"><span><code>{html_text(layer["name"] or "")}</code>{kind}</span></td>{cells}</tr>'
    )


_PARTS = {
    "signal": "Signal and gradient",
    "jacobian": "Jacobian",
    "fisher": "Fisher spectrum",
    "phase": "Phase diagram",
    "prescription": "Prescription",
    "proof": "Proof by training",
}


def skipped_section(content: Content) -> str:
    """List what was not measured, and why. A missing part without a reason is listed as such.

    Returns:
        HTML, or nothing where all was measured.
    """
    rows = [(item["what"] or "", item["why"] or "") for item in content["skipped"]]
    named = " ".join(what.lower() for what, _ in rows)
    for key, label in _PARTS.items():
        if content[key] is None and key not in named:  # type: ignore[literal-required]
            rows.append((label, "Not asked for." if key == "proof" else "Not asked for, or no reason was recorded."))
    if not rows:
        return ""
    body = "".join(
        f'<tr><td data-label="Part">{prose(what)}</td><td data-label="Why">{prose(why)}</td></tr>' for what, why in rows
    )
    return (
        '<section id="skipped" aria-labelledby="h-skipped"><h2 id="h-skipped">Not measured</h2><div class="card">'
        '<table class="cards"><caption class="visually-hidden">What was skipped, and why</caption><thead><tr>'
        f'<th scope="col">Part</th><th scope="col">Why</th></tr></thead><tbody>{body}</tbody></table></div></section>'
    )


def cost_section(section: CostSection) -> str:
    """Show the seconds that each part took.

    Returns:
        HTML, or nothing where no time was recorded.
    """
    parts = {name: seconds for name, seconds in section["seconds"].items() if seconds is not None}
    total = section["total"] if section["total"] is not None else sum(parts.values())
    if not parts and section["total"] is None:
        return ""
    longest = max(parts.values(), default=0.0) or 1.0
    rows = "".join(
        f'<tr><td>{html_text(name)}</td><td class="num">{html_number(seconds, 2)} s</td>'
        f'<td class="span" aria-hidden="true"><span class="share" style="width:{100 * seconds / longest:.1f}%">'
        "</span></td></tr>"
        for name, seconds in parts.items()
    )
    return (
        '<section id="cost" aria-labelledby="h-cost"><h2 id="h-cost">Cost</h2><div class="card">'
        f"<table><caption>{number(total, 3)} seconds in all</caption>"
        '<thead class="visually-hidden"><tr><th scope="col">Part</th><th scope="col">Seconds</th><td></td></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )
