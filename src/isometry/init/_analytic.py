"""Initialize a plain chain by theory: orthogonal or Gaussian weights at the activation's operating point.

References:
    S. S. Schoenholz, J. Gilmer, S. Ganguli, J. Sohl-Dickstein, Deep information propagation, ICLR 2017.
    arXiv:1611.01232
    P. A. Sokol, I. M. Park, Information geometry of orthogonal initializations and training, ICLR 2020.
    arXiv:1810.03785
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from isometry._base import stream
from isometry.init._chain import Chain, Stage
from isometry.init._graph import mean_square
from isometry.init._operating_point import OperatingPoint, Shift, operating_point
from isometry.init._rows import Ledger
from isometry.init._slots import DELTA_DEPTH, Slot, draw, flattened, per_group
from isometry.roles import ParameterRow
from isometry.theory import Activation

__all__ = ["Prescribed", "initialize_chain", "operating_points"]

_SHIFTED_INPUT = 0.01  # share of the inputs' mean square that their mean must hold to be taken away


@dataclass(frozen=True)
class Prescribed:
    """What the analytic route decided besides the rows.

    Attributes:
        points: Operating point of each stage with an activation.
        input_scale: Factor that the inputs must still be multiplied with, or None.
        absorbed_scale: Factor that the first layer has absorbed, or None.
    """

    points: tuple[OperatingPoint, ...]
    input_scale: float | None
    absorbed_scale: float | None


def operating_points(
    activations: Sequence[Activation], *, depth: int, q_star: float | None, shift: Shift
) -> tuple[OperatingPoint, ...]:
    """Choose one operating point per layer, all with the same q*.

    Args:
        activations: The layers' activations.
        depth: Length of the chain.
        q_star: Variance of the pre-activations; None takes the smallest default of the activations.
        shift: Whether operating points may leave the origin.

    Returns:
        The operating points, in order.
    """
    kinds = {a.name: a for a in activations}
    chosen = {n: operating_point(a, depth=depth, q_star=q_star, shift=shift) for n, a in kinds.items()}
    if q_star is None and len(kinds) > 1:
        least = min(point.q_star for point in chosen.values())
        chosen = {n: operating_point(a, depth=depth, q_star=least, shift=shift) for n, a in kinds.items()}
    return tuple(chosen[a.name] for a in activations)


def initialize_chain(
    model: nn.Module,
    chain: Chain,
    ledger: Ledger,
    *,
    x: Tensor | None,
    q_star: float | None,
    weights: str,
    shift: Shift,
    absorb: bool,
    seed: int,
) -> Prescribed:
    """Draw a chain's weights and biases.

    Args:
        model: The model.
        chain: Its layers.
        ledger: Collects a row per parameter.
        x: A batch of what the first layer reads; None assumes mean square one.
        q_star: Variance of the pre-activations; None chooses it.
        weights: "orthogonal" or "gaussian".
        shift: Whether operating points may leave the origin.
        absorb: Put the inputs' scale and mean into the first layer.
        seed: The model's seed.

    Returns:
        The operating points and what became of the input scale.
    """
    biased = all(_bias(stage) is not None for stage in chain.stages)
    activations = [stage.activation for stage in chain.stages if stage.activation is not None]
    points = operating_points(activations, depth=chain.depth, q_star=q_star, shift=shift if biased else "never")
    if not biased and points[0].sigma_b > 1e-3 * points[0].q_star ** 0.5:
        ledger.note(f"some layers have no bias, so sigma_b = {points[0].sigma_b:.3g} is missing there and q drifts")
    input_scale = absorbed = None
    for index, stage in enumerate(chain.stages):
        before = points[index - 1] if index else None
        here = points[index] if stage.activation is not None else None
        gain, why = (before or points[0]).sigma_w, ""
        row = ledger.row(stage.node.name, "weight")
        delta = weights == "orthogonal" and isinstance(stage.node.module, _ConvNd) and chain.depth >= DELTA_DEPTH
        mean = None
        if index == 0:
            gain, mean, why, input_scale, absorbed = _first(row, points[0], x, weights, absorb, delta)
        slot = Slot(model, row)
        weight = draw(row, slot.read(), gain=gain, weights=weights, seed=seed, delta=delta)
        if index == 0 and not absorb and weights == "orthogonal":
            weight /= max(1.0, _ratio(row, delta)) ** 0.5  # the first layer exactly sigma_w Q; the input's scale knows
        if stage.pooled:
            why = _joined(why, "positions are averaged in front of it, so the logits are smaller than q*")
        scheme = "delta-orthogonal" if delta else weights
        if ledger.write(slot, weight, scheme, sigma_w=gain, why=why):
            _biases(model, stage, ledger, weight, row, before, here, points[0].sigma_b, mean, seed)
    return Prescribed(points, input_scale, absorbed)


def _first(
    row: ParameterRow, point: OperatingPoint, x: Tensor | None, weights: str, absorb: bool, delta: bool
) -> tuple[float, Tensor | None, str, float | None, float | None]:
    """Choose the first layer's gain so that its outputs have variance q*.

    Returns:
        The gain, the inputs' mean to take away, the reason, the factor left to apply and the factor absorbed.
    """
    wanted = math.sqrt(max(point.q_star - point.sigma_b**2, 1e-12))
    if x is None and not absorb:
        return point.sigma_w, None, "expects inputs scaled to q*, as by scale_inputs", None, None
    if x is None:
        return wanted, None, "inputs taken to have mean square 1 per component; pass data= to measure it", None, None
    mean = _feature_mean(x, row) if absorb else None
    q = mean_square(x)
    why = []
    if mean is not None:
        share = float(mean.square().mean()) / max(q, 1e-30)
        if share > _SHIFTED_INPUT:
            q = _centred_square(x, mean)
            why.append(f"takes away the inputs' mean ({share:.0%} of their mean square)")
        else:
            mean = None
    if not q > 0:
        return wanted, None, "the inputs are constant on this batch; their scale could not be measured", None, None
    scale = wanted / (point.sigma_w * math.sqrt(q))
    if not absorb:
        if weights == "orthogonal":
            scale *= max(1.0, _ratio(row, delta)) ** 0.5
        return point.sigma_w, None, f"expects inputs multiplied by {scale:.4g}", scale, None
    why.append(f"absorbs the input scale {scale:.4g}, so the data stay as they are")
    return wanted / math.sqrt(q), mean, "; ".join(why), None, scale


def _biases(
    model: nn.Module,
    stage: Stage,
    ledger: Ledger,
    weight: Tensor,
    row: ParameterRow,
    before: OperatingPoint | None,
    here: OperatingPoint | None,
    first_sigma_b: float,
    mean: Tensor | None,
    seed: int,
) -> None:
    if _bias(stage) is None:
        return
    slot = Slot(model, ledger.row(stage.node.name, "bias"))
    old = slot.read()
    sigma_b = first_sigma_b if before is None else before.sigma_b
    value = sigma_b * torch.randn(old.shape, generator=stream(seed, slot.row.name), dtype=torch.float64)
    value = value.to(old)
    why = []
    if here is not None and here.shift:
        value += here.shift
        why.append(f"shifts the pre-activations to {here.shift:.3g}")
    if before is not None and before.mean:
        value -= before.mean * flattened(row, weight)
        why.append(f"takes away the mean {before.mean:.3g} of the activations")
    if mean is not None:
        value -= _through(row, weight, mean)
        why.append("takes away the inputs' mean")
    ledger.write(slot, value, "gaussian" if sigma_b else "constant", sigma_b=sigma_b, why="; ".join(why))


def _bias(stage: Stage) -> Tensor | None:
    return getattr(stage.node.module, "bias", None)


def _ratio(row: ParameterRow, delta: bool) -> float:
    if delta:
        outputs, inputs = per_group(row)
        return outputs / inputs
    return row.fan_out / row.fan_in if not row.axes.kernel else per_group(row)[0] / row.fan_in


def _feature_mean(x: Tensor, row: ParameterRow) -> Tensor | None:
    """Average over samples and positions, per input feature or channel.

    Returns:
        Shape ``(in,)``; None for grouped convolutions, whose channels are shared out.
    """
    if row.axes.groups > 1:
        return None
    return x.float().flatten(2).mean((0, 2)) if row.axes.kernel else x.float().flatten(0, -2).mean(0)


def _centred_square(x: Tensor, mean: Tensor) -> float:
    centred = x.float() - (mean.view(-1, *[1] * (x.ndim - 2)) if mean.numel() != x.shape[-1] or x.ndim > 2 else mean)
    return mean_square(centred)


def _through(row: ParameterRow, weight: Tensor, mean: Tensor) -> Tensor:
    taps = weight.flatten(2).sum(2) if row.axes.kernel else weight
    return taps @ mean.to(weight)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
