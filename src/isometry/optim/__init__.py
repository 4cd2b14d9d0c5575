"""Optimizers: how weights move. One base, one file a method; every method works on all shapes of parameters.

Constrained weights (``isometry.manifolds.constrain_``) stay on their manifold under the optimizers whose
``manifold_aware`` is true.
"""

from isometry.optim._base import Optimizer
from isometry.optim._riemannian_adam import RiemannianAdam
from isometry.optim._riemannian_sgd import RiemannianSGD

__all__ = [
    # on manifolds, and ordinary parameters beside
    "RiemannianSGD",
    "RiemannianAdam",
    # what they have in common
    "Optimizer",
]
