"""Orthogonalizers, Haar sampling, Lanczos, guarded decompositions: pure functions of tensors."""

from isometry.linalg._eigh import Eigenvalues, Eigh, eigh, eigvalsh
from isometry.linalg._haar import haar
from isometry.linalg._normal import standard_normal
from isometry.linalg._qf import qf
from isometry.linalg._svd import SVD, SingularValues, svd, svdvals

__all__ = [
    # random matrices
    "haar",
    "standard_normal",
    # orthonormal factors
    "qf",
    # dense decompositions: scaled, retried, deterministic in their signs
    "Eigenvalues",
    "Eigh",
    "SVD",
    "SingularValues",
    "eigh",
    "eigvalsh",
    "svd",
    "svdvals",
]
