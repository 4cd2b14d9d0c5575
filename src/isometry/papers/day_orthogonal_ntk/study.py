"""Day, Kahn and Roberts (2023): fluctuations between networks of finite width, and what they do to learning.

Networks are z^1 = W^1 x, z^(l+1) = W^(l+1) phi(z^l), critical, biases starting at 0, in float64; a seed draws an
ensemble with Haar-distributed orthogonal or Gaussian weights. The input is constant with K^1 = 0.49: for such weights
only its length counts. Biases of tanh networks learn at the rate 1/l. Layers are counted from 1.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch

import isometry as iso
from isometry.papers import Evidence, collect

Weights = Literal["orthogonal", "gaussian"]
KINDS: tuple[Weights, ...] = ("orthogonal", "gaussian")
Measured = dict[str, float | list[float]]

WIDTH, DEPTH, K1 = 20, 30, 0.49
CASES = (("tanh", KINDS[0], 1.0), ("tanh", KINDS[1], 1.0), ("relu", KINDS[0], math.sqrt(2)))
LETTERS = "PQRSTU"
# networks of width 20 and of width 100; for A, B, D, F; for P, Q; for R, S, T, U
NETWORKS = {"smoke": (400, 100, 100, 40, 40), "full": (4000, 1000, 300, 200, 200)}
# images, steps, step sizes
TRAINING = {"smoke": (100, 40, [0.1, 0.3]), "full": (300, 200, [0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0])}
DEPTHS, TRAINED_WIDTH = (4, 64), 32


def run(scale: str, seeds: tuple[int, ...]) -> Evidence:
    """Measure all claims.

    Args:
        scale: "smoke" or "full".
        seeds: Seeds of the weights and the images.

    Returns:
        The evidence.
    """
    many, wide, tangent, second, third = NETWORKS[scale]

    def one_seed(seed: int) -> Measured:
        found = fluctuations(many, seed) | theory_curve(wide, seed)
        return found | saturation(tangent, seed) | higher(second, third, seed) | training(scale, seed)

    axes = {f"{kind}/higher_{what}": tuple(LETTERS) for kind in KINDS for what in ("at_30", "change")}
    return collect(scale, seeds, one_seed, datasets=["digits"], axes=axes)


def draw(
    networks: int, width: int, depth: int, weights: Weights, seed: int, sigma_w: float = 1.0
) -> tuple[iso.training.Ensemble, torch.Tensor]:
    """Draw an ensemble, and the input that reaches K^1.

    Returns:
        The stacked weights and x.
    """
    g = torch.Generator().manual_seed(seed)
    stack = iso.training.ensemble(networks, [width] * (depth + 1), weights=weights, sigma_w=sigma_w, generator=g)
    return stack, math.sqrt(K1) / sigma_w * torch.ones(width, dtype=torch.float64)


def fluctuations(networks: int, seed: int) -> Measured:
    """Claim 1: V / K^2 against depth at width 20.

    Returns:
        Series over layers, and slopes of lines fitted to them.
    """
    found: Measured = {}
    for phi, kind, sigma_w in CASES:
        series = iso.measure.preactivation_stats(*draw(networks, WIDTH, DEPTH, kind, seed, sigma_w), phi).fluctuation
        found[f"{phi}/{kind}/fluctuation"] = series.tolist()
        for first, last in ((5, 15), (10, 30)):
            line = np.polyfit(np.arange(first, last + 1), series[first - 1 : last].numpy(), 1)
            found[f"{phi}/{kind}/slope_{first}_to_{last}"] = float(line[0])
    return found


def theory_curve(networks: int, seed: int) -> Measured:
    """Claim 2: the same at width 100 against the recursion, layers 1 to 10.

    Returns:
        The most standard errors by which a layer misses the law beyond 4 (1 + |V / K^2|) / width.
    """
    found: Measured = {}
    for kind in KINDS:
        stack, x = draw(networks, 100, 10, kind, seed)
        layers = list(stack)
        for phi in ("tanh", "linear"):
            stats = iso.measure.preactivation_stats(layers, x, phi)
            for law in KINDS:
                predicted = torch.tensor(iso.theory.finite_width(phi, k1=K1, depth=10, weights=law).fluctuation)
                beyond = (stats.fluctuation - predicted).abs() - 4 * (1 + predicted.abs()) / 100
                found[f"{phi}/{kind}_beyond_{law}_law"] = float((beyond / stats.fluctuation_stderr).max())
    return found


def saturation(networks: int, seed: int) -> Measured:
    """Claim 3: the normalized V, A, B, D and F at layers 10, 20 and 30 of networks of width 20.

    Returns:
        The values, sizes at layer 30, changes from 20 to 30, and growth from 10 to 30.
    """
    found: Measured = {}
    for kind in KINDS:
        stack, x = draw(networks, WIDTH, DEPTH, kind, seed)
        for letter, series in iso.measure.correlators(stack, x, "tanh").normalized.items():
            name, at = f"{kind}/{letter.lower()}", [float(series[layer - 1]) for layer in (10, 20, 30)]
            found[name], found[f"{name}_size"] = at, abs(at[2])
            found[f"{name}_change"], found[f"{name}_growth"] = abs(at[2] - at[1]), at[2] / at[0]
    return found


def higher(second: int, third: int, seed: int) -> Measured:
    """Claim 4: P and Q at width 12, R, S, T and U at width 8.

    Returns:
        Values at layer 30 and changes from layer 20 to 30, in the order of LETTERS.
    """
    found: Measured = {}
    for kind in KINDS:
        two = iso.measure.correlators(*draw(second, 12, DEPTH, kind, seed), "tanh", order=2).normalized
        three = iso.measure.correlators(*draw(third, 8, DEPTH, kind, seed), "tanh", order=3).normalized
        series = [(two if letter in "PQ" else three)[letter] for letter in LETTERS]
        found[f"{kind}/higher_at_30"] = [float(s[29]) for s in series]
        found[f"{kind}/higher_change"] = [float(s[29] - s[19]) for s in series]
    return found


def training(scale: str, seed: int) -> Measured:
    """Claim 5: full-batch gradient descent on digits, equal steps; the step size with the lowest training loss.

    Returns:
        Losses and test accuracies, and losses with orthogonal weights over those with Gaussian ones.
    """
    count, steps, rates = TRAINING[scale]
    images, labels = iso.data.batch(iso.data.load("digits"), 2 * count, generator=torch.Generator().manual_seed(seed))
    x, y = images[:count].flatten(1), labels[:count]
    held = images[count:].flatten(1), labels[count:]
    found, series = dict[str, float](), dict[str, list[float]]()
    for depth in DEPTHS:
        widths = [64, *[TRAINED_WIDTH] * (depth - 1), 10]
        for kind in KINDS:
            g = torch.Generator().manual_seed(seed)
            one = iso.training.ensemble(1, widths, weights=kind, semi_orthogonal=True, dtype=torch.float32, generator=g)
            copies = [layer.expand(len(rates), -1, -1) for layer in one]
            curve = iso.training.fit_ensemble(copies, x, y, activation="tanh", steps=steps, lr=rates, test=held)
            final = curve.final_loss.nan_to_num(nan=math.log(10), posinf=math.log(10))  # diverged: chance
            series[f"depth_{depth}/{kind}/final_loss_by_step_size"], best = final.tolist(), int(final.argmin())
            for what in ("final_loss", "test_loss", "test_accuracy", "lr"):
                found[f"depth_{depth}/{kind}/{what}"] = float(getattr(curve, what)[best])
        for what in ("final_loss", "test_loss"):
            orthogonal, gaussian = (found[f"depth_{depth}/{kind}/{what}"] for kind in KINDS)
            found[f"depth_{depth}/{what}_ratio"] = orthogonal / gaussian
    return {**found, **series}
