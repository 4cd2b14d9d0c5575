"""Claims 3 and 4: the smoothness of a recurrent language model, and its training without clipping."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

import isometry as iso
from isometry.optim import ClippedSGD, GeneralizedSignSGD, NormalizedSGD

__all__ = ["TENSORS", "TRAINED", "smoothness", "trained"]

Measured = dict[str, float | list[float]]
Make = Callable[[list[Tensor], float], torch.optim.Optimizer]
BATCH = 32  # sequences of a step


class CharacterLSTM(nn.Module):
    """Embedding of 32, an LSTM of 64, a score for each of 62 characters."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(62, 32)
        self.lstm = nn.LSTM(32, 64, batch_first=True)
        self.head = nn.Linear(64, 62)

    def forward(self, tokens: Tensor) -> Tensor:
        """Score the next character at every position.

        Returns:
            Shape ``(N, T, 62)``.
        """
        scores: Tensor = self.head(self.lstm(self.embedding(tokens))[0])
        return scores


def _model(seed: int) -> CharacterLSTM:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CharacterLSTM()


def _cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten())


def smoothness(text: iso.data.Dataset, steps: int, seed: int) -> Measured:
    """Measure claim 3: smoothness against the norm of the gradient, every eighth step of clipped SGD, on 128 sequences.

    Returns:
        Correlation and slope of their logarithms; L0, and L1 of the model and of each tensor.
    """
    g, model = torch.Generator().manual_seed(seed), _model(seed)
    kept = iso.measure.Snapshots(model, every=8, paired=True)
    optimizer = torch.optim.SGD(model.parameters(), 5.0)
    for _ in range(steps):
        kept.step()
        chosen = torch.randint(len(text.inputs), (BATCH,), generator=g)
        model.zero_grad()
        torch.autograd.backward(_cross_entropy(model(text.inputs[chosen]), text.targets[chosen]))
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
    found = iso.measure.local_smoothness(model, text.inputs[-128:], text.targets[-128:], kept, k=4)
    shuffled = found.smoothness[torch.randperm(len(found.smoothness), generator=g)]
    fit, control = found.fit(), iso.measure.fit_l0_l1(found.grad_norm, shuffled)
    l1 = [parameter.fit().l1 for parameter in found.parameters]
    measured: Measured = {"smoothness/correlation": fit.correlation, "smoothness/slope": fit.slope}
    measured |= {"smoothness/l0": fit.l0, "smoothness/l1": fit.l1, "smoothness/tensors_l1": l1}
    measured |= {"smoothness/shuffled_correlation": control.correlation, "smoothness/shuffled_slope": control.slope}
    return measured | {"smoothness/largest_over_least_l1": max(l1) / max(min(l1), 1e-12)}


TENSORS = tuple(name for name, _ in _model(0).named_parameters())
TRAINED: dict[str, tuple[Make, tuple[float, ...]]] = {
    "signs": (partial(GeneralizedSignSGD, betas=(0.9, 0.999)), (2e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3)),
    "signs_08": (partial(GeneralizedSignSGD, betas=(0.9, 0.8)), (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)),
    "adam": (torch.optim.Adam, (5e-3, 1e-2, 2e-2, 4e-2, 8e-2, 0.16)),
    "sgd": (partial(torch.optim.SGD, momentum=0.9), (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)),
    "clipped": (partial(ClippedSGD, clip=1.0, momentum=0.9), (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)),
    "normalized": (partial(NormalizedSGD, momentum=0.9), (0.06, 0.12, 0.25, 0.5, 1.0, 2.0)),
}


def trained(text: iso.data.Dataset, steps: int, rates: int, seed: int) -> Measured:
    """Measure claim 4: the loss over 2,048 sequences after a training, at the best of the rates.

    Returns:
        Losses and their ratios.
    """
    losses = {
        name: [_train(text, steps, seed, make, lr) for lr in grid[-rates:]] for name, (make, grid) in TRAINED.items()
    }
    best = {name: float(np.nanmin(series)) for name, series in losses.items()}
    found: Measured = {f"lstm/{name}_losses": series for name, series in losses.items()}
    found |= {f"lstm/{name}": value for name, value in best.items()}
    found |= {f"lstm/{name}_over_adam": value / best["adam"] for name, value in best.items() if name != "adam"}
    found |= {f"lstm/{name}_over_sgd": best[name] / best["sgd"] for name in ("signs", "signs_08")}
    return found | {"lstm/sgd_over_signs_08": best["sgd"] / best["signs_08"]}


def _train(text: iso.data.Dataset, steps: int, seed: int, make: Make, lr: float) -> float:
    g, model = torch.Generator().manual_seed(seed), _model(seed)
    optimizer = make(list(model.parameters()), lr)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5 * (1 + math.cos(math.pi * t / steps)))
    for _ in range(steps):
        chosen = torch.randint(len(text.inputs), (BATCH,), generator=g)
        model.zero_grad()
        loss = _cross_entropy(model(text.inputs[chosen]), text.targets[chosen])
        if not bool(torch.isfinite(loss)):
            return math.inf
        torch.autograd.backward(loss)
        optimizer.step()
        falling.step()
    with torch.no_grad():
        return float(_cross_entropy(model(text.inputs[:2048]), text.targets[:2048]))
