"""Correlation between inputs, by depth."""

from __future__ import annotations

from typing import Any

from isometry.report._content import Content
from isometry.report._figures._plot import Figure, Plot, curve, finite, heading, padded
from isometry.report._figures._signal import HOVER, by_depth, efold
from isometry.report._theme import SERIES
from isometry.report._wording import number, plot_text

__all__ = ["correlation"]


def correlation(content: Content) -> Plot | None:
    """Draw the mean correlation between pairs of inputs against depth, with theory and the reach 6 xi_c.

    Returns:
        The plot, or None where no correlation was measured.
    """
    section = content["signal"]
    if section is None:
        return None
    layers, depth = by_depth(section)
    values = [layer["correlation"] for layer in layers]
    if not finite(values):
        return None
    text: dict[str, Any] = {"text": [plot_text(layer["name"]) for layer in layers], "hovertemplate": HOVER}
    measured = curve(depth, values, "measured", "measured", **text)
    data = [measured | {"mode": "lines+markers", "marker": {"size": 5, "color": SERIES["measured"]}}]
    theory = [layer["correlation_theory"] for layer in layers]
    if finite(theory):
        data.append(curve(depth, theory, "theory", "theory", dash="dash", **text))
    fold = efold("1 − c", section["measured_efold_forward"], section["xi_c"])
    figure: Figure = {
        "data": data,
        "layout": {
            "xaxis": {"title": {"text": "depth (layer)"}, "range": padded(depth[0], depth[-1])},
            "yaxis": {"range": [min(-0.03, *finite(values + theory)) - 0.02, 1.05]},
            "annotations": [heading("Mean correlation c of two inputs" + fold, y=1.0)],
            "margin": {"t": 44},
        },
    }
    xi = section["xi_c"]
    reach = 6 * xi if xi is not None and xi > 0 else None
    if reach is not None and reach < 1.5 * depth[-1]:
        figure["layout"]["shapes"] = [
            {
                "type": "line",
                "x0": reach,
                "x1": reach,
                "yref": "paper",
                "y0": 0,
                "y1": 1,
                "line": {"color": SERIES["limit"], "width": 2, "dash": "dot"},
            }
        ]
        right = reach < 0.6 * depth[-1]
        figure["layout"]["annotations"].append(
            {
                "text": f"reach 6 ξ<sub>c</sub> = {number(reach, 2)}",
                "x": reach,
                "xref": "x",
                "y": 0.06,
                "yref": "paper",
                "xanchor": "left" if right else "right",
                "xshift": 5 if right else -5,
            }
        )
    return Plot("correlation", "Correlation by depth", figure, _reading(finite(values), reach, depth[-1]))


def _reading(values: list[float], reach: float | None, last: int) -> str:
    first, end = values[0], values[-1]
    way = f"goes from {number(first, 2)} in the first layer to {number(end, 2)} in the last"
    if abs(first - end) < 0.03 and max(values) - min(values) < 0.1:
        way = f"stays near {number(first, 2)} from the first layer to the last"
    sentence = f"The correlation of two different inputs {way}."
    if end > 0.98 and first < 0.95:
        sentence += " They have become the same to the network: nothing that follows can tell them apart."
    elif abs(end) < 0.05 < first:
        sentence += " Similar inputs have become unrelated: small changes of the input are blown up."
    if reach is not None:
        side = "beyond" if last > reach else "within"
        sentence += f" The net's {last} layers lie {side} the reach of {number(reach, 2)} layers that theory gives."
    return sentence
