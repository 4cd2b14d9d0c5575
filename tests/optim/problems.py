"""The table that every optimizer of the room meets: a new one joins by one line in OPTIMIZERS.

Its line says how it is made, and at which learning rate it does the problems below. Methods for hidden matrices are
made by ``hidden``, which gives the vectors to AdamW; steps that do not shrink with the gradient need
``constant_step``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from isometry import manifolds
from isometry.optim import (
    SGDP,
    AdamP,
    AuON,
    ClippedSGD,
    DCTAdamW,
    Dion,
    GeneralizedSignSGD,
    HybridAuON,
    Muon,
    NormalizedSGD,
    NorMuon,
    RiemannianAdam,
    RiemannianSGD,
    Trion,
)


@dataclass(frozen=True)
class Entry:
    """An optimizer with options that suit the problems below.

    Attributes:
        name: Of the test.
        make: Makes it of parameters (or pairs of names and parameters), a learning rate and options.
        lr: The learning rate.
        constant_step: Whether its steps keep their length as the gradient shrinks: the rate is lowered then.
        steep: By what the rate is multiplied in the Rosenbrock valley.
        coupled: Whether a parameter's step depends on the other parameters' gradients.
    """

    name: str
    make: Callable[..., torch.optim.Optimizer]
    lr: float
    constant_step: bool = False
    steep: float = 1.0
    coupled: bool = False

    @property
    def manifolds(self):
        return self.name.startswith("Riemannian")


def hidden(optimizer, **fixed):
    """Make an optimizer for hidden matrices of any parameters: kernels are matrices, the rest goes to AdamW."""

    def make(params, lr, **options):
        items = list(params)
        named = isinstance(items[0], tuple)
        matrices = [i for i in items if (i[1] if named else i).ndim > 1]
        rest = [i for i in items if (i[1] if named else i).ndim < 2]
        spare = nn.Parameter(torch.zeros(2, 2))  # has no gradient; some optimizers below have no matrix to move
        groups = [{"params": matrices or [("spare", spare) if named else spare], "layout": "conv"}]
        if rest:
            groups.append({"params": rest, "rule": "adamw", "lr": lr})
        return optimizer(groups, lr, **fixed, **options)

    return make


FLOAT32 = {"compute_dtype": "float32"}  # so that stacks give the same numbers as single matrices

OPTIMIZERS = [
    Entry("RiemannianSGD", RiemannianSGD, 0.3, steep=0.003),
    Entry("RiemannianSGD, momentum", lambda p, lr, **o: RiemannianSGD(p, lr, momentum=0.9, **o), 0.03, steep=0.003),
    Entry(
        "RiemannianSGD, nesterov",
        lambda p, lr, **o: RiemannianSGD(p, lr, momentum=0.9, nesterov=True, **o),
        0.03,
        steep=0.003,
    ),
    Entry("RiemannianAdam", RiemannianAdam, 0.05),
    Entry(
        "RiemannianAdam, columns, amsgrad",
        lambda p, lr, **o: RiemannianAdam(p, lr, amsgrad=True, second_moment="per-column", **o),
        0.05,
    ),
    Entry("AdamP", AdamP, 0.05),
    Entry("AdamP, nesterov", lambda p, lr, **o: AdamP(p, lr, nesterov=True, **o), 0.05),
    Entry("SGDP", lambda p, lr, **o: SGDP(p, lr, momentum=0.9, **o), 0.03, steep=0.003),
    Entry(
        "GeneralizedSignSGD",
        lambda p, lr, **o: GeneralizedSignSGD(p, lr, betas=(0.9, 0.8), **o),
        0.03,
        constant_step=True,
    ),
    Entry("SignSGD", lambda p, lr, **o: GeneralizedSignSGD(p, lr, betas=(0.9, 0.0), **o), 0.05, constant_step=True),
    Entry(
        "GeneralizedSignSGD, corrected",
        lambda p, lr, **o: GeneralizedSignSGD(p, lr, betas=(0.9, 0.8), bias_correction=True, **o),
        0.03,
        constant_step=True,
    ),
    Entry(
        "ClippedSGD", lambda p, lr, **o: ClippedSGD(p, lr, clip=0.5, momentum=0.9, **o), 0.03, steep=0.003, coupled=True
    ),
    Entry("NormalizedSGD", lambda p, lr, **o: NormalizedSGD(p, lr, momentum=0.9, **o), 0.05, True, coupled=True),
    Entry("Muon", hidden(Muon, **FLOAT32), 0.05, constant_step=True),
    Entry("Muon, accurate", hidden(Muon, polar="accurate", nesterov=False, **FLOAT32), 0.05, constant_step=True),
    Entry("NorMuon", hidden(NorMuon, **FLOAT32), 0.05, constant_step=True),
    Entry("NorMuon, rms_match", hidden(NorMuon, norm="rms_match", **FLOAT32), 0.3, constant_step=True),
    Entry("AuON", hidden(AuON), 0.05, constant_step=True),
    Entry("AuON, released", hidden(AuON, variant="released"), 0.5, steep=0.003),
    Entry("HybridAuON", hidden(HybridAuON, **FLOAT32), 0.05, constant_step=True),
    Entry("DCTAdamW", hidden(DCTAdamW, rank=0.5, weight_decay=0.0), 0.05),
    Entry("Trion", hidden(Trion, rank=0.5, weight_decay=0.0, **FLOAT32), 0.05, constant_step=True),
    Entry("Dion", hidden(Dion, rank=0.5, weight_decay=0.0), 0.05, constant_step=True),
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
        self.conv = nn.Conv2d(1, 3, (1, 2), bias=False)
        self.column = nn.Linear(1, 5, bias=False)
        self.gain = nn.Parameter(torch.tensor(1.0))
        self.frozen = nn.Linear(3, 3)
        self.frozen.requires_grad_(False)

    def forward(self, x):
        h = torch.tanh(self.twin(torch.tanh(self.square(x))))
        h = self.wide(torch.tanh(self.tall(h)))
        h = self.conv(h[:, None, None]).mean((1, 2))
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


CASES = [(entry, c) for entry in OPTIMIZERS for c in (CONSTRAINTS if entry.manifolds else ["free"])]


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])
