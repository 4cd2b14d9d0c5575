"""Quantities that several rules share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from isometry import measure
from isometry.diagnosis._evidence import Evidence
from isometry.diagnosis._response import Response

__all__ = ["EFOLDS", "WHERE", "collapsed", "gradient_efolds", "hidden_layers", "names"]

EFOLDS = 6.0  # the depth up to which mean-field networks train is 6 xi: a quantity may change by exp(6)
WHERE = 12  # names that a finding lists


def hidden_layers(evidence: Evidence) -> list[measure.LayerSignal]:
    """Give the layers with weights, without the readout.

    Returns:
        The layers in the order of calls.
    """
    return [] if evidence.signal is None else list(evidence.signal.weight_layers[:-1])


def names(layers: Sequence[measure.LayerSignal]) -> tuple[str, ...]:
    """Give the names of layers, thinned evenly to at most a dozen.

    Returns:
        The names.
    """
    if len(layers) <= WHERE:
        return tuple(layer.name for layer in layers)
    return tuple(layers[round(i * (len(layers) - 1) / (WHERE - 1))].name for i in range(WHERE))


def collapsed(response: Response) -> bool:
    """Say whether what tells inputs apart has sunk into rounding noise where the last layer reads.

    Returns:
        True if so; False also where nothing arrives at all.
    """
    return 0 < response.terminal < response.noise


def gradient_efolds(evidence: Evidence) -> float:
    """Give how many e-folds the squared gradient grows from the last hidden layer back to the first.

    Returns:
        Positive if it explodes, negative if it vanishes, minus infinity where nothing arrives; NaN if unknown.
    """
    layers = hidden_layers(evidence)
    if len(layers) < 3:
        return math.nan
    first, last = layers[0].gradient_norm, layers[-1].gradient_norm
    if not (math.isfinite(first) and math.isfinite(last)) or last <= 0:
        return math.nan
    return 2 * math.log(first / last) if first > 0 else -math.inf
