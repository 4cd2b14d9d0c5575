"""Recurrent classifiers: read the sequence, answer from the last step."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from isometry.nn._images import AsSequence, sequence_shape

__all__ = ["LastStep", "gru_network", "lstm_network", "rnn_network"]


class LastStep(nn.Module):
    """Run a batch-first recurrent module and keep its output at the last step.

    Args:
        recurrent: An ``nn.RNN``, ``nn.GRU`` or ``nn.LSTM`` with ``batch_first=True``.
    """

    def __init__(self, recurrent: nn.RNNBase) -> None:
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.recurrent(x)[0]
        return output[:, -1]


def rnn_network(
    in_shape: tuple[int, ...], classes: int, *, width: int = 64, depth: int = 1, activation: str = "tanh"
) -> nn.Sequential:
    """Build a classifier on a plain recurrent network.

    Args:
        in_shape: Shape of one input, read as a sequence.
        classes: Number of outputs.
        width: Units of the hidden state.
        depth: Stacked recurrent layers.
        activation: "tanh" or "relu".

    Returns:
        The model, with PyTorch's default initialization.
    """
    features = sequence_shape("rnn", in_shape)[1]
    return _network(nn.RNN(features, width, depth, nonlinearity=activation, batch_first=True), classes)


def gru_network(in_shape: tuple[int, ...], classes: int, *, width: int = 64, depth: int = 1) -> nn.Sequential:
    """Build a classifier on a gated recurrent unit.

    Args:
        in_shape: Shape of one input, read as a sequence.
        classes: Number of outputs.
        width: Units of the hidden state.
        depth: Stacked recurrent layers.

    Returns:
        The model, with PyTorch's default initialization.
    """
    return _network(nn.GRU(sequence_shape("gru", in_shape)[1], width, depth, batch_first=True), classes)


def lstm_network(in_shape: tuple[int, ...], classes: int, *, width: int = 64, depth: int = 1) -> nn.Sequential:
    """Build a classifier on a long short-term memory.

    Args:
        in_shape: Shape of one input, read as a sequence.
        classes: Number of outputs.
        width: Units of the hidden state.
        depth: Stacked recurrent layers.

    Returns:
        The model, with PyTorch's default initialization.
    """
    return _network(nn.LSTM(sequence_shape("lstm", in_shape)[1], width, depth, batch_first=True), classes)


def _network(recurrent: nn.RNNBase, classes: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            sequence=AsSequence(), hidden=LastStep(recurrent), output=nn.Linear(recurrent.hidden_size, classes)
        )
    )
