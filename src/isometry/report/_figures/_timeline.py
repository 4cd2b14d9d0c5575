"""Measurements over the time of a training: one plot for each measure, its quantities in panels above each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from isometry.report._figures._plot import Figure, Plot, curve, finite, heading, log_axis, padded
from isometry.report._wording import count, number, plot_text

__all__ = ["Point", "Series", "gather", "timelines"]

MOST = 1500  # points drawn of one quantity
PANEL, FRAME, GAP = 150, 116, 52  # CSS pixels: a panel, what is above and below all, between two
OTHERS = 6  # panels of a measure that this file does not know

_TITLES = {
    "signal": "Signal and gradient",
    "fisher": "Fisher information",
    "jacobian": "Jacobian",
    "ntk": "Tangent kernel",
    "confusion": "Gradient confusion",
    "curvature": "Curvature of the loss",
    "training": "Training",
}
_PANELS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "signal": (
        ("Mean square q: lowest and highest layer", ("q_min", "q_max")),
        ("Correlation of two inputs in the last layer", ("correlation",)),
        ("Gradient norm, first layer over last", ("gradient_ratio",)),
        ("Share of units dead, saturated (worst layer)", ("dead", "saturated")),
    ),
    "fisher": (
        ("Largest eigenvalue, trace", ("lambda_max", "trace")),
        ("Effective rank: trace over the largest", ("effective_rank",)),
    ),
    "jacobian": (("Largest singular value: mean, highest", ("s_max", "s_max_highest")),),
    "ntk": (
        ("Largest eigenvalue", ("lambda_max",)),
        ("Effective rank", ("effective_rank",)),
        ("Alignment with the targets", ("alignment",)),
    ),
    "confusion": (
        ("Cosine of gradients: smallest, mean", ("min_cosine", "mean_cosine")),
        ("Confusion bound η", ("eta",)),
    ),
    "curvature": (("Hessian: largest eigenvalue", ("lambda_max",)), ("Hessian: trace", ("trace",))),
    "training": (("Loss", ("loss",)), ("Seconds of the probe over the training's", ("overhead",))),
}
_ROLES = (("measured", None), ("theory", "dash"), ("after", "dot"))


class Point(NamedTuple):
    """One value."""

    step: int
    seconds: float
    value: float | None


Series = dict[str, dict[str, list[Point]]]  # by measure and quantity


def gather(records: Sequence[Mapping[str, Any]]) -> Series:
    """Sort the records of a probe into series.

    Returns:
        Points by measure and quantity; without what is no measurement.
    """
    series: Series = {}
    for record in records:
        if record["measure"] in {"skipped", "nonfinite"}:
            continue
        for quantity, value in record["values"].items():
            points = series.setdefault(record["measure"], {}).setdefault(quantity, [])
            points.append(Point(int(record["step"]), float(record["seconds"] or 0.0), value))
    return series


def timelines(series: Series, broken: Sequence[Point]) -> list[Plot]:
    """Draw every measure against the step, log or linear, and against the seconds of training.

    Args:
        series: From ``gather``.
        broken: Where the training stopped being finite.

    Returns:
        The plots, in the order of the measures.
    """
    plots = []
    for index, (measure, quantities) in enumerate(series.items()):
        panels = _panels(measure, quantities)
        if panels:
            title = _TITLES.get(measure, measure)
            height = FRAME + PANEL * len(panels) + GAP * (len(panels) - 1)
            figure = _figure(panels, broken, height)
            plots.append(Plot(f"time-{index}", title, figure, _reading(panels), height=height, wide=True))
    return plots


@dataclass(frozen=True)
class _Panel:
    """Some quantities under one heading."""

    title: str
    lines: dict[str, list[Point]]

    @property
    def values(self) -> list[float]:
        return finite([point.value for line in self.lines.values() for point in line])


def _panels(measure: str, quantities: dict[str, list[Point]]) -> list[_Panel]:
    known = _PANELS.get(measure, ())
    named = {name for _, names in known for name in names}
    panels = [_Panel(title, {n: quantities[n] for n in names if n in quantities}) for title, names in known]
    if not known:
        panels = [_Panel(name, {name: points}) for name, points in quantities.items() if name not in named][:OTHERS]
    return [panel for panel in panels if panel.values]


def _figure(panels: list[_Panel], broken: Sequence[Point], height: int) -> Figure:
    inner = height - FRAME
    data: list[dict[str, Any]] = []
    axes: list[list[Point]] = []  # the points of each trace, for its three kinds of x
    layout: dict[str, Any] = {"annotations": [], "hovermode": "closest", "margin": {"t": 46}}
    for index, panel in enumerate(panels):
        top = 1 - index * (PANEL + GAP) / inner
        name = "" if index == 0 else str(index + 1)
        wide = bool(panel.values) and min(panel.values) > 0 and max(panel.values) > 8 * min(panel.values)
        axis = log_axis(panel.values) if wide else {"range": padded(min(panel.values), max(panel.values), by=0.06)}
        bottom = max(0.0, top - PANEL / inner)
        layout[f"yaxis{name}"] = axis | {"domain": [round(bottom, 4), round(top, 4)]}
        layout["annotations"].append(heading(plot_text(panel.title), y=top))
        for (quantity, points), (role, dash) in zip(panel.lines.items(), _cycle(len(panel.lines)), strict=True):
            drawn = _thinned(points)
            text = [f"step {p.step:,}, {number(p.seconds)} s" for p in drawn]
            hover = "%{text}<br>%{fullData.name} %{y:.4~g}<extra></extra>"
            trace = curve([], [p.value for p in drawn], plot_text(quantity), role, dash=dash, text=text)
            marker = {"mode": "lines+markers", "marker": {"size": 5 if len(drawn) <= 150 else 3}}
            named = {"showlegend": len(panel.lines) > 1}  # alone in its panel, the heading names it
            data.append(trace | marker | named | {"yaxis": f"y{name}", "hovertemplate": hover})
            axes.append(drawn)
        for event in broken:
            ends = [10**v for v in axis["range"]] if wide else axis["range"]
            line = curve([], ends, "not finite from here", "before", dash="dot", hoverinfo="name")
            data.append(line | {"yaxis": f"y{name}", "showlegend": index == 0})
            axes.append([event, event])
    layout["xaxis"] = {"anchor": f"y{'' if len(panels) == 1 else len(panels)}"}
    _add_time_axes(data, axes, layout)
    return {"data": data, "layout": layout}


def _add_time_axes(data: list[dict[str, Any]], axes: list[list[Point]], layout: dict[str, Any]) -> None:
    """Give every trace its x, and the reader the choice of three: step on a log or a linear axis, seconds."""
    kinds: tuple[tuple[str, str, str, list[list[float]]], ...] = (
        ("step, log", "step + 1", "log", [[p.step + 1 for p in points] for points in axes]),
        ("step", "step", "linear", [[p.step for p in points] for points in axes]),
        ("seconds", "seconds of training", "linear", [[p.seconds for p in points] for points in axes]),
    )
    last = max(p.step for points in axes for p in points)
    first_kind = 0 if last >= 50 else 1  # a schedule that thins out with the steps is read on a log axis
    for trace, x in zip(data, kinds[first_kind][3], strict=True):
        trace["x"] = x
    _, title, scale, _ = kinds[first_kind]
    layout["xaxis"] |= {"title": {"text": title}, "type": scale, "autorange": True}
    buttons = [
        {
            "label": label,
            "method": "update",
            "args": [{"x": x}, {"xaxis.title.text": title, "xaxis.type": scale, "xaxis.autorange": True}],
        }
        for label, title, scale, x in kinds
    ]
    place = {"x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 18, "t": 0, "l": 0, "r": 0}}
    look = {
        "showactive": False,
        "bgcolor": "rgba(128,128,128,0.12)",
        "bordercolor": "rgba(128,128,128,0.45)",
        "font": {"size": 11},
    }
    layout["updatemenus"] = [{"type": "buttons", "direction": "right", "buttons": buttons} | place | look]


def _cycle(length: int) -> list[tuple[str, str | None]]:
    return [_ROLES[i % len(_ROLES)] for i in range(length)]


def _thinned(points: list[Point]) -> list[Point]:
    """Keep every n-th point of a long series, and its last one.

    Returns:
        At most about ``MOST`` points.
    """
    stride = math.ceil(len(points) / MOST)
    return points if stride == 1 else [*points[:-1:stride], points[-1]]


def _reading(panels: list[_Panel]) -> str:
    most = max(len(line) for panel in panels for line in panel.lines.values())
    sentences = [f"{count(most, 'measurement')}."]
    for panel in panels:
        for name, line in panel.lines.items():
            measured = [p for p in line if p.value is not None]
            if len(measured) > 1:
                sentences.append(
                    f"`{name}` went from {number(measured[0].value)} at step {measured[0].step:,} to "
                    f"{number(measured[-1].value)} at step {measured[-1].step:,}."
                )
            elif measured:
                sentences.append(f"`{name}` was {number(measured[0].value)} at step {measured[0].step:,}.")
            lost = len(line) - len(measured)
            if lost:
                sentences.append(f"`{name}` had no finite value {'once' if lost == 1 else f'{lost} times'}.")
    return " ".join(sentences)
