"""Measurements on a model: what they need is computed from its own passes, and they leave no trace on it.

Each result is frozen, prints itself, and knows what it cost.
"""

from isometry._base import PeerError
from isometry.measure._bounds import Bound
from isometry.measure._confusion import gradient_confusion
from isometry.measure._confusion_gram import GradientGram, gradient_gram
from isometry.measure._confusion_result import GradientConfusion, LayerConfusion
from isometry.measure._correlators import Correlators, correlators
from isometry.measure._coverage import Coverage, Uncovered
from isometry.measure._curvature import curvature
from isometry.measure._curvature_result import Curvature
from isometry.measure._data_parallel import data_parallel
from isometry.measure._effective_rank import effective_rank
from isometry.measure._ensemble_stats import PreactivationStats, preactivation_stats
from isometry.measure._fisher import fisher
from isometry.measure._fisher_groups import GroupSpectra
from isometry.measure._fisher_layers import LayerSpectrum
from isometry.measure._fisher_result import Condition, Fisher, FisherError
from isometry.measure._guards import ModelCallError
from isometry.measure._jacobian import jacobian
from isometry.measure._jacobian_operator import Jacobian
from isometry.measure._jacobian_result import JacobianExtremes, JacobianSpectrum
from isometry.measure._laziness import laziness
from isometry.measure._laziness_result import Laziness, RepresentationChange, WeightChange
from isometry.measure._moments import RangeRisk
from isometry.measure._ntk import ntk
from isometry.measure._ntk_family import NTKFamily, ntk_family
from isometry.measure._ntk_result import NTK, Alignment
from isometry.measure._signal import signal
from isometry.measure._signal_result import ActivationSignal, LayerSignal, SignalResult
from isometry.measure._smoothness import local_smoothness
from isometry.measure._smoothness_result import LocalSmoothness, ParameterSmoothness, SmoothnessFit, fit_l0_l1
from isometry.measure._snapshots import Snapshots

__all__ = [
    # the signal, layer by layer
    "signal",
    "SignalResult",
    "LayerSignal",
    "ActivationSignal",
    "RangeRisk",
    # the Jacobian, whole or between two modules
    "jacobian",
    "Jacobian",
    "JacobianSpectrum",
    "JacobianExtremes",
    # the Fisher information matrix and its whole spectrum
    "fisher",
    "Fisher",
    "Condition",
    "LayerSpectrum",
    "GroupSpectra",
    "Coverage",
    "Uncovered",
    "Bound",
    "FisherError",
    # the neural tangent kernel
    "ntk",
    "NTK",
    "Alignment",
    # how far training moved weights, representations and the kernel; a matrix's rank
    "laziness",
    "Laziness",
    "WeightChange",
    "RepresentationChange",
    "effective_rank",
    # ensembles of small networks: fluctuations of signals and tangent kernels
    "preactivation_stats",
    "PreactivationStats",
    "correlators",
    "Correlators",
    "ntk_family",
    "NTKFamily",
    # how the gradients of different samples oppose each other
    "gradient_confusion",
    "GradientConfusion",
    "LayerConfusion",
    "gradient_gram",
    "GradientGram",
    # how fast the gradient changes along a training, beside how large it is
    "local_smoothness",
    "LocalSmoothness",
    "ParameterSmoothness",
    "Snapshots",
    "fit_l0_l1",
    "SmoothnessFit",
    # the curvature of the loss: Hessian and Gauss-Newton matrix
    "curvature",
    "Curvature",
    # several processes
    "data_parallel",
    # errors
    "ModelCallError",
    "PeerError",
]
