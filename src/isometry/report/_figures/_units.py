"""Dead and saturated units, layer by layer."""

from __future__ import annotations

from isometry.report._content import Content
from isometry.report._figures._plot import Figure, Plot, finite, heading
from isometry.report._figures._signal import by_depth
from isometry.report._theme import SERIES
from isometry.report._wording import count, number, plot_text

__all__ = ["units"]

HOVER = "%{text}<br>layer %{x}: %{y:.1%}<extra>%{fullData.name}</extra>"


def units(content: Content) -> Plot | None:
    """Draw the fractions of dead and of saturated units against depth.

    Returns:
        The plot, or None where neither was measured or there are none.
    """
    section = content["signal"]
    if section is None:
        return None
    layers, depth = by_depth(section)
    names = [plot_text(layer["name"]) for layer in layers]
    shares = {"dead": [layer["dead"] for layer in layers], "saturated": [layer["saturated"] for layer in layers]}
    drawn = {what: values for what, values in shares.items() if finite(values)}
    if not drawn:
        return None
    if all(value == 0 for values in drawn.values() for value in finite(values)):
        return None  # the signal's reading says so; an empty plot says less
    top = max(sum(value or 0.0 for value in pair) for pair in zip(*drawn.values(), strict=True))
    data = [
        {
            "type": "bar",
            "x": depth,
            "y": values,
            "name": what,
            "text": names,
            "textposition": "none",
            "hovertemplate": HOVER,
            "marker": {"color": SERIES[what], "line": {"width": 0}},
        }
        for what, values in drawn.items()
    ]
    figure: Figure = {
        "data": data,
        "layout": {
            "xaxis": {"title": {"text": "depth (layer)"}, "range": [depth[0] - 0.8, depth[-1] + 0.8]},
            "yaxis": {"range": [0, max(0.1, min(1.05, 1.15 * top))], "tickformat": ".0%"},
            "barmode": "stack",
            "bargap": 0.15,
            "annotations": [heading("Share of the layer's units", y=1.0)],
        },
    }
    return Plot("units", "Dead and saturated units", figure, _reading(drawn, [layer["name"] for layer in layers]))


def _reading(drawn: dict[str, list[float | None]], names: list[str]) -> str:
    sentences = []
    for what, values in drawn.items():
        worst, name = max((value, name) for value, name in zip(values, names, strict=True) if value is not None)
        hit = sum(1 for value in finite(values) if value > 0.1)
        if worst == 0:
            sentences.append(f"No unit is {what}.")
        else:
            beyond = f"{count(hit, 'layer')} of {len(finite(values))} exceed" if hit else "no layer exceeds"
            if hit == 1:
                beyond = "one layer exceeds"
            sentences.append(
                f"At most {number(100 * worst, 2)} % of a layer's units are {what} (in {name}); {beyond} 10 %."
            )
    return " ".join(sentences)
