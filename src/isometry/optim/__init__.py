"""Optimizers: how weights move. One base, one file a method; every method works on all shapes of parameters.

Constrained weights (``isometry.manifolds.constrain_``) stay on their manifold under the optimizers whose
``manifold_aware`` is true. Methods for hidden matrices take the groups that ``isometry.roles.route`` makes, and move
everything else by AdamW in the same object.
"""

from isometry.optim._base import Optimizer
from isometry.optim._matrix import MatrixOptimizer
from isometry.optim._muon import Muon, muon_update
from isometry.optim._riemannian_adam import RiemannianAdam
from isometry.optim._riemannian_sgd import RiemannianSGD
from isometry.optim._update_scale import scale_factor

__all__ = [
    # on manifolds, and ordinary parameters beside
    "RiemannianSGD",
    "RiemannianAdam",
    # hidden matrices by a method, the rest by AdamW
    "Muon",
    "muon_update",
    # the size of an update
    "scale_factor",
    # what they have in common
    "Optimizer",
    "MatrixOptimizer",
]
