"""What a figure file returns, and the few pieces that the figures share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from isometry.report._theme import SERIES
from isometry.report._wording import number

__all__ = ["Figure", "Plot", "curve", "finite", "heading", "level", "log_axis", "padded"]

Figure = dict[str, Any]  # plotly's: {"data": [...], "layout": {...}}


@dataclass(frozen=True)
class Plot:
    """One plot of the page.

    Attributes:
        key: A short name, the element's id.
        title: The heading above it.
        figure: A plotly figure as plain data, without template.
        reading: Sentences in plain text that say what to see; they stand under the plot and serve screen readers.
        height: In CSS pixels.
        wide: Whether it takes the whole width of the page.
    """

    key: str
    title: str
    figure: Figure
    reading: str
    height: int = 320
    wide: bool = False


def finite(values: Sequence[float | None], *, positive: bool = False) -> list[float]:
    """Leave out what was not measured and, for a log axis, what is not positive.

    Returns:
        The numbers that can be drawn.
    """
    return [v for v in values if v is not None and (v > 0 or not positive)]


def padded(low: float, high: float, *, by: float = 0.02) -> list[float]:
    """Widen a linear axis a little, so that marks at its ends stay whole.

    Returns:
        The axis range.
    """
    margin = by * (high - low) or 0.5
    return [low - margin, high + margin]


def log_axis(values: Sequence[float | None]) -> dict[str, Any]:
    """Lay a log axis around values: at least a decade, so that noise around a flat line looks flat.

    Few decades are labelled 1, 2, 5 in plain numbers, which plotly would abbreviate to digits.

    Returns:
        The settings of a plotly axis.
    """
    drawn = finite(values, positive=True) or [1.0]
    low, high = math.log10(min(drawn)), math.log10(max(drawn))
    missing = max(0.0, 1.0 - (high - low)) / 2
    low, high = low - missing, high + missing
    margin = 0.05 * (high - low)
    axis: dict[str, Any] = {"type": "log", "range": [round(low - margin, 3), round(high + margin, 3)]}
    if high - low > 3:
        return axis | {"dtick": max(1, math.ceil((high - low) / 6)), "tickfont": {"size": 10}}
    steps = (1, 2, 5) if high - low < 1.6 else (1, 3)
    ticks = [step * 10.0**power for power in range(math.floor(low) - 1, math.ceil(high) + 2) for step in steps]
    ticks = [float(f"{tick:.1g}") for tick in ticks]
    return axis | {"tickmode": "array", "tickvals": ticks, "ticktext": [number(tick) for tick in ticks]}


def curve(
    x: Sequence[Any], y: Sequence[float | None], name: str, role: str, *, dash: str | None = None, **more: Any
) -> dict[str, Any]:
    """Make a line in the colour of its role.

    Returns:
        A plotly trace.
    """
    line = {"color": SERIES[role], "width": 2} | ({"dash": dash} if dash else {})
    return {"type": "scatter", "mode": "lines", "x": list(x), "y": list(y), "name": name, "line": line} | more


def heading(text: str, *, y: float, x: float = 0.0) -> dict[str, Any]:
    """Name a panel above its top left corner: an upright axis title takes too much of a phone's width.

    Args:
        text: The name, in plotly's markup; a user's string must have gone through ``plot_text``.
        y: The panel's upper edge, in shares of the plot.
        x: Its left edge.

    Returns:
        A plotly annotation.
    """
    return {
        "text": text,
        "xref": "paper",
        "yref": "paper",
        "x": x,
        "y": y,
        "xanchor": "left",
        "yanchor": "bottom",
        "align": "left",
        "font": {"size": 12},
    }


def level(x0: float, x1: float, y: float, name: str, role: str, **more: Any) -> dict[str, Any]:
    """Make a dashed horizontal line that the legend names.

    Returns:
        A plotly trace.
    """
    return curve([x0, x1], [y, y], name, role, dash="dash", **more)
