"""Networks whose label turns with the seed or with a third more or less depth; reported, not counted.

They show where the edges lie, and that the rules' thresholds do not follow every edge.
"""

from __future__ import annotations

from torch import nn

from zoo._entry import enter
from zoo._plain import HE, flat, gaussian, mlp
from zoo._structured import Recurrent, conv, residual

ACTIVATIONS = {
    "tanh": (nn.Tanh, (12, 16, 20, 24)),
    "relu": (nn.ReLU, (18, 20, 24)),
    "gelu": (nn.GELU, (16, 20)),
    "silu": (nn.SiLU, (16,)),
    "elu": (nn.ELU, (20, 30)),
    "softplus": (nn.Softplus, (12, 15)),
    "sigmoid": (nn.Sigmoid, (5, 6, 7, 8)),
    "hardtanh": (nn.Hardtanh, (25,)),
}

for name, (kind, depths) in ACTIVATIONS.items():
    for depth in depths:
        enter(f"plain-{name}-{depth}-default", lambda kind=kind, depth=depth: mlp(kind, depth), group="borderline")
enter("plain-linear-28-default", lambda: mlp(None, 28), group="borderline")
enter("plain-tanh-20-gain-3", lambda: mlp(nn.Tanh, 20, gaussian(3.0)), group="borderline")
enter("plain-tanh-80-gain-1.5", lambda: mlp(nn.Tanh, 80, gaussian(1.5)), group="borderline")
enter("plain-relu-12-std-0.02", lambda: mlp(nn.ReLU, 12, flat(0.02)), group="borderline")
enter("norm-layer-60-relu", lambda: mlp(nn.ReLU, 60, norm=nn.LayerNorm), group="borderline")
enter("norm-batch-40-relu", lambda: mlp(nn.ReLU, 40, norm=nn.BatchNorm1d), group="borderline")
enter("conv-20-default", lambda: conv(20), group="borderline")
enter("conv-38-default-tanh", lambda: conv(38, activation=nn.Tanh), group="borderline")
enter("recurrent-rnn-32-steps", lambda: Recurrent(nn.RNN, repeat=4), group="borderline")
enter("recurrent-lstm-24-steps", lambda: Recurrent(nn.LSTM, repeat=3), group="borderline")
enter("residual-20-he-unscaled", lambda: residual(20, init=HE), group="borderline")
enter("residual-25-he-unscaled", lambda: residual(25, init=HE), group="borderline")
