"""The Fisher information's spectrum with its bounds and the step size that it allows."""

from __future__ import annotations

from typing import Any

from isometry.report._content import Content, FisherSection, HiddenFisher
from isometry.report._figures._plot import Figure, Plot, curve, heading, level, log_axis, padded
from isometry.report._theme import SERIES
from isometry.report._wording import count, number

__all__ = ["fisher"]

ROUNDING = 1e-14  # of the largest eigenvalue: below that float64 arithmetic knows nothing


def fisher(content: Content) -> Plot | None:
    """Draw the sorted eigenvalues on a log axis, the bounds on the largest one and 2 / lambda_max.

    Returns:
        The plot, or None where no eigenvalue was measured.
    """
    section = content["fisher"]
    if section is None:
        return None
    values = sorted((v for v in section["eigenvalues"] if v is not None), reverse=True)
    if not values:
        return None
    positive = [v for v in values if v > ROUNDING * max(values[0], 0.0)]
    if not positive:
        return None
    index = list(range(1, len(positive) + 1))
    spectrum = curve(index, positive, "eigenvalues", "measured") | {
        "mode": "lines+markers" if len(positive) <= 60 else "lines",
        "hovertemplate": "eigenvalue %{x}: %{y:.4~g}<extra></extra>",
    }
    largest = section["lambda_max"] or positive[0]
    top = {"mode": "markers", "marker": {"symbol": "diamond", "size": 10, "color": SERIES["measured"]}}
    hover = {"hovertemplate": "largest: %{y:.4~g}<extra></extra>"}
    data = [spectrum, curve([1], [largest], "λ<sub>max</sub>", "measured") | top | hover]
    certificate = section["bound_rigorous"]
    if certificate is not None and certificate > 0:
        line = {"color": SERIES["after"], "width": 2, "dash": "dot"}
        trace = level(1, len(positive), certificate, "certificate", "limit", line=line)
        data.append(trace | {"hovertemplate": "%{y:.4~g}<extra>%{fullData.name}</extra>"})
    data += _hidden_traces(section["hidden"], len(positive), least=ROUNDING * largest)
    figure: Figure = {
        "data": data,
        "layout": {
            "margin": {"t": 44},
            "xaxis": {"title": {"text": "rank of the eigenvalue"}, "range": padded(1, len(positive))},
            "yaxis": log_axis([y for trace in data for y in trace["y"]]),
            "annotations": [heading(_top(section, positive[0]), y=1.0)],
        },
    }
    return Plot("fisher", "Fisher spectrum", figure, _reading(section, values, positive))


def _hidden_traces(hidden: HiddenFisher | None, width: int, *, least: float) -> list[dict[str, Any]]:
    """Draw the hidden layers' largest eigenvalue and the theorem's bound on it; far below the spectrum, words must do.

    Returns:
        Up to two traces.
    """
    if hidden is None:
        return []
    hover = {"hovertemplate": "%{y:.4~g}<extra>%{fullData.name}</extra>"}
    traces = []
    largest, bound = hidden["lambda_max"], hidden["bound_theorem"]
    if largest is not None and largest > least:
        mark = {"symbol": "diamond-open", "size": 11, "color": SERIES["limit"], "line": {"width": 2}}
        traces.append(
            curve([1], [largest], "hidden layers: λ<sub>max</sub>", "limit", mode="markers", marker=mark) | hover
        )
    if bound is not None and bound > least:
        traces.append(level(1, width, bound, "hidden layers: theorem", "limit") | hover)
    return traces


def _top(section: FisherSection, drawn: float) -> str:
    """Name the largest eigenvalue and the step size that it allows.

    Returns:
        Text in plotly's markup.
    """
    largest = section["lambda_max"] or drawn
    step = section["max_step_size"] or 2 / largest
    return f"Eigenvalue, λ<sub>max</sub> = {number(largest)}<br>largest stable step 2/λ<sub>max</sub> = {number(step)}"


def _reading(section: FisherSection, values: list[float], positive: list[float]) -> str:
    largest = section["lambda_max"] or positive[0]
    step = section["max_step_size"] or 2 / largest
    sentences = [
        f"The largest of {count(len(values), 'eigenvalue')} is {number(largest)}: gradient descent with a step above "
        f"2/λ = {number(step)} is expected to diverge."
    ]
    lost = len(values) - len(positive)
    if lost:
        sentences.append(f"{lost:,} of them {'is' if lost == 1 else 'are'} zero to rounding and not drawn.")
    rank = section["effective_rank"]
    if rank is not None:
        sentences.append(
            f"The effective rank is {number(rank)}: "
            + ("one direction takes nearly all of the curvature." if rank < 2 else "the curvature is spread this wide.")
        )
    if section["condition"] is not None:
        sentences.append(f"Condition number: {number(section['condition'])}.")
    if section["bound_rigorous"] is not None:
        sentences.append(f"The certificate {number(section['bound_rigorous'])} bounds it for any network.")
    if section["hidden"] is not None:
        sentences += _hidden_reading(section["hidden"])
    details = [part for part in (section["kind"], section["likelihood"]) if part]
    if details:
        sentences.append(f"({', '.join(details)}; parameters: {section['params'] or 'all'})")
    return " ".join(sentences)


def _hidden_reading(hidden: HiddenFisher) -> list[str]:
    """Say how the hidden layers' largest eigenvalue compares with the theorem's bound, which is about them alone.

    Returns:
        Sentences.
    """
    largest, bound = hidden["lambda_max"], hidden["bound_theorem"]
    if largest is None or bound is None:
        return []
    pair = f"Hidden layers alone: λ_max {number(largest)}, theorem {number(bound)}"
    if largest <= bound:
        return [f"{pair}."]
    return [
        f"{pair}, which does not hold here.",
        "The theorem is about the average network whose first layer's block is the largest; a single network may "
        "exceed it.",
    ]
