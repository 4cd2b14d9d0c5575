"""The table of reference models, and how a specification becomes one of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import MappingProxyType

import torch
from torch import nn

from isometry._base import base_seed, preserved_rng
from isometry.nn._convolutional import convolutional
from isometry.nn._gpt import gpt
from isometry.nn._perceptron import perceptron
from isometry.nn._recurrent import gru_network, lstm_network, rnn_network
from isometry.nn._residual import residual_network
from isometry.nn._spec import ModelKind, Option, parse_spec
from isometry.nn._transformer import transformer

__all__ = ["REFERENCE_MODELS", "reference_model"]

_NORM = Option("none", "normalization of the pre-activations", choices=("none", "layer", "batch"))


def _count(default: int, what: str) -> Option:
    return Option(default, what, minimum=1)


REFERENCE_MODELS = MappingProxyType(
    {
        "mlp": ModelKind(
            "a perceptron: flatten, hidden layers, output layer",
            {
                "depth": _count(10, "hidden layers"),
                "width": _count(100, "units per hidden layer"),
                "activation": Option("tanh", "elementwise activation"),
                "bias": Option(True, "biases in the hidden layers"),
                "norm": _NORM,
                "residual": Option(False, "hidden layers after the first add to their input"),
            },
            perceptron,
        ),
        "cnn": ModelKind(
            "a plain convolutional network on images",
            {
                "depth": _count(10, "convolutions"),
                "channels": _count(32, "channels per convolution"),
                "kernel": _count(3, "side of the kernels, odd"),
                "activation": Option("relu", "elementwise activation"),
                "bias": Option(True, "biases in the convolutions"),
                "norm": _NORM,
                "padding": Option("zeros", "padding of the convolutions", choices=("zeros", "circular")),
                "stride": _count(1, "stride of the first convolution"),
                "pool": Option(True, "average over positions before the output layer"),
            },
            convolutional,
        ),
        "resnet": ModelKind(
            "a pre-activation residual network, convolutional on images and linear otherwise",
            {
                "depth": _count(10, "residual blocks of two weight layers"),
                "width": _count(32, "channels or units"),
                "activation": Option("relu", "elementwise activation"),
                "norm": _NORM,
                "layers": Option("auto", "kind of the weight layers", choices=("auto", "conv", "linear")),
                "branch_scale": Option(1.0, "fixed factor on every branch", minimum=0.0),
            },
            residual_network,
        ),
        "rnn": ModelKind(
            "a plain recurrent classifier",
            {
                "width": _count(64, "units of the hidden state"),
                "depth": _count(1, "stacked recurrent layers"),
                "activation": Option("tanh", "activation of the hidden state", choices=("tanh", "relu")),
            },
            rnn_network,
        ),
        "gru": ModelKind(
            "a classifier on a gated recurrent unit",
            {"width": _count(64, "units of the hidden state"), "depth": _count(1, "stacked recurrent layers")},
            gru_network,
        ),
        "lstm": ModelKind(
            "a classifier on a long short-term memory",
            {"width": _count(64, "units of the hidden state"), "depth": _count(1, "stacked recurrent layers")},
            lstm_network,
        ),
        "transformer": ModelKind(
            "a small transformer encoder classifier on sequences",
            {
                "depth": _count(2, "blocks"),
                "width": _count(32, "features per token"),
                "heads": _count(4, "attention heads"),
                "activation": Option("gelu", "elementwise activation"),
                "norm": Option("pre", "place of the normalization", choices=("pre", "post", "none")),
                "vocabulary": Option(0, "above 0: inputs are integer tokens below this number", minimum=0),
            },
            transformer,
        ),
        "gpt": ModelKind(
            "a small causal language model on tokens, which scores the next token at every position",
            {
                "depth": _count(2, "blocks"),
                "width": _count(64, "features per token"),
                "heads": _count(4, "attention heads"),
                "activation": Option("gelu", "elementwise activation"),
                "norm": Option("pre", "place of the normalization", choices=("pre", "post", "none")),
                "tied": Option(False, "head and embedding share their weight"),
            },
            gpt,
        ),
    }
)


def reference_model(
    spec: str, *, in_shape: tuple[int, ...], classes: int, generator: torch.Generator | None = None
) -> nn.Module:
    """Build a reference model from its specification, with PyTorch's default initialization.

    Args:
        spec: ``kind`` or ``kind:option=value,...``, as in ``mlp:depth=100,width=100,activation=tanh``; the kinds and
            their options are listed in ``REFERENCE_MODELS``. ``depth`` counts hidden layers (blocks for ``resnet``,
            ``transformer`` and ``gpt``).
        in_shape: Shape of one input, without the batch.
        classes: Number of outputs.
        generator: Source of the seed; without one torch's global generator is used.

    Returns:
        The model, in training mode.

    Raises:
        ValueError: If the specification, ``in_shape`` or ``classes`` is wrong; the message says what to write.
        TypeError: If ``spec`` is not a string.

    Example:
        >>> model = reference_model("mlp:depth=3,width=8,activation=relu", in_shape=(64,), classes=10)
        >>> model.hidden[2].linear
        Linear(in_features=8, out_features=8, bias=True)
    """
    if not isinstance(spec, str):
        raise TypeError(f"spec must be a string such as 'mlp:depth=3', got {type(spec).__name__}.")
    kind, options = parse_spec(spec, REFERENCE_MODELS)
    shape = check_shape(in_shape)
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise ValueError(f"classes must be a whole number >= 1, got {classes!r}.")
    with _in_memory(spec):
        if generator is None:
            return kind.build(shape, classes, **options)
        with preserved_rng():
            torch.manual_seed(base_seed(generator))
            return kind.build(shape, classes, **options)


_TOO_LARGE = ("can't allocate memory", "not enough memory", "out of memory", "overflow")  # in torch's words


@contextlib.contextmanager
def _in_memory(spec: str) -> Iterator[None]:
    """Build a model, or say that it is too large.

    Yields:
        Nothing.

    Raises:
        ValueError: If there is not enough memory.
        RuntimeError: What else torch turns down.
        TypeError: Likewise.
    """
    try:
        yield
    except (RuntimeError, TypeError) as error:
        if not any(words in str(error).lower() for words in _TOO_LARGE):
            raise
        raise ValueError(f"{spec!r} is larger than this machine's memory; take smaller layers, or fewer.") from error


def check_shape(in_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Insist on a shape of one input: at least one axis, none empty.

    Returns:
        The shape as a tuple of ints.

    Raises:
        ValueError: If it has no axis or an empty one.
    """
    shape = tuple(int(size) for size in in_shape)
    if not shape or min(shape) < 1:
        raise ValueError(f"in_shape must have at least one axis and none empty, got {shape}; leave out the batch axis.")
    return shape
