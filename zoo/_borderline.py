"""Networks whose label turns with the seed or with a third more or less depth; reported, not counted.

They show where the edges lie, and that the rules' thresholds do not follow every edge.
"""

from __future__ import annotations

from torch import nn

from zoo._entry import enter
from zoo._plain import flat, mlp
from zoo._structured import conv

for depth in (12, 16, 24):
    enter(f"plain-tanh-{depth}-default", lambda depth=depth: mlp(nn.Tanh, depth), group="borderline")
enter("plain-elu-30-default", lambda: mlp(nn.ELU, 30), group="borderline")
enter("plain-sigmoid-5-default", lambda: mlp(nn.Sigmoid, 5), group="borderline")
enter("plain-relu-12-std-0.02", lambda: mlp(nn.ReLU, 12, flat(0.02)), group="borderline")
enter("norm-layer-60-relu", lambda: mlp(nn.ReLU, 60, norm=nn.LayerNorm), group="borderline")
enter("conv-20-default", lambda: conv(20), group="borderline")
