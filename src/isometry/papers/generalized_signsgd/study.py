"""Crawshaw et al. (2022): a loss of unbounded smoothness, noise, the smoothness of an LSTM, training without clipping.

A seed draws the starts and the noise of claims 1 and 2, and weights and batches of claims 3 and 4.
"""

from __future__ import annotations

import isometry as iso
from isometry.papers import Evidence, collect
from isometry.papers.generalized_signsgd.lstm import TENSORS, TRAINED, smoothness, trained
from isometry.papers.generalized_signsgd.synthetic import NOISES, noisy, synthetic

# Steps of claims 1, 2, 3 and 4, and how many of the rates of claim 4.
SIZES = {"smoke": (200, 2000, 64, 30, 2), "full": (1000, 3000, 1000, 500, 6)}


def run(scale: str, seeds: tuple[int, ...]) -> Evidence:
    """Measure all claims at a scale, "smoke" or "full".

    Returns:
        The evidence.
    """
    plain, noise, path, training, rates = SIZES[scale]
    text = iso.data.load("shakespeare:length=32")

    def one_seed(seed: int) -> dict[str, float | list[float]]:
        return (
            synthetic(plain, seed)
            | noisy(noise, seed)
            | smoothness(text, path, seed)
            | trained(text, training, rates, seed)
        )

    axes: dict[str, tuple[str | float, ...]] = {f"noise/{name}": NOISES for name in ("momentum", "none", "ratio")}
    axes["smoothness/tensors_l1"] = TENSORS
    axes |= {f"lstm/{name}_losses": grid[-rates:] for name, (_, grid) in TRAINED.items()}
    return collect(scale, seeds, one_seed, axes=axes, datasets=["shakespeare"])
