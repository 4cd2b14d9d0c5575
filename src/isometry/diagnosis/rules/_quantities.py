"""Quantities that several rules share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, dropwhile

from isometry import measure
from isometry.diagnosis._evidence import Evidence
from isometry.diagnosis._response import Response

__all__ = ["EFOLDS", "WHERE", "collapsed", "gradient_efolds", "hidden_layers", "names", "reached", "transforming"]

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
    """Give how many e-folds the squared gradient grows from the last hidden layer back to the first, on the trunk.

    Returns:
        Positive if it explodes, negative if it vanishes; NaN if unknown.
    """
    norms = _trunk_gradients(evidence)[len(transforming(evidence)) - len(reached(evidence)) :]
    if len(norms) < 3 or not all(math.isfinite(norm) for norm in (norms[0], norms[-1])):
        return math.nan
    return 2 * (math.log(norms[0]) - math.log(norms[-1]))


def reached(evidence: Evidence) -> list[measure.LayerSignal]:
    """Give the hidden layers that a gradient reaches, from the first of them on.

    Returns:
        The layers; those before the first nonzero gradient, where it underflowed, are left out.
    """
    layers, norms = transforming(evidence), _trunk_gradients(evidence)
    start = next((i for i, norm in enumerate(norms) if norm > 0), len(layers))
    layers = layers[start:]
    return layers if layers and norms[-1] > 0 else []


def transforming(evidence: Evidence) -> list[measure.LayerSignal]:
    """Give the hidden layers without the embeddings that come first.

    These look up and multiply nothing: their output's scale is free where a normalization follows, and the gradient's
    scale is its inverse.

    Returns:
        The layers in the order of calls.
    """
    return list(dropwhile(lambda layer: layer.kind == "embedding", hidden_layers(evidence)))


def _trunk_gradients(evidence: Evidence) -> list[float]:
    """Give the gradient's norm beside each hidden layer, on the trunk.

    To a layer in a branch comes the branch's gradient, which says nothing of the trunk where the branch's share is
    small. The trunk's is then taken for the smaller of the largest before and the largest behind, input and readout
    included. A layer whose gradient is within 6 e-folds of that stands for the trunk itself, with the larger one of
    its neighbours: of a branch's layers the last is given the trunk's gradient whole.

    Returns:
        One norm for each transforming layer; those of layers on the trunk as measured.
    """
    if evidence.signal is None:
        return []
    layers = evidence.signal.weight_layers
    inside = [layer.name in evidence.branches and layer.kind != "embedding" for layer in layers]
    own = [layer.gradient_norm for layer in layers]
    start = evidence.signal.input_gradient_norm
    before = list(accumulate(own, max, initial=0.0 if math.isnan(start) else start))
    behind = list(accumulate(reversed(own), max, initial=0.0))[::-1]
    beside = [min(before[i], behind[i + 1]) for i in range(len(own) - 1)]
    norms = own[:-1]
    for i, trunk in enumerate(beside):
        if inside[i]:
            block = max(own[j] for j in (i - 1, i, i + 1) if 0 <= j < len(own) and inside[j])
            norms[i] = trunk if block < math.exp(-EFOLDS / 2) * trunk else block
    return norms[len(norms) - len(transforming(evidence)) :]
