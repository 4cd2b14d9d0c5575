"""Claims 3 and 4: updates of rows on several processes, and the sizes of updates."""

from __future__ import annotations

import math

import torch

from isometry.optim import muon_update, normuon_update, orthogonalized

__all__ = ["shards", "sizes"]

WORLD = 4  # simulated processes


def shards(g: torch.Generator) -> dict[str, float]:
    """Measure claim 3: the step of four processes with a quarter of the rows each, from all norms or their own.

    Returns:
        Largest differences from the whole step, and from its rows' statistics.
    """
    orthogonal = orthogonalized(torch.randn(256, 64, generator=g) * torch.rand(256, 1, generator=g), polar="muon")
    squares = torch.rand(256, 1, generator=g) / 64
    whole, new = normuon_update(orthogonal, squares)
    parts = [
        normuon_update(o, s, scale="none") for o, s in zip(orthogonal.chunk(WORLD), squares.chunk(WORLD), strict=True)
    ]
    shape = max(1.0, 256 / 64) ** 0.5
    alone = torch.cat([update for update, _ in parts]) * shape
    # What a process has before norms are restored: O over the root of its rows' mean squares. Two sums are shared.
    raw = [o / (v.sqrt() + 1e-10) for o, (_, v) in zip(orthogonal.chunk(WORLD), parts, strict=True)]
    before = math.sqrt(sum(float(o.square().sum()) for o in orthogonal.chunk(WORLD)))
    after = math.sqrt(sum(float(r.square().sum()) for r in raw))
    together = torch.cat([r * (shape * before / (after + 1e-10)) for r in raw])
    found = {
        "shards/shared": together - whole,
        "shards/alone": alone - whole,
        "shards/rows": torch.cat([v for _, v in parts]) - new,
    }
    return {name: float(gap.abs().max()) for name, gap in found.items()}


def sizes(g: torch.Generator) -> dict[str, float]:
    """Measure claim 4: the root mean square of the entries of updates with match_rms_adamw, over 0.2.

    Returns:
        Least and most over three shapes, and with another scale.
    """
    gradients = [torch.randn(shape, generator=g) for shape in ((64, 64), (64, 1024), (1024, 64))]
    updates = {
        "match_rms_adamw": [muon_update(u, polar="muon", scale="match_rms_adamw") for u in gradients],
        "original": [muon_update(u, polar="muon", scale="original") for u in gradients],
    }
    found: dict[str, float] = {}
    for scale, made in updates.items():
        sizes = [float(update.square().mean().sqrt()) / 0.2 for update in made]
        found |= {f"sizes/{scale}_least": min(sizes), f"sizes/{scale}_most": max(sizes)}
    return found
