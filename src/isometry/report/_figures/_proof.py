"""Training curves of the proof: the same training before and after the prescription."""

from __future__ import annotations

import math

from isometry.report._content import Content, ProofSection, TrainingRun
from isometry.report._figures._plot import Figure, Plot, curve, finite, heading, level, log_axis, padded
from isometry.report._theme import SERIES
from isometry.report._wording import number

__all__ = ["proof"]

MOST = 600  # points drawn for one curve


def proof(content: Content) -> Plot | None:
    """Draw the training losses before and after, with the loss of guessing.

    Returns:
        The plot, or None where nothing was trained.
    """
    section = content["proof"]
    if section is None:
        return None
    runs = [(name, run) for name, run in (("before", section["before"]), ("after", section["after"])) if run]
    runs = [(name, run) for name, run in runs if finite(run["loss"])]
    if not runs:
        return None
    data = []
    for name, run in runs:
        steps, loss = _thinned(run["loss"])
        smooth = _smoothed(loss)
        noisy = len(loss) > 40
        if noisy:
            faint = curve(steps, loss, name, name, opacity=0.3, legendgroup=name, showlegend=False, hoverinfo="skip")
            faint["line"] = {"color": SERIES[name], "width": 1}
            data.append(faint)
        dash = "dash" if name == "before" else None
        shown = smooth if noisy else loss
        trace = curve(steps, shown, name, name, dash=dash, legendgroup=name)
        data.append(trace | {"hovertemplate": f"step %{{x}}: loss %{{y:.4~g}}<extra>{name}</extra>"})
    longest = max(len(run["loss"]) for _, run in runs)
    chance = section["chance"]
    if chance is not None and chance > 0:
        trace = level(1, longest, chance, "guessing", "chance")
        data.insert(0, trace | {"hovertemplate": "guessing: %{y:.4~g}<extra></extra>"})
    figure: Figure = {
        "data": data,
        "layout": {
            "xaxis": {"title": {"text": "training step"}, "range": padded(1, longest)},
            "yaxis": log_axis([y for trace in data for y in trace["y"]]),
            "annotations": [heading("Loss of the minibatches", y=1.0)],
        },
    }
    return Plot("proof", "Training before and after", figure, _reading(section), wide=True, height=340)


def _thinned(loss: list[float | None]) -> tuple[list[int], list[float | None]]:
    """Keep every n-th point of a long run, so that the report stays small.

    Returns:
        The steps, counted from 1, and the losses.
    """
    stride = max(1, math.ceil(len(loss) / MOST))
    kept = range(0, len(loss), stride)
    return [i + 1 for i in kept], [loss[i] for i in kept]


def _smoothed(loss: list[float | None]) -> list[float | None]:
    """Average over a window around each step (which does not lag as a running average would); gaps stay gaps.

    Returns:
        A list of the same length.
    """
    half = max(1, len(loss) // 60)
    out: list[float | None] = []
    for i, value in enumerate(loss):
        near = min(half, i, len(loss) - 1 - i)  # symmetric at the ends, too
        around = finite(loss[i - near : i + near + 1])
        out.append(None if value is None else float(f"{sum(around) / len(around):.5g}"))
    return out


def _reading(section: ProofSection) -> str:
    how = f"with {section['optimizer']}" if section["optimizer"] else ""
    size = f"batches of {section['batch_size']}" if section["batch_size"] else ""
    setting = ", ".join(part for part in (how, size) if part)
    steps = "" if section["steps"] is None else f"{section['steps']:,} steps "
    sentences = [f"Both nets were trained for {steps}{setting}".strip() + "."]
    for name, run in (("Before", section["before"]), ("After", section["after"])):
        text = _outcome(run)
        if text:
            sentences.append(f"{name}: {text}.")
    if section["chance"] is not None:
        sentences.append(f"Guessing gives a loss of {number(section['chance'])}.")
    return " ".join(sentences)


def _outcome(run: TrainingRun | None) -> str:
    if run is None:
        return ""
    parts = []
    if run["loss"]:
        final = run["loss"][-1]
        parts.append("the loss stopped being finite" if final is None else f"last minibatch's loss {number(final)}")
    if run["final_loss"] is not None:
        parts.append(f"loss on the training set {number(run['final_loss'])}")
    if run["lr"] is not None:
        parts.insert(0, f"step size {number(run['lr'])}")
    if run["accuracy"] is not None:
        parts.append(f"accuracy {number(100 * run['accuracy'])} %")
    return ", ".join(parts)
