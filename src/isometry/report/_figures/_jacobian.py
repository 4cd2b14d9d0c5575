"""Singular values of the input-output Jacobian against their law."""

from __future__ import annotations

import math
from collections.abc import Sequence

from isometry.report._content import Content, JacobianSection, LawCurve
from isometry.report._figures._plot import Figure, Plot, curve, heading, log_axis, padded
from isometry.report._theme import SERIES
from isometry.report._wording import count, number

__all__ = ["jacobian"]

BINS = 48
WIDE = 30.0  # beyond this ratio of largest to smallest drawn value the axis is logarithmic


def jacobian(content: Content) -> Plot | None:
    """Draw the histogram of singular values with the density that theory predicts.

    Returns:
        The plot, or None where no singular value was measured.
    """
    section = content["jacobian"]
    if section is None or section["complete"] is False:  # a histogram of the largest alone would show nothing
        return None
    rows = _rows(section["singular_values"])
    values = sorted(value for row in rows for value in row)
    positive = [value for value in values if value > 0]
    if not positive:
        return None
    law = _drawable(section["law"])
    span = [*positive, *_support(law)]
    log = max(span) / _low(span) > WIDE
    edges = _edges(_low(span), max(span), log=log)
    data = [_histogram(positive, edges, len(values), log=log)]
    if law is not None:
        data.append(_law(law, log=log))
    figure: Figure = {
        "data": data,
        "layout": {
            "xaxis": {"title": {"text": "singular value s"}}
            | (log_axis(edges) if log else {"range": padded(*_ends(edges, law))}),
            "yaxis": {"rangemode": "tozero"},
            "annotations": [heading(f"Density per {'decade of s' if log else 'unit of s'}", y=1.0)],
        },
    }
    return Plot("jacobian", "Jacobian singular values", figure, _reading(section, values, rows))


def _rows(values: Sequence[float] | Sequence[Sequence[float]]) -> list[list[float]]:
    """Sort out flat and per-input lists.

    Returns:
        One list for each input.
    """
    flat: list[float] = []
    rows: list[list[float]] = []
    for item in values:
        if isinstance(item, list):
            rows.append([value for value in item if value is not None])
        elif isinstance(item, int | float):
            flat.append(float(item))
    return rows or [flat]


def _drawable(law: LawCurve | None) -> LawCurve | None:
    """Leave out the law's points that have gaps.

    Returns:
        The law, or None where it has no curve.
    """
    if law is None:
        return None
    points = [(s, d) for s, d in zip(law["s"], law["density"], strict=False) if s is not None and d is not None]
    if not points:
        return None
    drawn = law.copy()
    drawn["s"], drawn["density"] = [s for s, _ in points], [d for _, d in points]
    return drawn


def _support(law: LawCurve | None) -> list[float]:
    if law is None:
        return []
    shown = [s for s, density in zip(law["s"], law["density"], strict=False) if s and density]
    return [min(shown), max(shown)] if shown else []


def _low(span: list[float]) -> float:
    """Choose where a log axis begins: forty powers of ten below the top are all one to the eye.

    Returns:
        The lowest value to draw.
    """
    return max(min(span), max(span) * 1e-40)


def _edges(low: float, high: float, *, log: bool) -> list[float]:
    if log:
        a, b = math.log10(low), math.log10(high)
        margin = 0.02 * (b - a)
        return [10 ** (a - margin + (b - a + 2 * margin) * i / BINS) for i in range(BINS + 1)]
    width = max(high - low, 0.05 * high)
    start = max(0.0, (low + high) / 2 - 0.55 * width)
    return [start + 1.1 * width * i / BINS for i in range(BINS + 1)]


def _ends(edges: list[float], law: LawCurve | None) -> tuple[float, float]:
    return min([edges[0], *_support(law)]), max([edges[-1], *_support(law)])


def _histogram(values: list[float], edges: list[float], total: int, *, log: bool) -> dict[str, object]:
    """Count the values in bins; drawn as a filled step line, which a log axis shows as it should.

    Returns:
        A plotly trace whose area is the share of the values.
    """
    counts = [0] * BINS
    place = math.log if log else float
    first, last = place(edges[0]), place(edges[-1])
    for value in values:
        counts[min(max(int((place(value) - first) / (last - first) * BINS), 0), BINS - 1)] += 1
    width = (math.log10(edges[1] / edges[0])) if log else edges[1] - edges[0]
    heights = [n / total / width for n in counts]
    x = [float(f"{edge:.5g}") for edge in edges]
    return curve(x, [*(float(f"{h:.4g}") for h in heights), 0.0], "measured", "measured") | {
        "line": {"color": SERIES["measured"], "width": 1.5, "shape": "hv"},
        "fill": "tozeroy",
        "customdata": [*counts, 0],
        "hovertemplate": "s from %{x:.4~g}: %{customdata} values<extra>measured</extra>",
    }


def _law(law: LawCurve, *, log: bool) -> dict[str, object]:
    s, density = law["s"], law["density"]
    if log:  # the density per decade
        density = [value * at * math.log(10) for at, value in zip(s, density, strict=False)]
    kind = f" ({law['weights']} weights)" if law["weights"] in {"orthogonal", "gaussian"} else ""
    trace = curve(s, [float(f"{value:.4g}") for value in density], f"theory{kind}", "theory")
    return trace | {"hovertemplate": "s = %{x:.4~g}: density %{y:.4~g}<extra>theory</extra>"}


def _reading(section: JacobianSection, values: list[float], rows: list[list[float]]) -> str:
    inputs = section["inputs"] or len(rows)
    largest = section["s_max"] if section["s_max"] is not None else values[-1]
    median = values[len(values) // 2]
    sentences = [
        *([f"The Jacobian runs {section['of']}."] if section["of"] else []),
        f"{count(len(values), 'singular value')} at {count(inputs, 'input')}: the largest is {number(largest)}, "
        f"the median {number(median)}, the smallest {number(values[0])}.",
    ]
    zero = sum(1 for value in values if value == 0)
    if zero:
        sentences.append(f"{count(zero, 'value')} of them {'is' if zero == 1 else 'are'} zero and not drawn.")
    law = section["law"]
    if law is not None and law["s_max"] is not None:
        sentences.append(f"Theory expects none above {number(law['s_max'])}.")
    sentences.append("The nearer they crowd around 1, the better every direction of the input survives.")
    return " ".join(sentences)
