"""Reference models that papers, tests and the command line share, MODEL references, and orthogonality penalties.

Reference models start with PyTorch's own default initialization: that is the case that users have.
"""

from isometry.linalg import ConvCase, ConvExistence, conv_case, orthogonal_convolution_exists
from isometry.nn._activations import Elementwise, activation_module, activation_names
from isometry.nn._convolutional import convolutional
from isometry.nn._gpt import GPT, CausalAttention
from isometry.nn._orthogonal_convolution import orthogonal_convolution_penalty
from isometry.nn._orthogonality import OrthogonalityRegularizer, orthogonality_penalty
from isometry.nn._penalty_plan import PenaltyKind, PenaltyRow
from isometry.nn._perceptron import perceptron
from isometry.nn._rate_network import RateNetwork
from isometry.nn._recurrent import LastStep
from isometry.nn._reference import REFERENCE_MODELS, reference_model
from isometry.nn._residual import Residual, residual_network
from isometry.nn._resolve import resolve_model
from isometry.nn._spec import ModelKind, Option
from isometry.nn._timm import timm_model
from isometry.nn._transformer import Attention, Transformer
from isometry.nn._transformers import (
    default_data,
    is_foreign,
    is_pretrained,
    named_inputs,
    positions_reference,
    tokenizer_of,
    transformers_model,
)

__all__ = [
    # from a reference to a model
    "reference_model",
    "resolve_model",
    "REFERENCE_MODELS",
    "ModelKind",
    "Option",
    # models of other libraries
    "transformers_model",
    "timm_model",
    "named_inputs",
    "is_foreign",
    "is_pretrained",
    "default_data",
    "tokenizer_of",
    "positions_reference",
    # the reference models' parts
    "perceptron",
    "convolutional",
    "residual_network",
    "Residual",
    "LastStep",
    "RateNetwork",
    "Attention",
    "Transformer",
    "CausalAttention",
    "GPT",
    # penalties that draw weights towards orthogonality
    "orthogonality_penalty",
    "OrthogonalityRegularizer",
    "PenaltyKind",
    "PenaltyRow",
    "orthogonal_convolution_penalty",
    # whether a convolution can be orthogonal at all
    "orthogonal_convolution_exists",
    "conv_case",
    "ConvExistence",
    "ConvCase",
    # activations by name
    "activation_module",
    "activation_names",
    "Elementwise",
]
