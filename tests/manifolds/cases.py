"""The manifolds and shapes that every test of the geometry runs over."""

from __future__ import annotations

import torch

from isometry.manifolds import Oblique, Orthogonal, Stiefel

MANIFOLDS = {
    "stiefel": Stiefel(),
    "stiefel canonical": Stiefel("canonical"),
    "orthogonal": Orthogonal(),
    "oblique": Oblique(),
    "oblique columns": Oblique(dim=-2),
    "oblique rows": Oblique(dim=-1),
}
# tall, wide, square, one short of square (n - p = 1), more than half as wide, a vector either way, a number, batches
SHAPES = [(7, 3), (3, 7), (5, 5), (5, 4), (6, 1), (1, 6), (1, 1), (4, 6, 4), (2, 3, 2, 5)]
CASES = [
    (name, shape)
    for name, manifold in MANIFOLDS.items()
    for shape in SHAPES
    if not isinstance(manifold, Orthogonal) or shape[-1] == shape[-2]
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(shape, seed=1, dtype=torch.float64):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def upright(manifold, x):
    return x.mT if manifold.transposes(x.shape) else x


def point_and_tangent(manifold, shape, length=1.0, seed=0):
    """A random point and a tangent vector whose every matrix has the given length."""
    x = manifold.random(*shape, dtype=torch.float64, generator=seeded(seed))
    v = manifold.tangent(x, gaussian(shape, seed + 1))
    norms = torch.linalg.vector_norm(v, dim=(-2, -1), keepdim=True)
    return x, v * (length / norms.clamp_min(1e-300))
