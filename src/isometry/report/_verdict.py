"""The verdict in plain words: one headline and one paragraph, from what was found."""

from __future__ import annotations

from isometry.report._content import Content, FindingItem
from isometry.report._wording import count, joined, sentence, split_lead

__all__ = ["ORDER", "headline", "ordered", "paragraph", "remedy_title", "tone"]

ORDER = ("error", "warning", "info")

_HEADLINES = {
    "error": "As it stands, this network will not train",
    "warning": "This network trains, but worse or riskier than it need",
    "healthy": "This network is healthy",
    "unknown": "Nothing was judged",
}


def tone(content: Content) -> str:
    """Give the verdict; where it is missing, the worst finding's severity decides.

    Returns:
        ``"error"``, ``"warning"``, ``"healthy"`` or ``"unknown"``.
    """
    if content["verdict"] in {"error", "warning", "healthy"}:
        return str(content["verdict"])
    severities = {finding["severity"] for finding in content["findings"]}
    return next((severity for severity in ("error", "warning") if severity in severities), "unknown")


def headline(content: Content) -> str:
    """Say the verdict in one line.

    Returns:
        A sentence without full stop.
    """
    return _HEADLINES[tone(content)]


def ordered(content: Content) -> list[FindingItem]:
    """Put the gravest findings first; equals keep their order.

    Returns:
        The findings.
    """
    rank = {severity: i for i, severity in enumerate(ORDER)}
    return sorted(content["findings"], key=lambda finding: rank.get(finding["severity"], len(rank)))


def paragraph(content: Content) -> list[str]:
    """Say what was examined, what was found, what to do and whether it helped.

    Returns:
        A few sentences, each on its own, since a user's string in one must not change how the next is set.
    """
    parts = [_examined(content), *_found(content), _remedy(content), _proved(content)]
    return [part for part in parts if part]


def _examined(content: Content) -> str:
    subject = content["subject"]
    if not any(subject.values()):
        return "The report does not say which network was examined."
    size = [
        count(amount, noun)
        for amount, noun in ((subject["layers"], "layer"), (subject["parameters"], "parameter"))
        if amount is not None
    ]
    name = subject["model"] or "The network"
    data = f" on {count(subject['samples'], 'sample')}" if subject["samples"] is not None else ""
    data = f" on {count(subject['nodes'], 'node')}" if subject["nodes"] is not None else data
    if subject["data"]:
        data += f" of {subject['data']}" if data else f" on {subject['data']}"
    described = f"{name} ({joined(size)})" if size else name
    return f"{described} was measured{data}."


def _found(content: Content) -> list[str]:
    findings = ordered(content)
    if not findings:
        return ["There are no findings."] if tone(content) == "healthy" else []
    amounts = {severity: sum(1 for f in findings if f["severity"] == severity) for severity in ORDER}
    nouns = {"error": ("error", None), "warning": ("warning", None), "info": ("remark", None)}
    listed = joined([count(amount, *nouns[severity]) for severity, amount in amounts.items() if amount])
    listed = listed or count(len(findings), "finding")
    worst = sentence(split_lead(findings[0]["message"] or "")[0])
    if amounts["error"] + amounts["warning"] == 0:
        return [f"There is nothing to repair; {listed} below."]
    return [f"It shows {listed}.", worst if len(findings) == 1 or not worst else f"The gravest: {worst}"]


def _remedy(content: Content) -> str:
    prescription = content["prescription"]
    if prescription is None or not prescription["summary"]:
        return ""
    summary = prescription["summary"]
    lead = "For comparison, it was also trained with" if content["proof"] is not None else "Another initialization"
    lead = f"{lead}:" if tone(content) == "healthy" else f"{remedy_title(content)}:"
    return f"{lead} {summary}" + ("" if summary.rstrip()[-1:] in ".!?" else ".")


def remedy_title(content: Content) -> str:
    """Say what the prescription is to this network: of a healthy one nothing has to change.

    Returns:
        A title.
    """
    return "For comparison" if tone(content) == "healthy" else "What to change"


def _proved(content: Content) -> str:
    proof = content["proof"]
    return sentence(proof["verdict"]) if proof is not None and proof["verdict"] else ""
