"""Initializers: of tensors (in place, trailing underscore; the pure twin makes a new tensor) and of whole models."""

from isometry.init._delta_orthogonal import delta_orthogonal, delta_orthogonal_
from isometry.init._gaussian import gaussian, gaussian_
from isometry.init._orthogonal import orthogonal, orthogonal_

__all__ = [
    # one tensor
    "delta_orthogonal",
    "delta_orthogonal_",
    "gaussian",
    "gaussian_",
    "orthogonal",
    "orthogonal_",
]
