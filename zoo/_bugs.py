"""Networks with a bug in them, some fatal and some harmless."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo._entry import enter
from zoo._plain import HE, WIDTH, gaussian, mlp
from zoo._structured import Recurrent, conv, residual

# No initialization reaches these: the model's code, or a value that is frozen, keeps it from training.
IN_THE_CODE = (
    "frozen-head-zero",
    "detached-output",
    "over-batch",
    "softmax-output",
    "sigmoid-output",
    "dropout-all",
)


class Detached(nn.Module):
    """Cuts the graph."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


class OverBatch(nn.Module):
    """Averages over the wrong axis: the samples."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(0, keepdim=True).expand_as(x)


class Dimmed(nn.Module):
    """Multiplies by a constant that somebody forgot."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def spoiled(
    spoil: Callable[[nn.Sequential], object], activation: type[nn.Module] = nn.ReLU, depth: int = 4
) -> nn.Module:
    """A healthy perceptron, then one thing wrong with it."""
    model = mlp(activation, depth, HE if activation is nn.ReLU else gaussian(1.0))
    with torch.no_grad():
        spoil(model)
    return model


def zero(*indices: int) -> Callable[[nn.Sequential], object]:
    return lambda model: [p.zero_() for i in indices for p in model[i].parameters()]


def fill(index: int, parameter: str, value: float) -> Callable[[nn.Sequential], object]:
    return lambda model: getattr(model[index], parameter).fill_(value)


def scale(index: int, factor: float) -> Callable[[nn.Sequential], object]:
    return lambda model: model[index].weight.mul_(factor)


def freeze(*indices: int) -> Callable[[nn.Sequential], object]:
    return lambda model: [p.requires_grad_(False) for i in indices for p in model[i].parameters()]


def put(index: int, module: Callable[[], nn.Module]) -> Callable[[nn.Sequential], object]:
    return lambda model: model.insert(index, module())


def one_nan(model: nn.Sequential) -> None:
    model[2].weight[3, 5] = float("nan")


def symmetric(model: nn.Sequential) -> None:
    for p in model.parameters():
        p.fill_(1.0 / WIDTH)


def all_zero(model: nn.Sequential) -> None:
    for p in model.parameters():
        p.zero_()


def frozen_body_zero_head(model: nn.Sequential) -> None:
    zero(8)(model)
    freeze(0, 2, 4, 6)(model)


def shut_gates() -> nn.Module:
    model = Recurrent(nn.LSTM)
    with torch.no_grad():
        model.rnn.bias_ih_l0[: 2 * 48].fill_(-20.0)  # input and forget gates closed
    return model


def bug(
    name: str, spoil: Callable[[nn.Sequential], object], activation: type[nn.Module] = nn.ReLU, depth: int = 4
) -> None:
    enter(f"bug-{name}", lambda: spoiled(spoil, activation, depth), code=name in IN_THE_CODE)


bug("zero-layer-relu", zero(4))
bug("zero-layer-tanh", zero(4), nn.Tanh)
bug("zero-two-layers-tanh", zero(2, 4), nn.Tanh)
bug("zero-head", zero(8))
bug("zero-everything", all_zero)
bug("dead-relu-bias", fill(4, "bias", -100.0))
bug("dead-relu-some", lambda m: m[4].bias[:40].fill_(-100.0))
bug("saturated-tanh-one", scale(2, 100.0), nn.Tanh)
bug("saturated-tanh-all", lambda m: [scale(i, 100.0)(m) for i in (0, 2, 4, 6)], nn.Tanh)
bug("saturated-sigmoid-bias", fill(4, "bias", 50.0), nn.Sigmoid)
bug("nan-weight", one_nan)
bug("inf-bias", fill(4, "bias", float("inf")))
bug("head-x30", scale(8, 30.0))
bug("head-x1e4", scale(8, 1e4))
bug("head-x1e8", scale(8, 1e8))
bug("symmetric", symmetric)
bug("frozen-body", freeze(0, 2, 4, 6))
bug("frozen-middle", freeze(2, 4))
bug("frozen-body-zero-head", frozen_body_zero_head)
bug("frozen-head-zero", lambda m: [zero(8)(m), freeze(8)(m)])
bug("detached-middle", put(4, Detached))
bug("detached-output", put(9, Detached))
bug("over-batch", put(6, OverBatch))
bug("softmax-output", put(9, lambda: nn.Softmax(1)))
bug("sigmoid-output", put(9, nn.Sigmoid))
bug("relu-output", put(9, nn.ReLU))
bug("log-softmax-output", put(9, lambda: nn.LogSoftmax(1)))
bug("dropout-half", put(6, lambda: nn.Dropout(0.5)))
bug("dropout-all", put(6, lambda: nn.Dropout(1.0)))
bug("dimmed-1e-6", put(6, lambda: Dimmed(1e-6)))
bug("dimmed-1e-20", put(6, lambda: Dimmed(1e-20)))
bug("amplified-1e6", put(6, lambda: Dimmed(1e6)))
enter("bug-closed-lstm", shut_gates)
enter("bug-zero-conv", lambda: _zero_conv())
enter("bug-residual-zero-branch", lambda: residual(10, init=HE, zero_last=True))
enter("bug-raw-relu", lambda: mlp(nn.ReLU, 3), data="raw")
enter("bug-raw-relu-he", lambda: mlp(nn.ReLU, 6, HE), data="raw")
enter("bug-raw-tanh", lambda: mlp(nn.Tanh, 3), data="raw")
enter("bug-raw-sigmoid", lambda: mlp(nn.Sigmoid, 4), data="raw")
enter("bug-raw-conv", lambda: conv(3), data="raw")
enter("bug-raw-tanh-deep", lambda: mlp(nn.Tanh, 20, gaussian(1.0)), data="raw")


def _zero_conv() -> nn.Module:
    model = conv(6, init=HE)
    with torch.no_grad():
        for p in model[3].parameters():
            p.zero_()
    return model
