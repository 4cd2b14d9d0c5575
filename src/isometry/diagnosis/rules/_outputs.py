"""Can the outputs fit the loss, and is their scale sane?"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from isometry.diagnosis._evidence import Evidence
from isometry.diagnosis._finding import Finding

__all__ = ["bounded_outputs", "large_outputs"]

# Ranges of functions that autograd names; softmax rows sum to one besides.
_BOUNDED = {
    "SoftmaxBackward0": ("softmax", 1.0),
    "SigmoidBackward0": ("sigmoid", 1.0),
    "TanhBackward0": ("tanh", 2.0),
    "HardtanhBackward0": ("hardtanh", 2.0),
    "HardsigmoidBackward0": ("hardsigmoid", 1.0),
}


def bounded_outputs(evidence: Evidence) -> Iterator[Finding]:
    """Bounded outputs: probabilities handed to a loss that wants logits.

    The smallest cross-entropy of C logits within an interval of length r is log(1 + (C-1) exp(-r)).

    Yields:
        At most one finding.
    """
    response, case = evidence.response, evidence.case
    if case.likelihood != "categorical":
        return
    name, reach = _BOUNDED.get(response.output_function, ("", math.inf))
    if response.rows_sum_to_one:
        name, reach = name or "softmax", 1.0
    if math.isinf(reach):
        return
    least = math.log1p((case.outputs - 1) * math.exp(-reach))
    chance = math.log(case.outputs)
    yield Finding(
        "error" if least > 0.5 * chance else "warning",
        "bounded_outputs",
        f"The model ends in a {name}, but the cross-entropy takes logits: no outputs in that range bring it below "
        f"{least:.3g} nats (chance {chance:.3g}).",
        least,
        0.5 * chance,
        "smallest reachable loss, nats",
        f"Return the values before the {name}.",
        ("output",),
    )


def large_outputs(evidence: Evidence) -> Iterator[Finding]:
    """Outputs too large: the first loss far above chance, or features that the arithmetic cannot resolve.

    Yields:
        At most one finding.
    """
    response, case = evidence.response, evidence.case
    if not evidence.finite:
        return
    rms = math.sqrt(response.output_q)
    features = math.sqrt(response.inputs[-1].q) if response.inputs else 0.0
    resolution = 1 / torch.finfo(_dtype(evidence)).eps  # neighbouring numbers of that size differ by one
    where = (response.inputs[-1].name,) if response.inputs else ()
    if features > resolution:
        yield Finding(
            "error",
            "features_unresolved",
            f"What the last layer reads is so large (root mean square {features:.2g}) that a difference of one, all "
            "that the loss cares about, is lost in its rounding.",
            features,
            resolution,
            "root mean square of the last layer's input",
            "Initialize with the prescription; scale residual branches by 1/sqrt(depth).",
            where,
        )
    elif (
        case.y is not None
        and case.likelihood == "categorical"
        and response.loss > 2 * max(case.chance, math.log(case.outputs))
    ):
        net = "The network as it was read" if case.pretrained else "The untrained net"
        yield Finding(
            "warning",
            "logits_too_large",
            f"{net} is sure of its guesses: its loss is {response.loss:.3g} nats where knowing nothing "
            f"costs {case.chance:.3g} (logits of root mean square {rms:.3g}).",
            response.loss,
            case.chance,
            "loss before training, nats",
            "Make the readout's weights smaller, or zero: the first steps then need not undo them.",
            where,
        )


def _dtype(evidence: Evidence) -> torch.dtype:
    return next((p.dtype for p in evidence.case.model.parameters() if p.is_floating_point()), torch.float32)
