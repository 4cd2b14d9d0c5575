"""Networks on which no rule was tuned: other activations, depths and widths, other structures, other bugs."""

from __future__ import annotations

import math

import torch
from torch import nn

from zoo._bugs import Detached, put, spoiled, zero
from zoo._entry import enter
from zoo._plain import gaussian, mlp, orthogonal
from zoo._structured import Attention, Recurrent, conv, residual

GELU_HE = gaussian(math.sqrt(2))

enter("plain-mish-5-default", lambda: mlp(nn.Mish, 5), group="held-out")
enter("plain-softsign-45-default", lambda: mlp(nn.Softsign, 45), group="held-out")
# Were to be held out; their labels turn with the seed: 0.42 and 0.47 of chance with one, 0.77 and 0.96 with another.
enter("plain-mish-35-default", lambda: mlp(nn.Mish, 35), group="borderline")
enter("conv-40-elu", lambda: conv(40, activation=nn.ELU), group="borderline")
enter("plain-celu-7-narrow", lambda: mlp(nn.CELU, 7, width=32), group="held-out")
enter("plain-relu6-25-he", lambda: mlp(nn.ReLU6, 25, gaussian(math.sqrt(2))), group="held-out")
enter("plain-tanh-70-gain-2.5", lambda: mlp(nn.Tanh, 70, gaussian(2.5)), group="held-out")
enter("plain-tanh-80-orthogonal-wide", lambda: mlp(nn.Tanh, 80, orthogonal(1.05, 0.01), width=128), group="held-out")
enter("conv-6-gelu", lambda: conv(6, activation=nn.GELU), group="held-out")
enter("conv-12-batchnorm-tanh", lambda: conv(12, norm=True, activation=nn.Tanh), group="held-out")
enter("residual-45-gelu-unscaled", lambda: residual(45, init=gaussian(2.0), activation=nn.GELU), group="held-out")
enter("residual-24-prenorm-silu", lambda: residual(24, norm=nn.LayerNorm, activation=nn.SiLU), group="held-out")
enter("recurrent-lstm-2-layers", lambda: Recurrent(nn.LSTM, hidden=32, layers=2), group="held-out")
enter("recurrent-gru-forgets", lambda: Recurrent(nn.GRU, hidden=32, repeat=16), group="held-out")
enter("attention-8-prenorm-narrow", lambda: Attention(8, width=16), group="held-out")
enter("attention-40-bare", lambda: Attention(40, width=16, bare=True), group="held-out")
enter("norm-batch-90-gelu", lambda: mlp(nn.GELU, 90, norm=nn.BatchNorm1d), group="held-out")
enter("norm-layer-12-sigmoid", lambda: mlp(nn.Sigmoid, 12, norm=nn.LayerNorm), group="held-out")
enter("bug-detached-and-zero", lambda: spoiled(lambda m: [zero(8)(m), put(8, Detached)(m)], nn.Tanh), group="held-out")
enter("bug-zero-middle-gelu", lambda: spoiled(zero(2, 4), nn.GELU), group="held-out")
enter("bug-hardsigmoid-output", lambda: spoiled(put(9, nn.Hardsigmoid), nn.GELU), group="held-out", code=True)
enter("bug-raw-gelu", lambda: mlp(nn.GELU, 4), group="held-out", data="raw")
enter("bug-inf-weight", lambda: spoiled(lambda m: m[6].weight[0].fill_(torch.inf)), group="held-out")
enter("bug-negative-bias-gelu", lambda: spoiled(lambda m: m[2].bias.fill_(-60.0), nn.GELU), group="held-out")
