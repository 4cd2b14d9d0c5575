"""Quantities that several rules share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from isometry import measure
from isometry.diagnosis._evidence import Evidence
from isometry.diagnosis._response import Response

__all__ = ["EFOLDS", "WHERE", "collapsed", "gradient_efolds", "hidden_layers", "names", "reached"]

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
        Positive if it explodes, negative if it vanishes; NaN if unknown.
    """
    layers = reached(evidence)
    if len(layers) < 3 or not all(math.isfinite(layer.gradient_norm) for layer in (layers[0], layers[-1])):
        return math.nan
    return 2 * (math.log(layers[0].gradient_norm) - math.log(layers[-1].gradient_norm))


def reached(evidence: Evidence) -> list[measure.LayerSignal]:
    """Give the hidden layers that a gradient reaches, from the first of them on.

    Returns:
        The layers; those before the first nonzero gradient, where it underflowed, are left out.
    """
    layers = hidden_layers(evidence)
    start = next((i for i, layer in enumerate(layers) if layer.gradient_norm > 0), len(layers))
    layers = layers[start:]
    return layers if layers and layers[-1].gradient_norm > 0 else []
