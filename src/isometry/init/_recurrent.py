"""Recurrent layers: orthogonal state-to-state blocks, inputs scaled to the steps, gates that remember as long.

A gate of value z keeps a share z of the state per step, so a gradient fades as z^T: the usual bias of one (z = 0.73)
leaves 1e-17 of it after 128 steps. Biases of log u give the units memories of u steps; u is uniform between 1 and
half of the sequence.

ReLU has no isometric point for the state. The identity keeps the states of any number of steps, but mixes no units. An
orthogonal matrix does; its gain is the one that keeps gradients, which depends on the number of steps, since all share
the matrix. Up to 32 steps it learned digits faster, over step sizes of SGD and Adam; at 64 it was easily upset.

References:
    C. Tallec, Y. Ollivier, Can recurrent neural networks warp time?, ICLR 2018. arXiv:1804.11188
    Q. V. Le, N. Jaitly, G. E. Hinton, A simple way to initialize recurrent networks of rectified linear units, 2015.
    arXiv:1504.00941

Departures: u ends at T / 2, not at T - 1, since sequences of 8 steps were learned faster so, and ones of 128 as well.
An LSTM's input gate starts at 1 / sqrt(u), not 1 / u: u independent inputs then keep their mean square.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from isometry._base import stream
from isometry.init._graph import mean_square
from isometry.init._operating_point import OperatingPoint, operating_point
from isometry.init._rows import Ledger
from isometry.init._slots import Slot, draw
from isometry.linalg import standard_normal
from isometry.roles import ParameterRow
from isometry.theory._resolve import resolve_activation

__all__ = ["initialize_recurrent"]

# Gates that say which share of the state is kept.
_KEEPS = {"LSTM": "forget", "GRU": "update"}
# Steps up to which a ReLU network starts with orthogonal state-to-state matrices.
_SHARED = 32


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
    gated = mode in _KEEPS
    steps = _steps(module, x)
    mixes = relu and isinstance(module, nn.RNNBase) and steps <= _SHARED
    point = None if gated or relu else operating_point(resolve_activation("tanh"), depth=steps)
    read = mean_square(x)
    for row in ledger.table:
        if row.module_name != name:
            continue
        slot = Slot(model, row)
        if row.tensor_name.startswith("bias"):
            value, why = _bias(row, slot.read(), mode, steps, seed)
            ledger.write(slot, value, "constant" if bool(value.any()) else "zero", sigma_b=0.0, why=why)
        elif row.role == "recurrent" and relu and not mixes:
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
    if mixes and isinstance(module, nn.RNNBase):
        _level(model, module, name, ledger, x, weights=weights, seed=seed)
    return point


def _level(
    model: nn.Module, module: nn.RNNBase, name: str, ledger: Ledger, x: Tensor, *, weights: str, seed: int
) -> None:
    """Scale the state-to-state matrices so that gradients are as large at the first step as at the last."""
    rows = [row for row in ledger.table if row.module_name == name and row.role == "recurrent"]
    slots = [Slot(model, row) for row in rows if ledger.rows[row.name].action != "skipped"]
    if not slots:
        return
    start = [slot.read().clone() for slot in slots]
    low, high = 1.0, 2.0
    while high - low > 0.002:  # nine passes forward and backward
        middle = (low + high) / 2
        for slot, value in zip(slots, start, strict=True):
            slot.write(middle * value)
        growth = _gradient_growth(module, x, stream(seed, name))
        low, high = (middle, high) if growth < 1 else (low, middle)
    for slot, value in zip(slots, start, strict=True):
        why = "gradients are as large at the first step as at the last"
        ledger.write(slot, low * value, weights, sigma_w=low, why=why)


def _gradient_growth(module: nn.RNNBase, x: Tensor, generator: torch.Generator) -> float:
    """Measure what becomes of a gradient on its way from the last states to the first.

    The pass starts from the states in which another one ends: from zero states, inputs that are zero at first (the
    margin of an image) would leave every unit at its kink.

    Returns:
        Its norm at the first states over that at the last; infinite if it is not finite.
    """
    first = module.forward(x)[1].detach().requires_grad_()
    # cuDNN has no backward pass in evaluation mode.
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        last = module.forward(x, first)[1]
    cotangent = standard_normal(last.shape, dtype=last.dtype, device=last.device, generator=generator)
    (gradient,) = torch.autograd.grad(last, first, cotangent)
    growth = float(gradient.double().norm() / cotangent.double().norm())
    return growth if math.isfinite(growth) else math.inf


def _steps(module: nn.Module, x: Tensor) -> int:
    if not isinstance(module, nn.RNNBase):
        return 32  # a cell does not say how often it will be called
    if x.ndim < 3:
        return max(1, x.shape[0])
    return max(1, x.shape[1] if module.batch_first else x.shape[0])


def _bias(row: ParameterRow, old: Tensor, mode: str, steps: int, seed: int) -> tuple[Tensor, str]:
    value = torch.zeros_like(old)
    gate = _KEEPS.get(mode)
    if gate is None or gate not in row.axes.blocks or not row.tensor_name.startswith("bias_ih"):
        return value, ""
    size = row.shape[0] // len(row.axes.blocks)
    start = row.axes.blocks.index(gate) * size
    longest = max(1.0, steps / 2)
    memory = 1 + (longest - 1) * torch.rand(size, generator=stream(seed, row.name), dtype=torch.float64)
    value[start : start + size] = memory.log().to(value)
    if mode == "LSTM":  # a cell that keeps for long takes in less at a time; a GRU's one gate does both
        start = row.axes.blocks.index("input") * size
        value[start : start + size] = -memory.log().to(value) / 2
    return value, f"the {gate} gate starts with memories of 1 to {longest:.0f} steps"
