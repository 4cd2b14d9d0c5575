"""Colours and plot templates: the one place that decides how a report looks.

The series' colours are a colour-blind-safe set (after Okabe and Ito) that keeps a
contrast of at least 3 to 1 on the light and on the dark page, so a figure needs no second version: only the template
(text, grid, background) changes with the theme.
"""

from __future__ import annotations

from typing import Any

__all__ = ["DARK", "FONT", "LIGHT", "SERIES", "stylesheet_variables", "template"]

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

# What a colour means is the same in every figure. No two lines differ by colour alone: dashes and symbols differ, too.
SERIES = {
    "measured": "#2f7fd6",  # blue
    "theory": "#d95f02",  # vermilion, dashed
    "before": "#cc4125",  # red, dashed or a cross
    "after": "#129e77",  # bluish green
    "limit": "#9a6b00",  # ochre: bounds, reach
    "critical": "#8a5cc9",  # violet: the critical line, on the map's blue and orange
    "chance": "#7d8590",  # grey: guessing, fixed points
    "saturated": "#2f7fd6",
    "dead": "#d95f02",
}

LIGHT = {
    "page": "#f6f7f9",
    "card": "#ffffff",
    "sunken": "#f0f2f5",
    "line": "#dde1e6",
    "text": "#171b21",
    "muted": "#535c68",
    "link": "#1759ab",
    "error": "#b3261e",
    "error-soft": "#fdeceb",
    "warning": "#8a5200",
    "warning-soft": "#fff3dd",
    "info": "#1759ab",
    "info-soft": "#e8f1fc",
    "healthy": "#0b6b4f",
    "healthy-soft": "#e3f5ee",
    "grid": "#e4e7eb",
    "axis": "#9aa3ad",
    "chi-low": "#3d7cc9",
    "chi-mid": "#f4f5f7",
    "chi-high": "#dd6a3c",
}

DARK = {
    "page": "#0f1216",
    "card": "#171b21",
    "sunken": "#1f252d",
    "line": "#2d343e",
    "text": "#e8ebef",
    "muted": "#a4adb8",
    "link": "#80b4f5",
    "error": "#ff8a80",
    "error-soft": "#351a1b",
    "warning": "#f2b84b",
    "warning-soft": "#33270f",
    "info": "#80b4f5",
    "info-soft": "#15263c",
    "healthy": "#58cfa5",
    "healthy-soft": "#102c24",
    "grid": "#2a313a",
    "axis": "#626c78",
    "chi-low": "#3f7fcc",
    "chi-mid": "#20262e",
    "chi-high": "#d9683b",
}


def stylesheet_variables() -> str:
    """Give both palettes as CSS variables: dark where the system or the reader's toggle says so.

    Returns:
        CSS rules.
    """
    light, dark = _declarations(LIGHT), _declarations(DARK)
    series = "".join(f"--series-{name}:{colour};" for name, colour in SERIES.items())
    return (
        f":root{{color-scheme:light;--font:{FONT};{series}{light}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{"
        f":root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}\n"
        f"@media screen{{:root[data-theme=dark]{{color-scheme:dark;{dark}}}}}\n"
    )


def _declarations(palette: dict[str, str]) -> str:
    return "".join(f"--{name}:{colour};" for name, colour in palette.items())


def template(palette: dict[str, str]) -> dict[str, Any]:
    """Make the plotly template of a palette.

    Args:
        palette: ``LIGHT`` or ``DARK``.

    Returns:
        A plotly template as a plain dictionary.
    """
    axis = {
        "gridcolor": palette["grid"],
        "linecolor": palette["axis"],
        "tickcolor": palette["axis"],
        "showline": True,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "automargin": True,
        "exponentformat": "power",
        "title": {"standoff": 6},
    }
    return {
        "layout": {
            "font": {"family": FONT, "size": 12, "color": palette["text"]},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": list(SERIES.values()),
            "xaxis": axis,
            "yaxis": axis,
            "margin": {"l": 48, "r": 14, "t": 28, "b": 70},
            "hoverlabel": {
                "bgcolor": palette["card"],
                "bordercolor": palette["axis"],
                "font": {"family": FONT, "size": 12, "color": palette["text"]},
                "align": "left",
            },
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "xref": "container",
                "y": 0,
                "yanchor": "bottom",
                "yref": "container",
                "font": {"size": 12},
                "bgcolor": "rgba(0,0,0,0)",
            },
            "annotationdefaults": {"font": {"size": 12, "color": palette["muted"]}, "showarrow": False},
            "coloraxis": {
                "colorscale": [[0, palette["chi-low"]], [0.5, palette["chi-mid"]], [1, palette["chi-high"]]],
                "colorbar": {"outlinewidth": 0, "thickness": 12, "ticks": "outside", "ticklen": 3},
            },
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": palette["axis"], "activecolor": palette["text"]},
        }
    }
