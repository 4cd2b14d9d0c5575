"""Initialize any model on a batch of data: from an orthogonal start, layer after layer, in a single forward pass.

References:
    D. Mishkin, J. Matas, All you need is a good init, ICLR 2016. arXiv:1511.06422
    S. De, S. L. Smith, Batch normalization biases residual blocks towards the identity function in deep networks,
    NeurIPS 2020. arXiv:2002.10444
    G. Yang, J. Pennington, V. Rao, J. Sohl-Dickstein, S. S. Schoenholz, A mean field theory of batch normalization,
    ICLR 2019. arXiv:1902.08129

Departures: layers are scaled to their activation's operating point, not to variance one; a residual branch may add
1/K of its trunk's mean square (K branches), correlations with the trunk included; in a deep chain of normalized layers
the operating point becomes the normalization's scale and shift, which alone decide there how far gradients grow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from isometry._base import stream
from isometry.init._graph import Event, Node, follow, mean_square
from isometry.init._kinds import kind_of, norm_family
from isometry.init._operating_point import OperatingPoint
from isometry.init._plan import Plan, WeightPlan
from isometry.init._recurrent import initialize_recurrent
from isometry.init._rows import Ledger
from isometry.init._slots import Slot, draw, flattened, per_group
from isometry.linalg import standard_normal
from isometry.roles import MATRIX_ROLES, ParameterRow
from isometry.tape import Inputs

__all__ = ["LOGITS", "calibrate"]

# Mean square of the outputs: the loss then starts at log C plus a thirtieth, and gradients are not starved.
LOGITS = 1 / 16
_SCALE_FREE = (1e-2, 1e2)  # in front of a normalization only extreme outputs are rescaled


def calibrate(
    model: nn.Module, plan: Plan, ledger: Ledger, x: Inputs, *, weights: str, seed: int
) -> dict[int, tuple[float | None, float]]:
    """Draw all weights, then correct them in one forward pass.

    Args:
        model: The model, in the mode in which it is to be calibrated.
        plan: What each operation should give.
        ledger: Collects a row per parameter.
        x: The batch.
        weights: "orthogonal" or "gaussian".
        seed: The model's seed.

    Returns:
        What each operation's mean square was brought to (None where nothing was aimed at), and about which mean, by
        its number.
    """
    work = _Calibration(model, plan, ledger, weights, seed)
    for note in plan.notes:
        ledger.note(note)
    work.draw_all()
    statistics = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [(m, m.momentum) for m in statistics]
    for module in statistics:
        module.reset_running_stats()
        module.momentum = None  # a plain average: of one batch, that batch's own statistics
    try:
        seen = {name for node in follow(model, x, work.correct).nodes for name in node.params}
    finally:
        for module, momentum in momenta:
            module.momentum = momentum
            if module.num_batches_tracked is not None:
                module.num_batches_tracked.zero_()
    for row in ledger.table.matrices:
        if not seen.intersection(row.names) and row.name in ledger.rows:
            lost = "stacked matrices, whose inputs are not followed"
            why = lost if row.axes.batch else "not used in the forward pass on this batch"
            ledger.scaled(row.name, 1.0, why, action="set")
    if statistics:
        ledger.note("running statistics of batch normalization were set to those of the batch")
    return work.targets


class _Calibration:
    def __init__(self, model: nn.Module, plan: Plan, ledger: Ledger, weights: str, seed: int) -> None:
        self.model, self.plan, self.ledger, self.weights, self.seed = model, plan, ledger, weights, seed
        self.done: set[str] = set()
        self.targets: dict[int, tuple[float | None, float]] = {}
        self.scaled: dict[int, Callable[[float], None]] = {}
        self.first = True

    # -- the start ---------------------------------------------------------------------------------------------------

    def draw_all(self) -> None:
        """Draw every known weight at gain one; biases zero, normalizations at scale one and shift zero."""
        for row in self.ledger.table:
            if row.parametrized and row.role == "scale":
                continue  # a piece of a parametrized weight: set along with it
            module = self.model.get_submodule(row.module_name)
            if isinstance(module, nn.RNNBase | nn.RNNCellBase):
                continue  # when its input is known
            slot = Slot(self.model, row)
            if row.role == "norm":
                one = row.tensor_name in ("weight", "gamma", "scale")
                value = torch.ones_like(slot.read()) if one else torch.zeros_like(slot.read())
                self.ledger.write(slot, value, "constant", why="normalization starts at scale 1 and shift 0")
            elif row.role == "bias":
                self.ledger.write(slot, torch.zeros_like(slot.read()), "zero", sigma_b=0.0)
            elif row.role == "embedding" and isinstance(module, nn.Embedding | nn.EmbeddingBag):
                self._embedding(slot, module)
            elif row.role in MATRIX_ROLES and row.axes.known:
                value = draw(row, slot.read(), gain=1.0, weights=self.weights, seed=self.seed)
                self.ledger.write(slot, value, self.weights, sigma_w=1.0)

    def _embedding(self, slot: Slot, module: nn.Module) -> None:
        row = slot.row
        # As an output layer an embedding of unit entries would give logits of mean square `width`.
        gain, why = (
            (1.0, "unit entries") if not row.aliases else ((LOGITS / row.shape[1]) ** 0.5, "shared with outputs")
        )
        old = slot.read()
        value = standard_normal(row.shape, dtype=old.dtype, device=old.device, generator=stream(self.seed, row.name))
        value *= gain
        padding = getattr(module, "padding_idx", None)
        if padding is not None:
            value[padding] = 0
        self.ledger.write(slot, value, "gaussian", sigma_w=gain, why=why)

    # -- the pass ----------------------------------------------------------------------------------------------------

    def correct(self, event: Event) -> Tensor | None:
        """Look at an operation's result and correct its parameters.

        Returns:
            The corrected result, or None.
        """
        node = event.node
        kind = kind_of(node)
        if kind == "weight" and node.index in self.plan.weights:
            return self._weight(event, self.plan.weights[node.index])
        if kind == "norm":
            return self._norm(event)
        if kind == "recurrent" and node.module is not None and node.name not in self.done:
            self.done.add(node.name)
            initialize_recurrent(
                self.model, node.module, node.name, self.ledger, event.args[0], weights=self.weights, seed=self.seed
            )
            return _first(event.redo())
        if kind == "attention":
            out = next((n for n in node.params if n.endswith("out_proj.weight")), None)
            if out is not None:
                self.scaled[node.index] = self._scaler(out, None)
        if node.index in self.plan.adds:
            self._add(event)
        return None

    def _weight(self, event: Event, plan: WeightPlan) -> Tensor | None:
        node = event.node
        rows = [self.ledger.table[name] for name in node.params]
        row = next((r for r in rows if r.role in (*MATRIX_ROLES, "embedding") and r.axes.known), None)
        first, self.first = self.first, False
        if row is None or row.name in self.done:
            return None
        self.done.add(row.name)
        if self.ledger.rows[row.name].action == "skipped" or row.role == "embedding":
            return None
        bias = next((r for r in rows if r.role == "bias"), None)
        if plan.delta and self.weights == "orthogonal" and self._redraw_delta(row, node):
            event.result = _first(event.redo())
        self.scaled[node.index] = self._scaler(row.name, bias.name if bias is not None else None)
        result = event.result
        shift = 0.0
        offset = None
        if bias is not None and row.axes.groups == 1:
            if (first or plan.consumer == "output") and plan.consumer != "norm":
                offset = _input_offset(event.args[0], row, Slot(self.model, row).read())
            elif plan.centre:
                mean = float(event.args[0].float().mean())
                offset = mean * flattened(row, Slot(self.model, row).read())
        if plan.centre and plan.point is not None and bias is not None:
            shift = plan.point.shift
        free = result if offset is None else result - _along_outputs(offset, result, node)
        target = self._target(node, plan)
        factor = _factor(mean_square(free), target, plan.consumer == "norm")
        if factor is None:
            scale_free = plan.consumer == "norm" and mean_square(free) > 0
            self.targets[node.index] = (None if scale_free else target, shift)
            if not mean_square(free) > 0:
                why = "its output is zero on this batch, so it could not be calibrated"
                self.ledger.scaled(row.name, 1.0, why, action="set")
                return result if result is not event.result else None
        else:
            Slot(self.model, row).scale(factor)
            self.ledger.scaled(row.name, factor, _reason(plan))
            self.targets[node.index] = (None if plan.consumer == "norm" else target, shift)
        if bias is not None and (offset is not None or shift):
            slot = Slot(self.model, bias)
            value = torch.full_like(slot.read(), shift)
            if offset is not None:
                value -= (factor or 1.0) * offset.to(value)
            why = "takes away the inputs' mean" if first else "takes away the mean of the activations"
            why += f"; shifts the pre-activations to {shift:.3g}" if shift else ""
            self.ledger.write(slot, value, "constant", sigma_b=0.0, why=why)
        return _first(event.redo())

    def _redraw_delta(self, row: ParameterRow, node: Node) -> bool:
        module = node.module
        if not isinstance(module, _ConvNd) or module.transposed or max(module.stride) > 1:
            return False
        outputs, inputs = per_group(row)
        if outputs < inputs or max(module.kernel_size) == 1:
            return False
        slot = Slot(self.model, row)
        value = draw(row, slot.read(), gain=1.0, weights="orthogonal", seed=self.seed, delta=True)
        return self.ledger.write(slot, value, "delta-orthogonal", sigma_w=1.0)

    def _target(self, node: Node, plan: WeightPlan) -> float:
        if plan.consumer == "activation" and plan.point is not None:
            # A branch that ends in the activation: from there it is scaled as if the activation were linear.
            ends = any(add.tail == node.index and not add.bends for add in self.plan.adds.values())
            return plan.point.q_star / (len(self.plan.adds) if ends else 1)
        return LOGITS if plan.consumer == "output" else 1.0

    def _norm(self, event: Event) -> Tensor | None:
        node = event.node
        names = [n for n in node.params if self.ledger.table[n].role == "norm"]
        if not names or node.name in self.done:
            return None
        self.done.add(node.name)
        weight = next((n for n in names if not n.endswith("bias")), None)
        if weight is not None:
            self.scaled[node.index] = self._scaler(weight, None)
        point: OperatingPoint | None = self.plan.norms.get(node.index)
        if point is None:
            return None
        for name in names:
            slot = Slot(self.model, self.ledger.table[name])
            shift = name.endswith("bias")
            # RMS normalization keeps the mean: what it divides by is the root of q* + t^2, and the weight in front of
            # it holds the shift.
            size = point.second_moment if norm_family(node) == "rms" else point.q_star
            value = torch.full_like(slot.read(), point.shift if shift else math.sqrt(size))
            why = f"operating point of {point.activation} for a chain of {self.plan.depth} normalized layers"
            self.ledger.write(slot, value, "constant", why=why)
        self.targets[node.index] = (point.q_star, point.shift)
        return _first(event.redo())

    def _add(self, event: Event) -> None:
        plan = self.plan.adds[event.node.index]
        scale = self.scaled.get(plan.tail) if plan.tail is not None else None
        if scale is None or len(event.args) < 2:
            self.ledger.note(f"the residual branch into {event.node.label!r} has nothing that could scale it")
            return
        if plan.bends and (end := self.plan.weights.get(plan.tail or 0)) is not None and end.point is not None:
            return  # its activation works at the operating point, and bounds what it adds
        result = event.result
        operands = [a for a in event.args[:2] if isinstance(a, Tensor)]
        branch = self._operand(event, plan.branch, operands, result)
        if branch is None:
            return
        trunk = result - branch
        share = 1 / max(1, len(self.plan.adds))
        b, s = mean_square(branch), mean_square(trunk)
        c = float((branch.float() * trunk.float()).mean())
        if not b > 0 or not s > 0:
            return
        factor = (-c + math.sqrt(c * c + b * s * share)) / b  # the sum's mean square grows by the factor 1 + share
        scale(factor)
        self.scaled.pop(plan.tail or 0, None)
        old, shift = self.targets.get(plan.tail or 0, (None, 0.0))
        if old is not None:
            self.targets[plan.tail or 0] = (old * factor**2, shift)
        result += (factor - 1) * branch  # in place, so that in-place sums see it too

    def _operand(self, event: Event, branch: int, operands: list[Tensor], result: Tensor) -> Tensor | None:
        parents = event.node.parents
        if len(operands) != 2 or len(parents) != 2:
            return None
        position = parents.index(branch)
        mine, other = operands[position], operands[1 - position]
        # `x += y` has overwritten its first operand with the sum
        return (result - other) if mine is result or mine.data_ptr() == result.data_ptr() else mine

    def _scaler(self, weight: str, bias: str | None) -> Callable[[float], None]:
        def scale(factor: float) -> None:
            for name in (weight, bias):
                if name is not None and self.ledger.rows[self.ledger.table[name].name].action != "skipped":
                    Slot(self.model, self.ledger.table[name]).scale(factor)
                    if name == weight:
                        why = f"ends a residual branch, one of {len(self.plan.adds)} that share the growth"
                        self.ledger.scaled(name, factor, why)

        return scale


def _factor(q: float, target: float, scale_free: bool) -> float | None:
    if not math.isfinite(q) or q <= 0:
        return None
    if scale_free and _SCALE_FREE[0] <= q <= _SCALE_FREE[1]:
        return None
    return math.sqrt(target / q)


def _reason(plan: WeightPlan) -> str:
    if plan.consumer == "activation" and plan.point is not None:
        return f"output brought to the operating point of {plan.point.activation}, variance {plan.point.q_star:.3g}"
    return {
        "output": f"logits brought to mean square {LOGITS:.3g}",
        "norm": "outputs far from one in front of a normalization",
        "add": "output brought to mean square 1",
    }.get(plan.consumer, "output brought to mean square 1")


def _input_offset(x: Tensor, row: ParameterRow, weight: Tensor) -> Tensor | None:
    """Say what the inputs' mean turns into, if it is a notable part of them.

    Returns:
        Shape ``(out,)``, or None.
    """
    x = x.float()
    mean = x.flatten(2).mean((0, 2)) if row.axes.kernel else x.flatten(0, -2).mean(0)
    if not float(mean.square().mean()) > 0.01 * mean_square(x) or weight.shape[1] != mean.numel():
        return None
    taps = weight.flatten(2).sum(2) if row.axes.kernel else weight
    return taps @ mean.to(taps)


def _along_outputs(vector: Tensor, like: Tensor, node: Node) -> Tensor:
    kernel = isinstance(node.module, _ConvNd) or node.op.strip("_").startswith("conv")
    spatial = len(node.module.kernel_size) if isinstance(node.module, _ConvNd) else int(node.op[4]) if kernel else 0
    return vector.to(like).view(-1, *[1] * spatial)


def _first(result: Any) -> Tensor:
    return result if isinstance(result, Tensor) else result[0]
