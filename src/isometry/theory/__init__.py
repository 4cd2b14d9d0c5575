"""Predictions that need no model: mean-field signal propagation and the law of the Jacobian's singular values.

``linear_dynamics`` has the exact learning curves of deep linear networks.

Everything is computed in float64, by closed forms where they exist and by quadrature that is checked against them.
"""

from isometry.theory import linear_dynamics
from isometry.theory._activation import Activation
from isometry.theory._expected_alignment import expected_alignment, tangent_form
from isometry.theory._finite_width import EnsembleWeights, FourPointVertex, finite_width
from isometry.theory._jacobian_law import Atom, JacobianLaw, jacobian_law
from isometry.theory._mean_field import MeanField
from isometry.theory._quadrature import QuadratureError
from isometry.theory._resolve import activation_names, activation_of
from isometry.theory._results import (
    CriticalLine,
    CriticalPoint,
    DepthScales,
    FixedPoint,
    NoCriticalPointError,
    PhaseDiagram,
    SignalProfile,
)
from isometry.theory._sgd_bound import SgdBound, sgd_bound
from isometry.theory._universality import UniversalEdges, universal_edges
from isometry.theory._wide_kernels import WideKernels, wide_kernels

__all__ = [
    # signals and gradients in wide random networks
    "CriticalLine",
    "CriticalPoint",
    "DepthScales",
    "FixedPoint",
    "MeanField",
    "NoCriticalPointError",
    "PhaseDiagram",
    "SignalProfile",
    # the singular values of their Jacobians
    "Atom",
    "JacobianLaw",
    "UniversalEdges",
    "jacobian_law",
    "universal_edges",
    # the kernels of infinitely wide chains
    "WideKernels",
    "wide_kernels",
    # fluctuations between networks of finite width
    "EnsembleWeights",
    "FourPointVertex",
    "finite_width",
    # how deep linear networks learn, and how far their tangent kernel turns while they do
    "linear_dynamics",
    "expected_alignment",
    "tangent_form",
    # what gradient confusion lets stochastic gradient descent reach
    "SgdBound",
    "sgd_bound",
    # activations and averages
    "Activation",
    "QuadratureError",
    "activation_names",
    "activation_of",
]
