"""Signal and gradient by depth, theory drawn over measurement."""

from __future__ import annotations

import math
from typing import Any

from isometry.report._content import Content, LayerItem, SignalSection
from isometry.report._figures._plot import Figure, Plot, curve, finite, heading, log_axis, padded
from isometry.report._theme import SERIES
from isometry.report._wording import count, joined, number, plot_text

__all__ = ["by_depth", "signal"]

HOVER = "%{text}<br>layer %{x}: %{y:.4~g}<extra>%{fullData.name}</extra>"


def by_depth(section: SignalSection) -> tuple[list[LayerItem], list[int]]:
    """Order the layers by depth; a layer without one stands where it was listed.

    Returns:
        The layers and their depths.
    """
    depths = [layer["depth"] if layer["depth"] is not None else i + 1 for i, layer in enumerate(section["layers"])]
    order = sorted(range(len(depths)), key=lambda i: depths[i])
    return [section["layers"][i] for i in order], [depths[i] for i in order]


def signal(content: Content) -> Plot | None:
    """Draw q and the gradient norm against depth, both on log axes.

    Returns:
        The plot, or None where no signal was measured.
    """
    section = content["signal"]
    if section is None or not section["layers"]:
        return None
    layers, depth = by_depth(section)
    forward = [layer["q"] for layer in layers]
    backward = [layer["gradient_norm"] for layer in layers]
    if not finite(forward) and not finite(backward):
        return None
    names = [plot_text(layer["name"]) for layer in layers]
    data = _panel(depth, forward, [layer["q_theory"] for layer in layers], names, "y", legend=True)
    data += _panel(depth, backward, [layer["gradient_theory"] for layer in layers], names, "y2", legend=False)
    if section["q_star"]:
        star = {"width": 1, "color": SERIES["chance"], "dash": "dot"}
        data.append(
            curve([depth[0], depth[-1]], [section["q_star"]] * 2, "q* (fixed point)", "chance", line=star)
            | {"hovertemplate": "q* = %{y:.4~g}<extra></extra>"}
        )
    figure: Figure = {
        "data": data,
        "layout": {
            "xaxis": {"anchor": "y2", "title": {"text": "depth (layer)"}, "range": padded(depth[0], depth[-1])},
            "yaxis": log_axis(_all(data, "y")) | {"domain": [0.57, 1]},
            "yaxis2": log_axis(_all(data, "y2")) | {"domain": [0, 0.41], "anchor": "x"},
            "annotations": [
                heading("Forward: mean square q" + _efold(section, "forward"), y=1.0),
                heading("Backward: gradient norm" + _efold(section, "gradient"), y=0.41),
            ],
            "hovermode": "closest",
            "margin": {"t": 44},
        },
    }
    return Plot("signal", "Signal and gradient by depth", figure, _reading(section, layers), height=520, wide=True)


def _panel(
    depth: list[int],
    values: list[float | None],
    theory: list[float | None],
    names: list[str],
    axis: str,
    *,
    legend: bool,
) -> list[dict[str, Any]]:
    common: dict[str, Any] = {"yaxis": axis, "text": names, "hovertemplate": HOVER}
    shown = [v if v is not None and v > 0 else None for v in values]
    measured = curve(depth, shown, "measured", "measured", legendgroup="measured", showlegend=legend, **common)
    measured |= {"mode": "lines+markers", "marker": {"size": 5, "color": SERIES["measured"]}}
    traces = [measured]
    if finite(theory, positive=True):
        predicted = [v if v is not None and v > 0 else None for v in theory]
        traces.append(
            curve(depth, predicted, "theory", "theory", dash="dash", legendgroup="theory", showlegend=legend, **common)
        )
    floor = min(finite(values, positive=True), default=1.0)
    for label, symbol, hit in (
        ("exactly zero", "triangle-down", [v == 0 for v in values]),
        ("not finite or not measured", "x", [v is None for v in values]),
    ):
        marked = [i for i, is_hit in enumerate(hit) if is_hit]
        if marked and len(marked) < len(values):
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": [depth[i] for i in marked],
                    "y": [floor] * len(marked),
                    "text": [names[i] for i in marked],
                    "name": label,
                    "yaxis": axis,
                    "showlegend": legend,
                    "marker": {"symbol": symbol, "size": 9, "color": SERIES["before"]},
                    "hovertemplate": "%{text}<br>layer %{x}<extra>%{fullData.name}</extra>",
                }
            )
    return traces


def _all(data: list[dict[str, Any]], axis: str) -> list[float | None]:
    return [y for trace in data if trace.get("yaxis", "y") == axis for y in trace["y"]]


def _efold(section: SignalSection, which: str) -> str:
    """Write the e-fold depth for a panel's heading.

    Returns:
        Text that follows the heading, or nothing.
    """
    measured = section["measured_efold_forward" if which == "forward" else "measured_efold_gradient"]
    predicted = section["xi_grad"] if which == "gradient" else None
    parts = [] if measured is None else [f"{number(abs(measured), 2)} measured"]
    parts += [] if predicted is None else [f"{number(abs(predicted), 2)} theory"]
    return f"<br>e-fold depth: {', '.join(parts)}" if parts else ""


def _reading(section: SignalSection, layers: list[LayerItem]) -> str:
    sentences = [
        _travel("The signal's second moment", [layer["q"] for layer in layers], "from the first layer to the last"),
        _travel(
            "The gradient's norm",
            [layer["gradient_norm"] for layer in layers][::-1],
            "from the last layer to the first",
        ),
    ]
    zero = sum(1 for layer in layers if layer["q"] == 0)
    broken = sum(1 for layer in layers if layer["nonfinite"])
    notes = [
        f"{count(n, 'layer')} with {what}" for n, what in ((zero, "no signal at all"), (broken, "NaN or infinity")) if n
    ]
    if notes:
        sentences.append(f"There {'is' if zero + broken == 1 else 'are'} {joined(notes)}.")
    if section["xi_c"] is not None and section["xi_c"] > 0:
        reach = number(6 * section["xi_c"], 2)
        sentences.append(f"In theory the signal's geometry survives a depth of about 6 ξ_c = {reach} layers.")
    sentences.append("Healthy is a flat line; a straight slope is exponential decay or growth.")
    return " ".join(sentence for sentence in sentences if sentence)


def _travel(what: str, values: list[float | None], way: str) -> str:
    drawn = finite(values, positive=True)
    if len(drawn) < 2:
        return ""
    first, last = drawn[0], drawn[-1]
    decades = math.log10(last / first)
    if abs(decades) < 0.5:
        return f"{what} stays near {number(first, 2)} {way}."
    verb = "falls" if decades < 0 else "grows"
    return (
        f"{what} {verb} from {number(first, 2)} to {number(last, 2)} {way}, by {number(abs(decades), 2)} powers of ten."
    )
