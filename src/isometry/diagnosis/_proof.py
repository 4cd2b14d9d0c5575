"""The proof: the same short training before and after the prescription."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from isometry._base import Cost, Result
from isometry.data import Dataset
from isometry.diagnosis._prescription import Prescription
from isometry.tape import Inputs
from isometry.training import Curve, Likelihood, fit

__all__ = ["LEARNING_RATES", "Proof", "prove"]

LEARNING_RATES = (1e-4, 1e-3, 1e-2)  # of Adam; each net gets the one that suits it best
PILOT = 10  # a pilot run takes one step in so many
BATCH = 100
BEGUN = 0.9  # of chance: a net whose loss ends below has learned something


@dataclass(frozen=True)
class Proof(Result):
    """Two training runs, alike but for the initialization.

    Attributes:
        before: The model as it is, at its best step size.
        after: The model as prescribed, at its own.
        steps: Steps of each run.
        optimizer: "adam".
        batch_size: Samples per step.
        chance: Loss of a network that knows nothing.
        tried: Step sizes tried for each, in pilot runs of a tenth of the steps.
        verdict: One sentence.
        cost: All runs together.
    """

    before: Curve
    after: Curve
    steps: int
    optimizer: str
    batch_size: int
    chance: float
    tried: tuple[float, ...]
    verdict: str
    cost: Cost = field(default_factory=Cost)

    @property
    def cured(self) -> bool:
        """Whether the prescribed model learned and the other one did not."""
        return self.after.learned and not self.before.learned

    def __str__(self) -> str:
        return self.verdict


def prove(
    model: nn.Module,
    prescription: Prescription | None,
    dataset: Dataset,
    *,
    steps: int,
    seed: int,
    likelihood: Likelihood,
) -> Proof:
    """Train copies of a model as it is and as prescribed for the same number of steps.

    Each net's step size is chosen in pilot runs over the same three; a net that does not learn with the one that
    did best there gets another chance with the next. All runs see the same minibatches.

    Args:
        model: The diagnosed model; not touched.
        prescription: Its prescription; None compares the model with itself drawn no differently, which is refused.
        dataset: What to train on.
        steps: Steps of each full run.
        seed: Seed of the minibatches.
        likelihood: What the outputs parametrize.

    Returns:
        The proof.

    Raises:
        ValueError: If there is no prescription to prove, or too few steps.
    """
    if prescription is None:
        raise ValueError("there is no prescription to prove; the diagnosis found nothing to change.")
    if steps < 10:
        raise ValueError(f"prove must be at least 10 steps, got {steps}; a few hundred show whether a net learns.")
    scaled = dataset if prescription.input_scale is None else _scaled(dataset, prescription.input_scale)
    prescribed = prescription.apply_(copy.deepcopy(model))
    before, cost_before = _best_run(model, dataset, steps, seed, likelihood)
    after, cost_after = _best_run(prescribed, scaled, steps, seed, likelihood)
    return Proof(
        before=before,
        after=after,
        steps=steps,
        optimizer="adam",
        batch_size=before.batch_size,
        chance=before.chance,
        tried=LEARNING_RATES,
        verdict=_verdict(before, after),
        cost=cost_before + cost_after,
    )


def _best_run(model: nn.Module, dataset: Dataset, steps: int, seed: int, likelihood: Likelihood) -> tuple[Curve, Cost]:
    cost, scores = Cost(), {}
    for lr in LEARNING_RATES:
        pilot = _run(model, dataset, max(20, steps // PILOT), lr, seed, likelihood)
        cost += pilot.cost
        scores[lr] = pilot.smoothed[-1] if not pilot.diverged else math.inf
    ranked = sorted(LEARNING_RATES, key=lambda lr: scores[lr] if math.isfinite(scores[lr]) else math.inf)
    curve = _run(model, dataset, steps, ranked[0], seed, likelihood)
    cost += curve.cost
    if not curve.learned and math.isfinite(scores[ranked[1]]):  # a step size that starts well may not end well
        second = _run(model, dataset, steps, ranked[1], seed, likelihood)
        cost += second.cost
        curve = min(curve, second, key=lambda run: run.best)
    return curve, cost


def _run(model: nn.Module, dataset: Dataset, steps: int, lr: float, seed: int, likelihood: Likelihood) -> Curve:
    generator = torch.Generator().manual_seed(seed)
    trained = copy.deepcopy(model)
    return fit(
        trained,
        dataset,
        steps=steps,
        optimizer="adam",
        lr=lr,
        batch_size=BATCH,
        likelihood=likelihood,
        generator=generator,
    )


def _scaled(dataset: Dataset, factor: float) -> Dataset:
    from dataclasses import replace

    def scale(inputs: Tensor | Inputs) -> Tensor | Inputs:
        return inputs * factor if isinstance(inputs, Tensor) else inputs.scaled(factor)

    tests = None if dataset.test_inputs is None else scale(dataset.test_inputs)
    return replace(dataset, inputs=scale(dataset.inputs), test_inputs=tests)


def _verdict(before: Curve, after: Curve) -> str:
    def said(curve: Curve) -> str:
        if curve.diverged:
            return "diverges"
        score = f"loss {curve.final_loss:.3g} on the training set"
        return score if math.isnan(curve.accuracy) else f"{score}, {curve.accuracy:.0%} of it right"

    head = (
        "The prescription cures it"
        if after.learned and not before.learned
        else "Both learn"
        if after.learned and before.learned
        else "Neither gets far enough in these steps"
        if not after.learned and not before.learned and (_begun(after) or _begun(before))
        else "Neither learns in these steps"
        if not after.learned and not before.learned
        else "The prescription makes it worse"
    )
    return (
        f"{head}: after {after.steps} steps of Adam the net as it is {_ends(before)} ({said(before)}), the prescribed "
        f"one {_ends(after)} ({said(after)}); chance is {before.chance:.3g}."
    )


def _ends(curve: Curve) -> str:
    if curve.learned:
        return "has learned"
    return "has begun to learn, but not come below half of chance" if _begun(curve) else "has not learned"


def _begun(curve: Curve) -> bool:
    return not curve.diverged and curve.final_loss < BEGUN * curve.chance
