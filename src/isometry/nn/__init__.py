"""Reference models that papers, tests and the command line share, and the resolution of MODEL references.

Reference models start with PyTorch's own default initialization: that is the case that users have.
"""

from isometry.nn._activations import Elementwise, activation_module, activation_names
from isometry.nn._convolutional import convolutional
from isometry.nn._perceptron import perceptron
from isometry.nn._recurrent import LastStep
from isometry.nn._reference import REFERENCE_MODELS, reference_model
from isometry.nn._residual import Residual, residual_network
from isometry.nn._resolve import resolve_model
from isometry.nn._spec import ModelKind, Option
from isometry.nn._timm import timm_model
from isometry.nn._transformer import Attention, Transformer
from isometry.nn._transformers import default_data, is_foreign, named_inputs, tokenizer_of, transformers_model

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
    "default_data",
    "tokenizer_of",
    # the reference models' parts
    "perceptron",
    "convolutional",
    "residual_network",
    "Residual",
    "LastStep",
    "Attention",
    "Transformer",
    # activations by name
    "activation_module",
    "activation_names",
    "Elementwise",
]
