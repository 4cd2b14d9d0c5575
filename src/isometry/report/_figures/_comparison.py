"""Figures of a comparison: curves with bands over the seeds, learning-rate sensitivity, the probe's quantities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isometry.report._figures._plot import Figure, Plot, curve, finite, heading, log_axis, padded
from isometry.report._theme import SERIES
from isometry.report._wording import count, number, plot_text

__all__ = ["comparison_plots", "short_names"]

PANEL, FRAME, GAP = 190, 122, 52  # CSS pixels: a panel, what is above and below all, between two
AT_MOST = 7  # lines of one figure; as many styles there are
PANELS = 6  # of one measure

# Role of the colour, dash, symbol: no two lines differ by colour alone.
_STYLES: tuple[tuple[str, str | None, str], ...] = (
    ("measured", None, "circle"),
    ("theory", "dash", "square"),
    ("after", "dot", "diamond"),
    ("critical", "dashdot", "triangle-up"),
    ("limit", "longdash", "triangle-down"),
    ("before", "longdashdot", "cross"),
    ("chance", "5px,2px", "star"),
)
_CURVES = (
    ("train/loss", "Training loss"),
    ("validation/loss", "Validation loss"),
    ("train/accuracy", "Training accuracy"),
    ("validation/accuracy", "Validation accuracy"),
)
_MEASURES = {
    "signal": "Signal and gradient",
    "fisher": "Fisher information",
    "jacobian": "Jacobian",
    "ntk": "Tangent kernel",
    "confusion": "Gradient confusion",
    "curvature": "Curvature of the loss",
}
_QUANTITIES = {
    "fisher/lambda_max": "Largest eigenvalue λ of the Fisher matrix",
    "fisher/trace": "Trace of the Fisher matrix",
    "fisher/effective_rank": "Effective rank of the Fisher matrix",
    "jacobian/s_max": "Largest singular value of the Jacobian, mean over inputs",
    "jacobian/s_max_highest": "Largest singular value of the Jacobian, highest",
    "signal/q_min": "Mean square q of the layer with the lowest",
    "signal/q_max": "Mean square q of the layer with the highest",
    "signal/correlation": "Correlation of two inputs in the last layer",
    "signal/gradient_ratio": "Gradient norm, first layer over last",
    "signal/dead": "Share of dead units (worst layer)",
    "signal/saturated": "Share of saturated units (worst layer)",
    "signal/nonfinite": "Numbers that are not finite",
    "ntk/lambda_max": "Largest eigenvalue of the tangent kernel",
    "ntk/effective_rank": "Effective rank of the tangent kernel",
    "ntk/alignment": "Alignment of the tangent kernel with the targets",
    "curvature/lambda_max": "Largest eigenvalue of the Hessian",
    "curvature/trace": "Trace of the Hessian",
}


@dataclass(frozen=True)
class _Line:
    """What one figure shows of one combination."""

    name: str
    entry: Mapping[str, Any]
    style: tuple[str, str | None, str]


def comparison_plots(entries: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """Draw all figures of a comparison, model by model.

    Args:
        entries: Of ``Comparison.to_dict()``.

    Returns:
        The plots.
    """
    plots: list[Plot] = []
    for title, lines in _figures(entries):
        key = f"compare-{len(plots)}"
        learning = [(head, _band_series(lines, "curves", name)) for name, head in _CURVES]
        plots += _panels(f"{key}-curves", f"Training{title}", "epoch", [p for p in learning if p[1]])
        sensitivity = _sensitivity(lines)
        if sensitivity:
            plots.append(_sensitivity_plot(f"{key}-lr", f"Learning rates{title}", sensitivity))
        for measure in dict.fromkeys(b["name"].partition("/")[0] for line in lines for b in line.entry["probe"]):
            names = dict.fromkeys(
                b["name"] for line in lines for b in line.entry["probe"] if b["name"].startswith(f"{measure}/")
            )
            found = [(_QUANTITIES.get(n, n.partition("/")[2]), _band_series(lines, "probe", n)) for n in names]
            heads = f"{_MEASURES.get(measure, measure)}{title}"
            plots += _panels(f"{key}-{len(plots)}", heads, "epoch", [p for p in found if p[1]][:PANELS])
    return plots


def short_names(combinations: Sequence[Sequence[str]]) -> list[str]:
    """Name combinations by what differs among them.

    Args:
        combinations: Labels, as many in each.

    Returns:
        Names; where there is one combination only, its first label.
    """
    varying = [i for i, column in enumerate(zip(*combinations, strict=True)) if len(set(column)) > 1]
    return [", ".join(labels[i] for i in varying) or labels[0] for labels in combinations]


def _figures(entries: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[_Line]]]:
    """Sort combinations into figures: one a model, or several where a model has many.

    Yields:
        What to add to a figure's title, and its lines.
    """
    models = list(dict.fromkeys(entry["combination"][0] for entry in entries))
    for model in models:
        own = [entry for entry in entries if entry["combination"][0] == model]
        names = short_names([entry["combination"][1:] for entry in own])
        for start in range(0, len(own), AT_MOST):
            part = list(zip(names, own, strict=True))[start : start + AT_MOST]
            lines = [_Line(name, entry, style) for (name, entry), style in zip(part, _STYLES, strict=False)]
            more = f" ({start // AT_MOST + 1})" if len(own) > AT_MOST else ""
            yield (f": {model}" if len(models) > 1 else "") + more, lines


_Series = list[tuple[_Line, Mapping[str, Any]]]


def _band_series(lines: Sequence[_Line], where: str, name: str) -> _Series:
    found = [(line, band) for line in lines for band in line.entry[where] if band["name"] == name]
    found = [(line, band) for line, band in found if finite(band["mean"])]
    told = where == "curves" or any(v for _, band in found for v in finite(band["high"] + band["low"]))
    return found if told else []  # a count that is zero everywhere says nothing


def _panels(key: str, title: str, x_title: str, panels: list[tuple[str, _Series]]) -> list[Plot]:
    if not panels:
        return []
    height = FRAME + PANEL * len(panels) + GAP * (len(panels) - 1)
    inner = height - FRAME
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"annotations": [], "hovermode": "closest"}
    named: set[str] = set()
    for index, (head, series) in enumerate(panels):
        top, name = 1 - index * (PANEL + GAP) / inner, "" if index == 0 else str(index + 1)
        values = finite([v for _, band in series for key in ("low", "high") for v in band[key]])
        wide = min(values) > 0 and max(values) > 8 * min(values) and "ccuracy" not in head
        axis = log_axis(values) if wide else {"range": padded(min(values), max(values), by=0.06)}
        layout[f"yaxis{name}"] = axis | {"domain": [round(max(0.0, top - PANEL / inner), 4), round(top, 4)]}
        layout["annotations"].append(heading(plot_text(head), y=top))
        for line, band in series:
            shown = line.name not in named
            named.add(line.name)
            data += [trace | {"yaxis": f"y{name}"} for trace in _band(line, band, legend=shown)]
    last = "" if len(panels) == 1 else str(len(panels))
    layout["xaxis"] = {"title": {"text": x_title}, "anchor": f"y{last}"}
    figure: Figure = {"data": data, "layout": layout}
    return [Plot(key, title, figure, _reading(panels), height=height, wide=True)]


def _band(line: _Line, band: Mapping[str, Any], *, legend: bool) -> list[dict[str, Any]]:
    """Draw the mean over the seeds, over an area from the lowest to the highest.

    Returns:
        Traces.
    """
    role, dash, symbol = line.style
    x, name = list(band["epochs"]), plot_text(line.name)
    area = {
        "type": "scatter",
        "mode": "lines",
        "x": [*x, *reversed(x)],
        "y": [*band["high"], *reversed(band["low"])],
        "fill": "toself",
        "fillcolor": _faint(SERIES[role]),
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": name,
    }
    marker = {"symbol": symbol, "size": 6 if len(x) <= 40 else 1}
    hover = "epoch %{x}<br>%{fullData.name}: %{y:.4~g}<extra></extra>"
    mean = curve(x, band["mean"], name, role, dash=dash, legendgroup=name, showlegend=legend, hovertemplate=hover)
    return [area, mean | {"mode": "lines+markers", "marker": marker}]


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.16)"


def _sensitivity(lines: Sequence[_Line]) -> list[tuple[_Line, list[tuple[float, float | None]]]]:
    """Collect the validation loss by learning rate of what tried several.

    Returns:
        For each line its points.
    """
    found = []
    for line in lines:
        points = [(float(lr), of["mean"] if of["n"] else None) for lr, of in line.entry["sensitivity"].items()]
        if len(points) > 1 and finite([y for _, y in points]):
            found.append((line, sorted(points, key=lambda p: p[0])))
    return found


def _sensitivity_plot(key: str, title: str, found: list[tuple[_Line, list[tuple[float, float | None]]]]) -> Plot:
    data: list[dict[str, Any]] = []
    for line, points in found:
        role, dash, symbol = line.style
        hover = "lr %{x:.3~g}<br>%{fullData.name}: %{y:.4~g}<extra></extra>"
        name = plot_text(line.name)
        trace = curve([x for x, _ in points], [y for _, y in points], name, role, dash=dash, hovertemplate=hover)
        data.append(trace | {"mode": "lines+markers", "marker": {"symbol": symbol, "size": 7}, "legendgroup": name})
        choice = line.entry["choice"]
        at = None if choice is None else next((y for x, y in points if x == choice["lr"]), None)
        if at is not None:
            ring = {"symbol": "circle-open", "size": 15, "line": {"width": 2}, "color": SERIES[role]}
            chosen = {"type": "scatter", "mode": "markers", "x": [choice["lr"]], "y": [at], "marker": ring}
            data.append(chosen | {"name": name, "legendgroup": name, "showlegend": False, "hoverinfo": "skip"})
    values = finite([y for _, points in found for _, y in points])
    layout = {
        "xaxis": log_axis([x for _, points in found for x, _ in points]) | {"title": {"text": "learning rate"}},
        "yaxis": log_axis(values) if min(values) > 0 else {"range": padded(min(values), max(values), by=0.06)},
        "annotations": [heading("Validation loss", y=1.0)],
    }
    reading = " ".join(_sensitivity_reading(line) for line, _ in found)
    reading = f"Mean over the seeds that did not diverge; the ring is the learning rate that was chosen. {reading}"
    return Plot(key, title, {"data": data, "layout": layout}, reading, height=360, wide=True)


def _sensitivity_reading(line: _Line) -> str:
    choice = line.entry["choice"]
    lost = [f"{n} at {number(float(lr))}" for lr, n in line.entry["diverged_by_lr"].items() if n]
    text = f"`{line.name}`: " + ("no choice" if choice is None else f"chosen {number(choice['lr'])}")
    if choice is not None and choice["edge"]:
        text += f", the {choice['edge']} that was tried, so a better one may lie beyond"
    return text + (f"; diverged: {', '.join(lost)}." if lost else ".")


def _reading(panels: list[tuple[str, _Series]]) -> str:
    sentences = ["Lines are means over the seeds, areas reach from the lowest seed to the highest."]
    head, series = panels[0]
    for line, band in series:
        ends = finite(band["mean"])
        sentences.append(
            f"{head}, `{line.name}`: {number(ends[0])} to {number(ends[-1])} in {count(band['epochs'][-1], 'epoch')}."
        )
    return " ".join(sentences)
