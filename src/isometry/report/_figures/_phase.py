"""The phase diagram: where signals die out, where they turn chaotic, and where this net stands."""

from __future__ import annotations

import math
from typing import Any

from isometry.report._content import Content, PhasePoint, PhaseSection
from isometry.report._figures._plot import Figure, Plot, finite, heading
from isometry.report._theme import SERIES
from isometry.report._wording import number

__all__ = ["phase", "phase_plot"]

REACH = 3.0  # the colours resolve chi from 1/3 to 3


def phase(content: Content) -> Plot | None:
    """Draw chi over (sigma_w, sigma_b), the critical line and the net before and after.

    Returns:
        The plot, or None where there is no phase diagram.
    """
    section = content["phase"]
    return None if section is None else phase_plot(section)


def phase_plot(section: PhaseSection) -> Plot | None:
    """Draw one phase section.

    Returns:
        The plot, or None where its grid is empty or has gaps.
    """
    x, y = section["sigma_w"], section["sigma_b"]
    whole = finite(x) == x and finite(y) == y and len(section["chi"]) == len(y)
    if not x or not y or not whole or not any(any(chi is not None for chi in row) for row in section["chi"]):
        return None
    data: list[dict[str, Any]] = [_heat(section)]
    critical = section["critical"]
    if critical is not None and critical["sigma_w"]:
        data.append(
            {
                "type": "scatter",
                "mode": "lines" if len(critical["sigma_w"]) > 1 else "markers",  # relu's is a single point
                "marker": {"size": 11, "symbol": "star", "color": SERIES["critical"]},
                "x": critical["sigma_w"],
                "y": critical["sigma_b"],
                "name": "critical, χ = 1",
                "line": {"color": SERIES["critical"], "width": 3},
                "hovertemplate": "σ<sub>w</sub> %{x:.4~g}, σ<sub>b</sub> %{y:.4~g}<extra>critical</extra>",
            }
        )
    before, after = _point(section["before"]), _point(section["after"])
    arrow = []
    if before and after and before != after:
        arrow = [_arrow(before, after)]
    for point, role, symbol in ((before, "before", "x"), (after, "after", "circle")):
        if point is not None:
            data.append(_marker(point, role, symbol, role if after else "this net"))
    figure: Figure = {
        "data": data,
        "layout": {
            "coloraxis": {
                "cmid": 0,
                "cmin": -math.log10(REACH),
                "cmax": math.log10(REACH),
                "colorbar": {
                    "title": {"text": "χ"},
                    "tickvals": [round(math.log10(chi), 4) for chi in (1 / REACH, 0.6, 1, 1.7, REACH)],
                    "ticktext": ["≤ ⅓", "0.6", "1", "1.7", "≥ 3"],
                    "len": 1.0,
                },
            },
            "xaxis": {
                "title": {"text": "σ<sub>w</sub> (weights)"},
                "showgrid": False,
                "range": _span(x, "sigma_w", section),
            },
            "yaxis": {"showgrid": False, "range": _span(y, "sigma_b", section)},
            "annotations": [heading("σ<sub>b</sub> (biases)", y=1.0), *arrow],
        },
    }
    name = section["activation"]
    title = "Phase diagram" + (f" of {name}" if name else "")
    return Plot("phase", title, figure, _reading(section, before, after), height=400, wide=True)


def _heat(section: PhaseSection) -> dict[str, Any]:
    logs = [
        [None if chi is None else round(math.log10(chi), 4) if chi > 0 else -9 for chi in row] for row in section["chi"]
    ]
    return {
        "type": "heatmap",
        "x": section["sigma_w"],
        "y": section["sigma_b"],
        "z": logs,
        "customdata": section["chi"],
        "coloraxis": "coloraxis",
        "zsmooth": "best",
        "hovertemplate": "σ<sub>w</sub> %{x:.3~g}, σ<sub>b</sub> %{y:.3~g}: χ = %{customdata:.3~g}<extra></extra>",
    }


def _point(point: PhasePoint | None) -> tuple[float, float] | None:
    if point is None or point["sigma_w"] is None or point["sigma_b"] is None:
        return None
    return (point["sigma_w"], point["sigma_b"])


def _span(grid: list[float], key: str, section: PhaseSection) -> list[float]:
    """Take the grid's extent, widened where the net itself lies outside.

    Returns:
        The axis range.
    """
    points = [_point(section["before"]), _point(section["after"])]
    own = [point[0 if key == "sigma_w" else 1] for point in points if point is not None]
    low, high = min([*grid, *own]), max([*grid, *own])
    margin = 0.03 * (high - low)
    return [
        low - (margin if own and min(own) <= min(grid) else 0),
        high + (margin if own and max(own) >= max(grid) else 0),
    ]


def _marker(point: tuple[float, float], role: str, symbol: str, name: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [point[0]],
        "y": [point[1]],
        "name": name,
        "cliponaxis": False,
        "marker": {
            "symbol": symbol,
            "size": 13,
            "color": SERIES[role],
            "line": {"color": "#ffffff", "width": 2},
        },
        "hovertemplate": f"{name}: σ<sub>w</sub> %{{x:.4~g}}, σ<sub>b</sub> %{{y:.4~g}}<extra></extra>",
    }


def _arrow(before: tuple[float, float], after: tuple[float, float]) -> dict[str, Any]:
    return {
        "x": after[0],
        "y": after[1],
        "ax": before[0],
        "ay": before[1],
        "xref": "x",
        "yref": "y",
        "axref": "x",
        "ayref": "y",
        "text": "",
        "showarrow": True,
        "arrowhead": 2,
        "arrowwidth": 2,
        "arrowcolor": SERIES["chance"],
        "standoff": 9,
        "startstandoff": 9,
    }


def _reading(section: PhaseSection, before: tuple[float, float] | None, after: tuple[float, float] | None) -> str:
    sentences = []
    if before is not None:
        chi = _nearest(section, before)
        where = "" if chi is None else f", where χ is about {number(chi, 2)}: {_phase_of(chi)}"
        sentences.append(f"The net stands at σ_w = {number(before[0])}, σ_b = {number(before[1])}{where}.")
    if after is not None:
        sentences.append(f"The prescription moves it to σ_w = {number(after[0])}, σ_b = {number(after[1])}.")
    sentences.append(
        "Left of the critical line (blue, ordered) gradients vanish, right of it (orange, chaotic) they explode; "
        "deep nets train on the line."
    )
    return " ".join(sentences)


def _phase_of(chi: float) -> str:
    if abs(math.log(max(chi, 1e-300))) < 0.01:
        return "critical"
    return "ordered, gradients vanish" if chi < 1 else "chaotic, gradients explode"


def _nearest(section: PhaseSection, point: tuple[float, float]) -> float | None:
    """Look up chi at the grid's point nearest to the net.

    Returns:
        chi, or None where the net lies off the grid.
    """
    x, y = section["sigma_w"], section["sigma_b"]
    if not (min(x) <= point[0] <= max(x) and min(y) <= point[1] <= max(y)):
        return None
    column = min(range(len(x)), key=lambda i: abs(x[i] - point[0]))
    row = min(range(len(y)), key=lambda i: abs(y[i] - point[1]))
    return section["chi"][row][column]
