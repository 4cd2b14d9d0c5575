"""How much of the model the Fisher spectrum had in closed form: one sentence, and a table of the rest."""

from __future__ import annotations

from isometry.report._content import Content, CoverageSection, UncoveredItem
from isometry.report._sections import names_html
from isometry.report._wording import clean, html_text, joined, number

__all__ = ["coverage_sentence", "coverage_table"]

_NAMED = 3  # kinds of layers that the sentence names
_WAYS = {
    "sample by sample": ("by differentiating sample by sample", "Differentiated sample by sample: exact, but slower"),
    "unused": ("not read by the forward pass", "Not read by the forward pass: it counts as zero"),
    "not measurable": ("left out, since they have no real gradients", "Left out: it has no real gradients"),
}


def coverage_sentence(content: Content) -> str:
    """Say how the parameters' contributions to the Fisher spectrum were had.

    Args:
        content: The report's content.

    Returns:
        A sentence in plain text, or nothing where it is not known.

    Example:
        >>> coverage_sentence({"fisher": {"coverage": {"parameters": 20, "closed_form": 1.0, "uncovered": []}}})
        'The Fisher spectrum has all 20 parameters in closed form.'
    """
    section = _section(content)
    if section is None:
        return ""
    total = number(section["parameters"])
    if not section["uncovered"]:
        return f"The Fisher spectrum has all {total} parameters in closed form."
    parts = [f"{_percent(section['closed_form'])} of {total} parameters in closed form"]
    for how, (words, _) in _WAYS.items():
        rows = [row for row in section["uncovered"] if row["how"] == how]
        if rows:
            share = sum(row["share"] or 0.0 for row in rows)
            kinds = list(dict.fromkeys(clean(row["layer"] or row["name"]) for row in rows))
            named = ", ".join(kinds[:_NAMED]) + (", …" if len(kinds) > _NAMED else "")
            parts.append(f"{_percent(share)} {words} ({named})")
    return f"The Fisher spectrum has {joined(parts)}."


def coverage_table(content: Content) -> str:
    """Give the coverage as a sentence that unfolds to what was not had in closed form.

    Args:
        content: The report's content.

    Returns:
        HTML, or nothing where it is not known.
    """
    section, sentence = _section(content), html_text(coverage_sentence(content))
    if section is None:
        return ""
    if not section["uncovered"]:
        return f'<div class="card more" id="coverage"><p>{sentence}</p></div>'
    groups: dict[tuple[str, str], list[UncoveredItem]] = {}
    for row in section["uncovered"]:
        groups.setdefault((row["how"] or "", row["layer"] or ""), []).append(row)
    body = "".join(
        f'<tr><td data-label="Layer"><span><code>{html_text(layer)}</code></span></td>'
        f'<td data-label="Parameters">{names_html([row["name"] or "" for row in rows])}</td>'
        f'<td data-label="How">{html_text(_WAYS[how][1] if how in _WAYS else how)}</td>'
        f'<td class="num" data-label="Share">{html_text(_percent(sum(row["share"] or 0.0 for row in rows)))}</td></tr>'
        for (how, layer), rows in groups.items()
    )
    return (
        f'<div class="card more" id="coverage"><p>{sentence}</p><details class="more layers">'
        '<summary>What is not in closed form</summary><table class="cards">'
        '<caption class="visually-hidden">Parameters that were not had in closed form</caption><thead><tr>'
        '<th scope="col">Layer</th><th scope="col">Parameters</th><th scope="col">How</th>'
        f'<th scope="col" class="num">Share</th></tr></thead><tbody>{body}</tbody></table></details></div>'
    )


def _section(content: Content) -> CoverageSection | None:
    fisher = content["fisher"]
    section = None if fisher is None else fisher["coverage"]
    return None if section is None or section["parameters"] is None else section


def _percent(share: float | None) -> str:
    """Write a share so that neither a little nor nearly all is rounded away.

    Returns:
        For example ``97.2%`` or ``< 0.1%``.
    """
    if share is None:
        return "an unknown share"
    if 0 < share < 0.0005:
        return "< 0.1%"
    if 0.9995 <= share < 1:
        return "> 99.9%"
    return f"{100 * share:.1f}%"
