"""Measurements on a model: what they need is computed from its own passes, and they leave no trace on it.

Each result is frozen, prints itself, and knows what it cost.
"""

from isometry.measure._bounds import Bound
from isometry.measure._fisher import fisher
from isometry.measure._fisher_layers import LayerSpectrum
from isometry.measure._fisher_result import Condition, Fisher, FisherError
from isometry.measure._guards import ModelCallError
from isometry.measure._jacobian import jacobian
from isometry.measure._jacobian_operator import Jacobian
from isometry.measure._jacobian_result import JacobianExtremes, JacobianSpectrum
from isometry.measure._moments import RangeRisk
from isometry.measure._signal import signal
from isometry.measure._signal_result import ActivationSignal, LayerSignal, SignalResult

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
    "Bound",
    "FisherError",
    # errors
    "ModelCallError",
]
