"""Saxe, McClelland and Ganguli (2014): exact curves, hierarchies, depth, isometry, and what pretraining needs.

Losses are sums over samples in claims 1 and 2 and means in claim 3. A seed draws targets, weights, features and images.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.stats import spearmanr
from torch import Tensor, nn

import isometry as iso
from isometry.papers import Evidence, collect
from isometry.theory.linear_dynamics import Modes

ld = iso.theory.linear_dynamics
Measured = dict[str, float | list[float]]
# Step size of claim 1; levels and features of the tree; depths, step sizes, most steps; width of the tanh nets.
SIZES = {
    "smoke": (1e-2, (3, 200), ((3, 30), (1.0, 0.1), 300), 50),
    "full": (1e-3, (5, 1000), ((3, 10, 30, 60), tuple(10 ** (1 - k / 2) for k in range(7)), 600), 200),
}
DATASETS = {"smoke": ("digits",), "full": ("digits", "fashion-mnist")}
TIME, WIDTH, LAYERS, SHUFFLES, IMAGES = 12.0, 64, 100, 5, 5000


def run(scale: str, seeds: tuple[int, ...]) -> Evidence:
    """Measure all five claims at a scale, "smoke" or "full".

    Returns:
        The evidence.
    """
    lr, (levels, features), (depths, rates, most), width = SIZES[scale]
    loaded, skipped = {}, {}
    for name in DATASETS[scale]:
        try:
            loaded[name] = iso.data.load(name)
        except ValueError:
            skipped[f"{name}/consistency_over_shuffled"] = f"{name} is not installed"

    def one_seed(seed: int) -> Measured:
        found = _exact(lr, seed) | _tree(levels, features, seed) | _isometry(width, seed)
        found |= _depth(loaded["digits"], depths, rates, most, seed)
        for name, data in loaded.items():
            found |= _consistency(name, data, seed)
        return found

    axes = {f"digits/{kind}_{what}": depths for kind in ("orthogonal", "gaussian") for what in ("steps", "rate")}
    return collect(scale, seeds, one_seed, axes=axes, datasets=list(loaded), skipped=skipped)


# Claim 1: descent, formula and differential equation, from decoupled weights of strength 0.1; largest relative errors.
def _exact(lr: float, seed: int) -> Measured:
    g = torch.Generator().manual_seed(seed)
    modes = ld.decompose(torch.eye(6), torch.randn(6, 4, generator=g).clamp(-2, 2) / 4)
    descent, solver, wrong = [], [], []
    for layers in (1, 2, 3, 5):
        weights, steps = ld.decoupled_weights(modes, [8] * (layers - 1), 0.1, generator=g), round(TIME / lr)
        step, strengths = _descend(weights, modes, lr, steps, steps // 50)
        t, measured = lr * step.numpy(), strengths.numpy().T
        curve, next_curve = (ld.mode_curve(modes.s, 0.1, t, depth=n) for n in (layers, layers + 1))
        descent.append(float(np.abs(measured / curve - 1).max()))
        wrong.append(float(np.abs(measured / next_curve - 1).max()))
        for s, row in zip(modes.s.tolist(), curve, strict=True):
            slope = lambda _t, u, s=s, n=layers: n * np.abs(u) ** (2 - 2 / n) * (s - u)  # noqa: E731
            done = solve_ivp(slope, (0, TIME), [0.1], method="DOP853", t_eval=t, rtol=1e-11, atol=1e-13)
            solver.append(float(np.abs(done.y[0] / row - 1).max()))
    names = ("descent_error", "solver_error", "error_of_next_depth")
    return {f"exact/{k}": v for k, v in zip(names, (max(descent), max(solver), min(wrong)), strict=True)}


# Recorded steps (K,) and strengths (K, modes).
def _descend(weights: list[Tensor], modes: Modes, lr: float, steps: int, every: int) -> tuple[Tensor, Tensor]:
    correlations = modes.input_correlation, modes.cross_correlation
    path = ld.simulate(weights, *correlations, lr=lr, steps=steps, modes=modes, every=every)
    assert path.strengths is not None  # noqa: S101 - modes were given
    return path.steps.double(), path.strengths


# Claim 2: a hidden layer as wide as there are items, weights of standard deviation 0.001; half times in steps.
def _tree(levels: int, features: int, seed: int) -> Measured:
    g, lr, items = torch.Generator().manual_seed(seed), 0.5e-3, 2**levels
    data = ld.hierarchical_data(levels, features, flip=0.1, generator=g)
    modes, found = ld.decompose(data.inputs, data.targets), Measured()
    formula = torch.from_numpy(ld.learning_time(modes.s, 1e-6, modes.s / 2, depth=2, tau=1 / lr))
    for name, sizes in (("", (items, items, features)), ("one_layer_", (items, features))):
        weights = [1e-3 * torch.randn(b, a, generator=g) for a, b in pairwise(sizes)]
        step, strengths = _descend(weights, modes, lr, round(2 * max(float(formula.max()), 1 / lr)), 2)
        half = step[(strengths >= modes.s / 2).double().argmax(0)]  # the first one at which it is
        groups = [data.level[: len(modes.s)] == level for level in range(levels + 1)]
        found[f"tree/{name}half_time"] = [float(half[group].mean()) for group in groups]
        found[f"tree/{name}half_time_over_formula"] = [float((half / formula)[group].mean()) for group in groups]
        if not name:  # one layer learns all at the same step, which has no rank
            found["tree/spearman"] = float(spearmanr(half.numpy(), 1 / modes.s.numpy()).statistic)
    return found


# Claim 3: steps to close 75 % of the gap, the best step size for each depth and kind; ``most`` where none arrives.
def _depth(data: iso.data.Dataset, depths: tuple[int, ...], rates: tuple[float, ...], most: int, seed: int) -> Measured:
    x, y = _centred(*iso.data.batch(data, IMAGES, generator=torch.Generator().manual_seed(seed)))
    x = x / x.square().sum(1).mean().sqrt()
    s11, s31 = x.T @ x / len(x), y.T @ x / len(x)
    found: Measured = {}
    for kind, draw in (("orthogonal", iso.init.orthogonal), ("gaussian", iso.init.gaussian)):
        best = []
        for layers in depths:
            g, sizes = torch.Generator().manual_seed(seed), [(WIDTH, WIDTH)] * (layers - 1) + [(10, WIDTH)]
            weights = [draw(size, dtype=torch.float64, generator=g) for size in sizes]
            tried = [(most, rates[0])]
            for rate in rates:  # none needs to run longer than the best one so far
                path = ld.simulate(weights, s11, s31, lr=rate, steps=min(tried)[0], every=most, until=0.25)
                tried += [] if path.reached is None else [(path.reached, rate)]
            best.append(min(tried))
        steps = [float(count) for count, _ in best]
        found |= {f"digits/{kind}_steps": steps, f"digits/{kind}_rate": [rate for _, rate in best]}
        found[f"digits/{kind}_most_over_fewest"] = max(steps) / min(steps)
        found[f"digits/{kind}_deepest_over_shallowest"] = steps[-1] / steps[0]
    return found


# Claim 4: singular values of the Jacobian through layers x <- g W tanh(x): medians, and the largest over the median.
def _isometry(width: int, seed: int) -> Measured:
    found: Measured = {}
    for kind, gain in (("", 0.9), ("", 1.0), ("", 1.1), ("gaussian_", 1.0)):
        g, net = torch.Generator().manual_seed(seed), nn.Sequential()
        fill = partial(iso.init.gaussian_, sigma=gain) if kind else partial(iso.init.orthogonal_, gain=gain)
        for _ in range(LAYERS):
            layer = nn.Linear(width, width, bias=False, dtype=torch.float64)
            fill(layer.weight, generator=g)
            net.extend([nn.Tanh(), layer])
        x = torch.randn(1, width, dtype=torch.float64, generator=g)
        values = iso.measure.jacobian(net, x).spectrum().values[0]
        median = max(float(values.median()), 1e-300)
        found |= {
            f"isometry/{kind}median_at_{gain:g}": median,
            f"isometry/{kind}spread_at_{gain:g}": float(values[0]) / median,
        }
    return found


# Claim 5: off-diagonal over diagonal input correlation along the task's directions, true labels and shuffled ones.
def _consistency(name: str, data: iso.data.Dataset, seed: int) -> Measured:
    g = torch.Generator().manual_seed(seed)
    x, y = _centred(*iso.data.batch(data, IMAGES, generator=g))
    orders = [torch.randperm(len(y), generator=g) for _ in range(2 * SHUFFLES)]
    logs = np.log([float(ld.pretraining_consistency(x, y[order])) for order in orders])
    true = float(ld.pretraining_consistency(x, y))
    one, two = (float(np.exp(half.mean())) for half in (logs[:SHUFFLES], logs[SHUFFLES:]))
    found = {"consistency": true, "consistency_over_shuffled": true / one, "shuffled_over_shuffled": two / one}
    return {f"{name}/{what}": value for what, value in found.items()}


def _centred(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    x, y = images.flatten(1).double(), nn.functional.one_hot(labels).double()
    return x - x.mean(0), y - y.mean(0)
