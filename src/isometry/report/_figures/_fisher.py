"""The Fisher information's spectrum with its bounds and the step size that it allows."""

from __future__ import annotations

from isometry.report._content import Content, FisherSection
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
    for key, name, dash in (
        ("bound_theorem", "bound by the theorem", "dash"),
        ("bound_rigorous", "certificate", "dot"),
    ):
        bound = section[key]  # type: ignore[literal-required]
        if bound is not None and bound > 0:
            line = {"color": SERIES["limit" if dash == "dash" else "after"], "width": 2, "dash": dash}
            trace = level(1, len(positive), bound, name, "limit", line=line)
            data.append(trace | {"hovertemplate": "%{y:.4~g}<extra>%{fullData.name}</extra>"})
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
    theorem = section["bound_theorem"]
    if theorem is not None and theorem < largest:
        sentences.append("The theorem's bound, which averages over networks, does not hold for this one.")
    certificate = section["bound_rigorous"]
    if certificate is not None:
        sentences.append(f"The certificate {number(certificate)} holds for any network.")
    details = [part for part in (section["kind"], section["likelihood"]) if part]
    if details:
        sentences.append(f"({', '.join(details)}; parameters: {section['params'] or 'all'})")
    return " ".join(sentences)
