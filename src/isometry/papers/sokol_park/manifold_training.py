"""Sokół and Park (2020), claim 4: training with hidden weights on a manifold, against plain Adam.

Learning rates and rho are chosen by the loss on images held out from training, one after the other: that of the hidden
weights, that of everything else, rho. Control: hidden weights that stay as they were drawn.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time

import torch

from isometry.papers import Evidence, collect
from isometry.papers.sokol_park.manifold_net import PROBE, STATISTICS, Net
from isometry.papers.sokol_park.manifold_task import Q_STARS, SETTINGS, Choice, Kind, device

Series = dict[str, list[float]]
TUNED: tuple[Kind, ...] = ("euclidean", "stiefel", "oblique")
RUNS: tuple[tuple[Kind, str], ...] = (*((kind, q) for kind in TUNED for q in Q_STARS), ("frozen", "large_q"))


def evidence(scale: str, seeds: tuple[int, ...]) -> Evidence:
    """Measure the claims on training alone.

    Returns:
        The evidence.
    """
    place = device(scale)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else "the CPU"
    setting = SETTINGS[scale]
    note = f"Trained on {name}, {setting.depth} layers of width {setting.width}, batches of {setting.batch}."
    return collect(
        scale, seeds, lambda seed: measure(scale, seed), axes=axes(scale), datasets=[setting.dataset], notes=[note]
    )


def measure(scale: str, seed: int) -> dict[str, float | list[float]]:
    """Train all nets side by side, to one mark after the other, and take statistics at each.

    Returns:
        Series over the epochs of ``axes`` (NaN where time was up), the choices, and the numbers that the claims name.
    """
    began, setting, chosen = time.perf_counter(), SETTINGS[scale], tuned(scale)
    nets = {f"{kind}/{q}": Net(scale, kind, q, seed, chosen[kind, q]) for kind, q in RUNS}
    found: Series = {f"{run}/{name}": [value] for run, net in nets.items() for name, value in net.statistics().items()}
    other = nets["euclidean/small_q"].lambda_max(slice(PROBE, 2 * PROBE)) / found["euclidean/small_q/lambda_max"][0]
    started, done = time.perf_counter(), 0
    for mark in setting.marks:
        now = time.perf_counter()
        if mark > 2 and now - began + (now - started) * (mark - done) / done > setting.seconds:
            break
        for run, net in nets.items():
            net.train(mark - done)
            for name, value in net.statistics().items():
                found[f"{run}/{name}"].append(value)
        done = mark
    numbers = {"epochs": float(done), "other_images/lambda_growth": other, **claimed(found)}
    choices = {f"{k}/{q}/{name}": v for (k, q), one in chosen.items() for name, v in dataclasses.asdict(one).items()}
    padded = {run: series + [math.nan] * (len(setting.marks) + 1 - len(series)) for run, series in found.items()}
    return {f"training/{name}": value for name, value in {**padded, **numbers, **choices}.items()}


def axes(scale: str) -> dict[str, tuple[int, ...]]:
    """Name the epochs of the series: 0, before training, and the marks.

    Returns:
        The axis by quantity.
    """
    epochs = (0, *SETTINGS[scale].marks)
    return {f"training/{kind}/{q}/{name}": epochs for kind, q in RUNS for name in STATISTICS}


def claimed(found: Series) -> dict[str, float]:
    """Compute what the claims name from the series: last losses and accuracies, growth in epochs 1 and 2.

    Returns:
        Numbers by name.
    """
    last = {name: series[-1] for name, series in found.items()}
    start = last["euclidean/large_q/train_loss"], last["euclidean/large_q/test_accuracy"]
    numbers = {f"{k}/less_loss": start[0] - last[f"{k}/large_q/train_loss"] for k in ("stiefel", "oblique", "frozen")}
    numbers |= {f"{k}/loss_ratio": last[f"{k}/small_q/train_loss"] / last[f"{k}/large_q/train_loss"] for k in TUNED}
    for run in (f"{kind}/{q}" for kind in TUNED for q in Q_STARS):
        top = found[f"{run}/lambda_max"]
        numbers[f"{run}/lambda_growth"] = max(top[1:3]) / top[0]
    gaps = (abs(last[f"{kind}/large_q/test_accuracy"] - start[1]) for kind in TUNED)
    return {**numbers, "accuracy_gap": max(gaps)}


@functools.cache
def tuned(scale: str) -> dict[tuple[Kind, str], Choice]:
    """Choose rates and rho by the loss on held-out images; weights and order are those of seed 0.

    Returns:
        The choice of each run; frozen weights take that of the Euclidean net.
    """
    return {(kind, q): _search(scale, "euclidean" if kind == "frozen" else kind, q) for kind, q in RUNS}


@functools.cache
def _search(scale: str, kind: Kind, q: str) -> Choice:
    setting = SETTINGS[scale]
    grids = {"rate": setting.rates[kind], "others": setting.others}
    if kind == "oblique":
        grids["rho"] = setting.rho
    middle = {name: grid[len(grid) // 2] for name, grid in grids.items()}
    best, losses = Choice(middle["rate"], middle["others"], middle.get("rho", 0.0)), dict[Choice, float]()
    for name, grid in grids.items():
        for value in grid:
            choice = dataclasses.replace(best, **{name: value})
            if choice not in losses:
                net = Net(scale, kind, q, 0, choice)
                net.train(setting.tuning)
                losses[choice] = math.inf if net.diverged else net.loss(1)
        best = min(losses, key=lambda choice: losses[choice])
    return best
