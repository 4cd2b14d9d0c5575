"""The table that every optimizer of the room meets: a new one joins by one line in OPTIMIZERS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from isometry import manifolds
from isometry.optim import RiemannianAdam, RiemannianSGD


@dataclass(frozen=True)
class Entry:
    """An optimizer with options that suit the problems below."""

    name: str
    make: Callable[..., torch.optim.Optimizer]
    lr: float


OPTIMIZERS = [
    Entry("RiemannianSGD", RiemannianSGD, 0.3),
    Entry("RiemannianSGD, momentum", lambda p, lr, **o: RiemannianSGD(p, lr, momentum=0.9, **o), 0.03),
    Entry("RiemannianSGD, nesterov", lambda p, lr, **o: RiemannianSGD(p, lr, momentum=0.9, nesterov=True, **o), 0.03),
    Entry("RiemannianAdam", RiemannianAdam, 0.05),
    Entry(
        "RiemannianAdam, columns, amsgrad",
        lambda p, lr, **o: RiemannianAdam(p, lr, amsgrad=True, second_moment="per-column", **o),
        0.05,
    ),
]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


class Mixed(nn.Module):
    """Every kind of parameter: square, tall, wide, a kernel, one column, vectors, a scalar, one that is frozen."""

    def __init__(self):
        super().__init__()
        self.square = nn.Linear(6, 6)
        self.twin = nn.Linear(6, 6)
        self.tall = nn.Linear(6, 9)
        self.wide = nn.Linear(9, 4)
        self.conv = nn.Conv1d(1, 3, 2, bias=False)
        self.column = nn.Linear(1, 5, bias=False)
        self.gain = nn.Parameter(torch.tensor(1.0))
        self.frozen = nn.Linear(3, 3)
        self.frozen.requires_grad_(False)

    def forward(self, x):
        h = torch.tanh(self.twin(torch.tanh(self.square(x))))
        h = self.wide(torch.tanh(self.tall(h)))
        h = self.conv(h[:, None]).mean(1)
        return self.frozen(h) * self.gain + self.column(h.mean(1, keepdim=True)).mean(1, keepdim=True)


CONSTRAINTS = {"free": None, "stiefel": "stiefel", "oblique": "oblique", "learned scales": "stiefel"}


def mixed(constraint="stiefel", dtype=torch.float32, seed=0):
    """The model on a manifold, and a loss of it that a closure can evaluate."""
    torch.manual_seed(seed)
    model = Mixed().to(dtype)
    if CONSTRAINTS[constraint] is not None:
        manifolds.constrain_(
            model,
            CONSTRAINTS[constraint],
            names=["square.weight", "twin.weight", "tall.weight", "wide.weight", "conv.weight", "column.weight"],
            scale="learned" if constraint == "learned scales" else "fixed",
        )
    return model


def batch(dtype=torch.float32):
    return torch.randn(32, 6, generator=gen(1)).to(dtype), torch.randn(32, 3, generator=gen(2)).to(dtype)


def train(model, optimizer, steps, scheduler=None):
    """Train on one batch; returns the losses."""
    x, y = batch(next(model.parameters()).dtype)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(loss.item())
    return losses


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])
