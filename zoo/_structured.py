"""Residual, normalized, convolutional, recurrent and attention networks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from isometry.nn import reference_model
from zoo._entry import enter
from zoo._plain import CLASSES, HE, PIXELS, WIDTH, Init, mlp, refill

SIDE = 8


class Residual(nn.Module):
    """x + scale * branch(x)."""

    def __init__(self, branch: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.branch = branch
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.branch(x)


def residual(
    depth: int,
    *,
    init: Init | None = None,
    scale: float = 1.0,
    norm: Callable[[int], nn.Module] | None = None,
    activation: Callable[[], nn.Module] = nn.ReLU,
    zero_last: bool = False,
) -> nn.Sequential:
    blocks: list[nn.Module] = [nn.Linear(PIXELS, WIDTH)]
    for _ in range(depth):
        inside = [nn.Linear(WIDTH, WIDTH), activation(), nn.Linear(WIDTH, WIDTH)]
        if norm is not None:
            inside.insert(0, norm(WIDTH))
        blocks.append(Residual(nn.Sequential(*inside), scale))
    model = nn.Sequential(*blocks, nn.Linear(WIDTH, CLASSES))
    refill(model, init)
    if zero_last:
        for block in blocks[1:]:
            nn.init.zeros_(block.branch[-1].weight)  # type: ignore[union-attr, index]
    return model


def conv(
    depth: int,
    *,
    init: Init | None = None,
    channels: int = 16,
    activation: Callable[[], nn.Module] = nn.ReLU,
    norm: bool = False,
    skip: bool = False,
) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Unflatten(1, (1, SIDE, SIDE))]
    size = 1
    for index in range(depth):
        inside: list[nn.Module] = [nn.Conv2d(size, channels, 3, padding=1)]
        if norm:
            inside.append(nn.BatchNorm2d(channels))
        inside.append(activation())
        block = nn.Sequential(*inside)
        layers.append(Residual(block) if skip and index else block)
        size = channels
    model = nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(channels * 16, CLASSES))
    return refill(model, init)  # type: ignore[return-value]


def delta_orthogonal(weight: Tensor, bias: Tensor | None) -> None:
    with torch.no_grad():
        if weight.ndim == 4 and weight.shape[0] >= weight.shape[1]:
            weight.zero_()
            nn.init.orthogonal_(middle := torch.empty(weight.shape[0], weight.shape[1]))
            weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2] = middle
        else:
            nn.init.orthogonal_(weight)
        if bias is not None:
            bias.zero_()


class Recurrent(nn.Module):
    """Reads the eight rows of an image one after another and answers from the last state."""

    def __init__(
        self, kind: type[nn.RNNBase], hidden: int = 48, layers: int = 1, repeat: int = 1, **options: str
    ) -> None:
        super().__init__()
        self.repeat = repeat
        self.rnn = kind(SIDE, hidden, num_layers=layers, batch_first=True, **options)
        self.head = nn.Linear(hidden, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, SIDE, SIDE)
        if self.repeat > 1:  # blank rows behind the image: the net must remember
            rows = torch.cat([rows, rows.new_zeros(rows.shape[0], SIDE * (self.repeat - 1), SIDE)], 1)
        states, _ = self.rnn(rows)
        return self.head(states[:, -1])


class Attention(nn.Module):
    """Self-attention over the eight rows; with ``bare``, neither residuals nor normalization."""

    def __init__(self, depth: int, *, width: int = 32, norm_first: bool = True, bare: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(SIDE, width)
        self.position = nn.Parameter(0.5 * torch.randn(SIDE, width))
        self.bare = bare
        if bare:
            self.blocks = nn.ModuleList(nn.MultiheadAttention(width, 4, batch_first=True) for _ in range(depth))
        else:
            self.blocks = nn.ModuleList(
                nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=norm_first)
                for _ in range(depth)
            )
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.reshape(-1, SIDE, SIDE)) + self.position
        for block in self.blocks:
            h = block(h, h, h, need_weights=False)[0] if self.bare else block(h)
        return self.head(h.mean(1))


enter("residual-10-default", lambda: residual(10))
enter("residual-30-default", lambda: residual(30))
enter("residual-30-he-unscaled", lambda: residual(30, init=HE))
enter("residual-60-he-unscaled", lambda: residual(60, init=HE))
enter("residual-30-he-scaled", lambda: residual(30, init=HE, scale=1 / math.sqrt(30)))
enter("residual-30-zero-last", lambda: residual(30, init=HE, zero_last=True))
enter("residual-20-prenorm", lambda: residual(20, norm=nn.LayerNorm))
enter("residual-20-tanh", lambda: residual(20, activation=nn.Tanh))

enter("norm-layer-30-relu", lambda: mlp(nn.ReLU, 30, norm=nn.LayerNorm))
enter(
    "residual-50-tanh-ended",
    lambda: reference_model("mlp:depth=51,width=64,activation=tanh,residual=true", in_shape=(PIXELS,), classes=CLASSES),
)
enter("norm-layer-20-tanh", lambda: mlp(nn.Tanh, 20, norm=nn.LayerNorm))
enter("norm-layer-100-relu", lambda: mlp(nn.ReLU, 100, norm=nn.LayerNorm))
enter("norm-batch-10-relu", lambda: mlp(nn.ReLU, 10, norm=nn.BatchNorm1d))
enter("norm-batch-25-relu", lambda: mlp(nn.ReLU, 25, norm=nn.BatchNorm1d))
enter("norm-batch-64-relu", lambda: mlp(nn.ReLU, 64, norm=nn.BatchNorm1d))
enter("norm-batch-10-sigmoid", lambda: mlp(nn.Sigmoid, 10, norm=nn.BatchNorm1d))

enter("conv-3-default", lambda: conv(3))
enter("conv-8-default", lambda: conv(8))
enter("conv-30-default", lambda: conv(30))
enter("conv-20-he", lambda: conv(20, init=HE))
enter("conv-20-delta-tanh", lambda: conv(20, init=delta_orthogonal, activation=nn.Tanh))
enter("conv-20-default-tanh", lambda: conv(20, activation=nn.Tanh))
enter("conv-8-batchnorm", lambda: conv(8, norm=True))
enter("conv-16-batchnorm-skip", lambda: conv(16, norm=True, skip=True))

enter("recurrent-rnn", lambda: Recurrent(nn.RNN))
enter("recurrent-lstm", lambda: Recurrent(nn.LSTM))
enter("recurrent-gru", lambda: Recurrent(nn.GRU))
enter("recurrent-rnn-relu", lambda: Recurrent(nn.RNN, nonlinearity="relu"))
enter("recurrent-gru-4-layers", lambda: Recurrent(nn.GRU, layers=4, hidden=32))
enter("recurrent-gru-128", lambda: Recurrent(nn.GRU, repeat=16))
enter("recurrent-rnn-forgets", lambda: Recurrent(nn.RNN, repeat=10))
enter("recurrent-lstm-forgets", lambda: Recurrent(nn.LSTM, repeat=6))

enter("attention-4-prenorm", lambda: Attention(4))
enter("attention-12-prenorm", lambda: Attention(12))
enter("attention-16-postnorm", lambda: Attention(16, norm_first=False))
enter("attention-4-postnorm", lambda: Attention(4, norm_first=False))
enter("attention-2-bare", lambda: Attention(2, bare=True))
enter("attention-8-bare", lambda: Attention(8, bare=True))
enter("attention-30-bare", lambda: Attention(30, bare=True))
