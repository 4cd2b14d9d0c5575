"""Manifolds of matrices (Stiefel, oblique, orthogonal), and the constraints that keep a model's weights on them.

The geometry is functions of batched matrices: projections, gradients, retractions, geodesics. ``constrain_`` puts the
weights of a model on a manifold and marks them; the optimizers of ``isometry.optim`` keep them there.
"""

from isometry.manifolds._constrain import constrain_
from isometry.manifolds._constraint import Constraint
from isometry.manifolds._defect import Defect
from isometry.manifolds._manifold import Manifold
from isometry.manifolds._oblique import Oblique
from isometry.manifolds._orthogonal import Orthogonal
from isometry.manifolds._registry import constraint_of
from isometry.manifolds._release import bake, check, constraints, release
from isometry.manifolds._retraction import Retraction
from isometry.manifolds._stiefel import Stiefel
from isometry.manifolds._tables import ConstraintRow, ConstraintTable, DefectRow, DefectTable

__all__ = [
    # the geometry
    "Stiefel",
    "Oblique",
    "Orthogonal",
    "Manifold",
    "Retraction",
    "Defect",
    # a model's weights: on, look, off
    "constrain_",
    "ConstraintTable",
    "ConstraintRow",
    "check",
    "DefectTable",
    "DefectRow",
    "constraints",
    "release",
    "bake",
    # what an optimizer asks
    "constraint_of",
    "Constraint",
]
