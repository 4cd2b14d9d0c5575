"""Bring a chain that finite width has moved off its operating points back to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from isometry.init._chain import Chain
from isometry.init._graph import Event, mean_square
from isometry.init._operating_point import OperatingPoint
from isometry.init._rows import Ledger
from isometry.init._slots import Slot
from isometry.tape import Inputs

__all__ = ["rescale_chain"]


def rescale_chain(
    model: nn.Module,
    chain: Chain,
    ledger: Ledger,
    points: tuple[OperatingPoint, ...],
    x: Inputs,
    run: Callable[[nn.Module, Inputs, Any], Any],
) -> None:
    """Scale each hidden layer so that its outputs vary about their shift with variance q*.

    Args:
        model: The model.
        chain: Its layers.
        ledger: Its rows.
        points: The layers' operating points.
        x: The batch.
        run: Follows a forward pass with a listener.
    """
    wanted = {
        stage.node.name: point
        for stage, point in zip(chain.stages, points, strict=False)
        if stage.activation is not None
    }

    def listener(event: Event) -> Tensor | None:
        point = wanted.get(event.node.name)
        if point is None:
            return None
        q = mean_square(event.result - point.shift)
        if not (math.isfinite(q) and q > 0):
            return None
        factor = math.sqrt(point.q_star / q)
        weight = Slot(model, ledger.row(event.node.name, "weight"))
        if ledger.rows[weight.row.name].action == "skipped" or not weight.scale(factor):
            return None
        ledger.scaled(weight.row.name, factor, "rescaled to q* on the data")
        if getattr(event.node.module, "bias", None) is not None:
            bias = Slot(model, ledger.row(event.node.name, "bias"))
            if ledger.rows[bias.row.name].action != "skipped":
                bias.write(point.shift + factor * (bias.read() - point.shift))
                ledger.scaled(bias.row.name, factor, "")
        result: Tensor = event.redo()
        return result

    run(model, x, listener)
