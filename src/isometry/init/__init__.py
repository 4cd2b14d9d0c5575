"""Initializers: of tensors (in place, trailing underscore; the pure twin makes a new tensor) and of whole models."""

from isometry.init._aligned import aligned_
from isometry.init._connectivity import from_connectivity, from_connectivity_
from isometry.init._critical import critical_
from isometry.init._delta_orthogonal import delta_orthogonal, delta_orthogonal_
from isometry.init._gaussian import gaussian, gaussian_
from isometry.init._inputs import scale_inputs
from isometry.init._low_rank import low_rank, low_rank_
from isometry.init._operating_point import OperatingPoint, operating_point
from isometry.init._orthogonal import orthogonal, orthogonal_
from isometry.init._orthogonal_convolution import orthogonal_convolution, orthogonal_convolution_
from isometry.init._table import InitRow, InitTable, LayerCheck

__all__ = [
    # one tensor
    "delta_orthogonal",
    "delta_orthogonal_",
    "gaussian",
    "gaussian_",
    "orthogonal",
    "orthogonal_",
    "orthogonal_convolution",
    "orthogonal_convolution_",
    # one matrix of a given structure: its rank, its wiring, its direction
    "low_rank",
    "low_rank_",
    "from_connectivity",
    "from_connectivity_",
    "aligned_",
    # a whole model
    "critical_",
    "InitTable",
    "InitRow",
    "LayerCheck",
    "OperatingPoint",
    "operating_point",
    # its inputs
    "scale_inputs",
]
