"""Orthogonalizers, Haar sampling, Lanczos, guarded decompositions: pure functions of tensors."""

from isometry.linalg._coefficients import COEFFICIENTS, Coefficients, minimax_quintics
from isometry.linalg._conv_defect import conv_defect
from isometry.linalg._conv_existence import (
    ConvCase,
    ConvExistence,
    ConvPadding,
    conv_case,
    orthogonal_convolution_exists,
)
from isometry.linalg._conv_matrix import conv_matrix
from isometry.linalg._conv_spectrum import ConvSingularValues, conv_singular_values
from isometry.linalg._dct import DCTRoute, dct, dct_matrix
from isometry.linalg._diagonal import DiagonalEstimate, estimate_diagonal
from isometry.linalg._eigh import Eigenvalues, Eigh, eigh, eigvalsh
from isometry.linalg._golub_kahan import SingularExtremes, golub_kahan
from isometry.linalg._haar import haar, haar_
from isometry.linalg._isometry_bound import IsometryBound, isometry_bound
from isometry.linalg._lanczos import LanczosResult, lanczos
from isometry.linalg._normal import standard_normal
from isometry.linalg._orthogonalize import orthogonality_defect, orthogonalize
from isometry.linalg._polar import Polar, polar
from isometry.linalg._qf import qf
from isometry.linalg._randomized_svd import RandomizedSVD, randomized_svd
from isometry.linalg._spectral_density import SpectralDensity, spectral_density
from isometry.linalg._svd import SVD, SingularValues, svd, svdvals
from isometry.linalg._trace import TraceEstimate, TraceMethod, estimate_trace

__all__ = [
    # random matrices
    "haar",
    "haar_",
    "standard_normal",
    # orthonormal factors
    "Polar",
    "orthogonality_defect",
    "orthogonalize",
    "polar",
    "qf",
    # the discrete cosine transform of rows, and its matrix
    "DCTRoute",
    "dct",
    "dct_matrix",
    # Newton-Schulz coefficient sets, each with its source
    "COEFFICIENTS",
    "Coefficients",
    "minimax_quintics",
    # dense decompositions: scaled, retried, deterministic in their signs
    "Eigenvalues",
    "Eigh",
    "SVD",
    "SingularValues",
    "eigh",
    "eigvalsh",
    "svd",
    "svdvals",
    # a truncated decomposition with an error bound
    "RandomizedSVD",
    "randomized_svd",
    # extremes of operators that are only known by their products
    "LanczosResult",
    "SingularExtremes",
    "golub_kahan",
    "lanczos",
    # convolutions as matrices between whole images, from their kernels
    "ConvCase",
    "ConvExistence",
    "ConvPadding",
    "ConvSingularValues",
    "IsometryBound",
    "conv_case",
    "conv_defect",
    "conv_matrix",
    "conv_singular_values",
    "isometry_bound",
    "orthogonal_convolution_exists",
    # whole-spectrum quantities of such operators, from random probes
    "DiagonalEstimate",
    "SpectralDensity",
    "TraceEstimate",
    "TraceMethod",
    "estimate_diagonal",
    "estimate_trace",
    "spectral_density",
]
