"""Recurrent layers: orthogonal state-to-state blocks, inputs scaled to the number of steps, gates that start open.

References:
    R. Jozefowicz, W. Zaremba, I. Sutskever, An empirical exploration of recurrent network architectures, ICML 2015
    (forget-gate bias of one).
    Q. V. Le, N. Jaitly, G. E. Hinton, A simple way to initialize recurrent networks of rectified linear units, 2015.
    arXiv:1504.00941
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from isometry.init._graph import mean_square
from isometry.init._operating_point import OperatingPoint, operating_point
from isometry.init._rows import Ledger
from isometry.init._slots import Slot, draw
from isometry.roles import ParameterRow
from isometry.theory._resolve import resolve_activation

__all__ = ["initialize_recurrent"]

# Gates whose bias starts at one, so that the state is kept for a while.
_OPEN = {"LSTM": "forget", "GRU": "update"}


def initialize_recurrent(
    model: nn.Module, module: nn.Module, name: str, ledger: Ledger, x: Tensor, *, weights: str, seed: int
) -> OperatingPoint | None:
    """Set the parameters of a recurrent module or cell.

    Args:
        model: The model.
        module: The recurrent module.
        name: Its qualified name.
        ledger: Collects a row per parameter.
        x: What it reads: a sequence, or one step for a cell.
        weights: "orthogonal" or "gaussian".
        seed: The model's seed.

    Returns:
        The operating point of the hidden state of a tanh network; None for the others.
    """
    mode = str(getattr(module, "mode", type(module).__name__.removesuffix("Cell")))
    relu = mode == "RNN_RELU" or getattr(module, "nonlinearity", "") == "relu"
    gated = mode in _OPEN
    steps = _steps(module, x)
    point = None if gated or relu else operating_point(resolve_activation("tanh"), depth=steps)
    read = mean_square(x)
    for row in ledger.table:
        if row.module_name != name:
            continue
        slot = Slot(model, row)
        if row.tensor_name.startswith("bias"):
            value, why = _bias(row, slot.read(), mode)
            ledger.write(slot, value, "constant" if bool(value.any()) else "zero", sigma_b=0.0, why=why)
        elif row.role == "recurrent" and relu and "hh" in row.tensor_name:
            ledger.write(slot, torch.eye(row.shape[0]).to(slot.read()), "constant", sigma_w=1.0, why="identity: keeps")
        elif row.role == "recurrent":
            gain = point.sigma_w if point is not None else 1.0
            blocks = f", each of the {len(row.axes.blocks)} gates by itself" if row.axes.blocks else ""
            value = draw(row, slot.read(), gain=gain, weights=weights, seed=seed)
            ledger.write(slot, value, weights, sigma_w=gain, why=f"state to state{blocks}")
        else:
            first = row.tensor_name in ("weight_ih_l0", "weight_ih_l0_reverse", "weight_ih")
            wanted = 1.0 if gated else (point.q_star if point is not None else 1.0) / steps
            gain = math.sqrt(wanted / read) if first and read > 0 else math.sqrt(min(1.0, wanted * steps))
            value = draw(row, slot.read(), gain=gain, weights=weights, seed=seed)
            why = "inputs of mean square one to the gates" if gated else f"{steps} steps add up to q*"
            ledger.write(slot, value, weights, sigma_w=gain, why=why)
    return point


def _steps(module: nn.Module, x: Tensor) -> int:
    if not isinstance(module, nn.RNNBase):
        return 32  # a cell does not say how often it will be called
    if x.ndim < 3:
        return max(1, x.shape[0])
    return max(1, x.shape[1] if module.batch_first else x.shape[0])


def _bias(row: ParameterRow, old: Tensor, mode: str) -> tuple[Tensor, str]:
    value = torch.zeros_like(old)
    gate = _OPEN.get(mode)
    if gate is None or gate not in row.axes.blocks or not row.tensor_name.startswith("bias_ih"):
        return value, ""
    size = row.shape[0] // len(row.axes.blocks)
    start = row.axes.blocks.index(gate) * size
    value[start : start + size] = 1.0
    return value, f"the {gate} gate starts open"
