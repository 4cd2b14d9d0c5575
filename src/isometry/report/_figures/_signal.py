"""Signal and gradient by depth, theory drawn over measurement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isometry.report._content import Content, LayerItem, Number, SignalSection
from isometry.report._figures._plot import Figure, Plot, curve, finite, heading, log_axis, padded
from isometry.report._figures._signal_reading import reading
from isometry.report._theme import SERIES
from isometry.report._wording import number, plot_text

__all__ = ["HOVER", "by_depth", "efold", "signal"]

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
    data = _panel(layers, depth, "q", "y") + _panel(layers, depth, "gradient_norm", "y2")
    named: set[str] = set()
    for trace in data:  # one entry in the legend for both panels
        trace["showlegend"] = trace["name"] not in named
        named.add(trace["name"])
    data += _fixed_point(section["q_star"], finite(forward, positive=True), depth)
    squared = efold("g²", section["measured_efold_gradient"], section["xi_grad"])
    figure: Figure = {
        "data": data,
        "layout": {
            "xaxis": {"anchor": "y2", "title": {"text": "depth (layer)"}, "range": padded(depth[0], depth[-1])},
            "yaxis": log_axis(_all(data, "y")) | {"domain": [0.57, 1]},
            "yaxis2": log_axis(_all(data, "y2")) | {"domain": [0, 0.41], "anchor": "x"},
            "annotations": [
                heading("Forward: mean square q" + _absent(forward), y=1.0),
                heading("Backward: gradient norm g" + _absent(backward) + squared, y=0.41),
            ],
            "hovermode": "closest",
        },
    }
    return Plot("signal", "Signal and gradient by depth", figure, reading(section, layers), height=520, wide=True)


def _panel(layers: list[LayerItem], depth: list[int], key: str, axis: str) -> list[dict[str, Any]]:
    """Draw one quantity: a line through the weight layers, marks for normalizations, theory, and what a log axis hides.

    Returns:
        Plotly traces.
    """
    theory = "q_theory" if key == "q" else "gradient_theory"
    rows: list[tuple[int, str, Number, Number, bool]] = [
        (d, plot_text(row["name"]), row[key], row[theory], row["kind"] == "norm")  # type: ignore[literal-required]
        for row, d in zip(layers, depth, strict=True)
    ]
    lined = [row for row in rows if not row[4]] or rows
    size = 5 if len(lined) <= 150 else 3
    marker = {"mode": "lines+markers", "marker": {"size": size, "color": SERIES["measured"]}}
    traces = [_trace([(d, name, _drawable(v)) for d, name, v, _, _ in lined], "measured", "measured", axis) | marker]
    predicted = [(d, name, _drawable(t)) for d, name, _, t, _ in rows if _drawable(t) is not None]
    if predicted:
        traces.append(_trace(predicted, "theory", "theory", axis, dash="dash"))
    behind = [(d, name, v) for d, name, v, _, norm in rows if norm and _drawable(v)]
    if behind and len(lined) < len(rows):
        traces.append(_marks(behind, "after normalization", axis, "diamond-open", "after"))
    floor = min(finite([v for _, _, v, _, _ in rows], positive=True), default=1.0)
    zero = [(d, name, floor) for d, name, v, _, _ in rows if v == 0]
    missing = [(d, name, floor) for d, name, v, _, _ in rows if v is None]
    for label, symbol, hit in (("exactly zero", "triangle-down", zero), ("not finite or not measured", "x", missing)):
        if hit and len(hit) < len(rows):
            trace = _marks(hit, label, axis, symbol, "before")
            traces.append(trace | {"hovertemplate": "%{text}<br>layer %{x}<extra>%{fullData.name}</extra>"})
    return traces


def _absent(values: list[Number]) -> str:
    return "" if finite(values) else ": no finite value"


def _drawable(value: Number) -> Number:
    return value if value is not None and value > 0 else None


def _trace(
    points: Sequence[tuple[int, str, Number]], name: str, role: str, axis: str, dash: str | None = None
) -> dict[str, Any]:
    more: dict[str, Any] = {"yaxis": axis, "legendgroup": name, "hovertemplate": HOVER}
    x, text, y = ([point[i] for point in points] for i in range(3))
    return curve(x, y, name, role, dash=dash, text=text, **more)  # type: ignore[arg-type]


def _marks(points: Sequence[tuple[int, str, Number]], name: str, axis: str, symbol: str, role: str) -> dict[str, Any]:
    marker = {"symbol": symbol, "size": 9, "color": SERIES[role]}
    return _trace(points, name, role, axis) | {"mode": "markers", "marker": marker}


def _fixed_point(q_star: Number, measured: list[float], depth: list[int]) -> list[dict[str, Any]]:
    """Draw q*, unless it lies so far below the signal that it would flatten the plot.

    Returns:
        One plotly trace, or none.
    """
    if not q_star or not measured or q_star < 1e-3 * min(measured):
        return []
    line = {"width": 1, "color": SERIES["chance"], "dash": "dot"}
    trace = curve([depth[0], depth[-1]], [q_star] * 2, "q* (fixed point)", "chance", line=line)
    return [trace | {"hovertemplate": "q* = %{y:.4~g}<extra></extra>"}]


def _all(data: list[dict[str, Any]], axis: str) -> list[float | None]:
    return [y for trace in data if trace.get("yaxis", "y") == axis for y in trace["y"]]


def efold(of: str, measured: Number, theory: Number) -> str:
    """Write an e-fold depth for a panel's heading: short, since a phone shows about 45 letters.

    Returns:
        Text that follows the heading on a line of its own, or nothing.
    """
    if measured is None and theory is None:
        return ""
    expected = "" if theory is None else f"theory {number(abs(theory))}"
    if measured is None:
        return f"<br>e-fold depth of {of}: {expected}"
    return f"<br>e-fold depth of {of}: {number(abs(measured))}" + (f" ({expected})" if expected else "")
