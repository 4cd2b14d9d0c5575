"""Trials of three decision tasks of neuroscience: an input over time, a choice at its end.

Steps stand for 100 ms. Channel 0 is a fixation cue, on until the decision; the others are sensory, with Gaussian noise
of standard deviation 0.1. The target is 0 while fixation is on, then 1 or 2 for the choice. The tasks' layout follows
the collection of M. Molano-Mazon et al. (NeuroGym, 2022); trials are drawn here, without that package.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from isometry._base import check_positive, unknown_name
from isometry.data._dataset import Dataset

__all__ = ["DECISION_TASKS", "decision_trials"]

_COHERENCES = (0.0, 0.064, 0.128, 0.256, 0.512)  # of the two-alternative task
_CONTEXT_COHERENCES = (0.05, 0.15, 0.5)
_Trials = Callable[[int, float, "torch.Generator | None"], tuple[Tensor, Tensor]]


def decision_trials(
    task: str, n: int, *, noise: float = 0.1, steps: bool = True, generator: torch.Generator | None = None
) -> Dataset:
    """Draw trials of a decision task.

    "2af" (two-alternative forced choice): 7 steps of two sensory channels at (1 + c) / 2 and (1 - c) / 2, c being a
    signed coherence; which is stronger? At coherence 0, a fifth of the trials, the right choice is a coin toss.
    "dms" (delayed match to sample): one of two channels for a step, 5 steps of delay, one of the two again; the same
    (1) or not (2)? "context": two steps of two such pairs of channels, with one of two context cues on throughout, then
    5 steps of delay; which channel of the cued pair was stronger?

    Args:
        task: "2af", "dms" or "context".
        n: Number of trials.
        noise: Standard deviation of the noise on the sensory channels while they show something.
        steps: Targets at every step, (n, T); False gives the choice alone, (n,), as classes 1 and 2 of 3.
        generator: Source of randomness (CPU); torch's global one by default.

    Returns:
        The data set: inputs (n, T, channels) of T = 8 steps and 3, 3 or 7 channels, three classes.

    Raises:
        ValueError: If the task is unknown or a number is out of range.

    Example:
        >>> trials = decision_trials("2af", 50, generator=torch.Generator().manual_seed(0))
        >>> trials.shape, trials.targets[0].tolist()[:7], trials.classes
        ((8, 3), [0, 0, 0, 0, 0, 0, 0], 3)
    """
    if task not in DECISION_TASKS:
        error: ValueError = unknown_name("task", task, DECISION_TASKS)
        raise error
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n must be a positive whole number, got {n!r}.")
    spread = check_positive("noise", noise, zero=True)
    inputs, choice = DECISION_TASKS[task](n, spread, generator)
    inputs[:, :-1, 0] = 1.0  # fixation until the decision, which is the last step
    targets = choice
    if steps:
        targets = torch.zeros(inputs.shape[:2], dtype=torch.int64)
        targets[:, -1] = choice
    note = f"drawn trials of 8 steps, noise {spread:g} on the sensory channels"
    return Dataset(f"decision task {task}", inputs, targets, 3, notes=(note,), source="generated")


def _signs(n: int, generator: torch.Generator | None) -> Tensor:
    return torch.randint(0, 2, (n,), generator=generator) * 2 - 1


def _one_of(values: tuple[float, ...], n: int, generator: torch.Generator | None) -> Tensor:
    return torch.tensor(values)[torch.randint(0, len(values), (n,), generator=generator)]


def _pair(signed: Tensor) -> Tensor:
    return torch.stack([(1 + signed) / 2, (1 - signed) / 2], -1)


def _shown(levels: Tensor, steps: int, noise: float, generator: torch.Generator | None) -> Tensor:
    # (n, channels) held for some steps, with fresh noise at each
    held = levels.unsqueeze(1).expand(-1, steps, -1)
    return held + noise * torch.randn(held.shape, generator=generator)


def _two_alternatives(n: int, noise: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    inputs = torch.zeros(n, 8, 3)
    sign = _signs(n, generator)
    inputs[:, :7, 1:] = _shown(_pair(sign * _one_of(_COHERENCES, n, generator)), 7, noise, generator)
    return inputs, torch.where(sign > 0, 1, 2)


def _match_to_sample(n: int, noise: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    inputs = torch.zeros(n, 8, 3)
    sample, test = _signs(n, generator), _signs(n, generator)
    inputs[:, :1, 1:] = _shown(_pair(sample.float()), 1, noise, generator)
    inputs[:, 6:7, 1:] = _shown(_pair(test.float()), 1, noise, generator)
    return inputs, torch.where(sample == test, 1, 2)


def _context(n: int, noise: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    inputs = torch.zeros(n, 8, 7)
    signs = torch.stack([_signs(n, generator), _signs(n, generator)], 1)
    coherence = torch.stack([_one_of(_CONTEXT_COHERENCES, n, generator) for _ in range(2)], 1)
    levels = _pair(signs * coherence).flatten(1)  # (n, 4)
    inputs[:, :2, 1:5] = _shown(levels, 2, noise, generator)
    cue = torch.randint(0, 2, (n,), generator=generator)
    inputs[:, :, 5:] = torch.nn.functional.one_hot(cue, 2).float().unsqueeze(1)
    cued = signs.gather(1, cue.unsqueeze(1)).squeeze(1)
    return inputs, torch.where(cued > 0, 1, 2)


DECISION_TASKS: dict[str, _Trials] = {"2af": _two_alternatives, "dms": _match_to_sample, "context": _context}
