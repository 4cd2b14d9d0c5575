"""Does the input reach the output, and at a sane scale?"""

from __future__ import annotations

import math
from collections.abc import Iterator

from isometry.diagnosis._evidence import Evidence
from isometry.diagnosis._finding import Finding
from isometry.diagnosis.rules._quantities import EFOLDS, collapsed, hidden_layers, names

__all__ = ["collapse", "forward_scale", "input_scale"]

LARGE_INPUT = 10.0  # root mean square: data in units of its own spread lie near 1
INITIALIZE = "Initialize with the prescription (critical sigma_w and sigma_b), add residual connections or normalize."


def collapse(evidence: Evidence) -> Iterator[Finding]:
    """Correlation collapse: do different inputs still look different where the last layer reads?

    Mean-field networks are trainable to a depth of about 6 xi_c, that is until the share of the signal that tells
    inputs apart has fallen by exp(-6). Below the rounding noise it is gone for any optimizer.

    Yields:
        At most one finding.
    """
    response = evidence.response
    start = response.inputs[0].distinguishability if response.inputs else math.nan
    share = response.terminal
    if not evidence.finite or math.isnan(start):
        return
    where = (response.inputs[-1].name,) if response.inputs else ()
    if math.isnan(share) or share == 0:
        revived = response.after is not None and response.after.distinguishability > response.noise
        if not revived and response.strongest > 0:
            yield Finding(
                "error",
                "constant_output",
                "The last layer is given the same values for every input, and one training step does not change that.",
                0.0,
                start,
                "share of the signal that varies over the inputs",
                "Find the layer behind which nothing varies (dead or saturated units, a zeroed weight, an average "
                "over the batch) in the signal table and initialize it anew.",
                where,
            )
        return
    folds = math.log(start / share)
    if folds <= EFOLDS:
        return
    lost = collapsed(response)
    theory = ""
    if evidence.prediction is not None and evidence.chain is not None:
        p = evidence.prediction
        theory = (
            f" Theory: xi_c = {p.xi_c:.3g} layers, trainable to about 6 xi_c = {p.trainable_depth:.3g} of "
            f"{evidence.chain.depth} layers."
        )
    limit = "below the rounding noise of the arithmetic" if lost else "above rounding noise"
    yield Finding(
        "error" if lost else "warning",
        "correlation_collapse",
        f"Inputs become indistinguishable with depth: the share of the signal that tells them apart falls from "
        f"{start:.2g} to {share:.1e}, {limit} ({response.noise:.1e}).{theory}",
        folds,
        EFOLDS,
        "e-folds lost; trainable nets lose at most 6",
        INITIALIZE,
        where,
    )


def forward_scale(evidence: Evidence) -> Iterator[Finding]:
    """Vanishing or exploding signal: how many e-folds does the second moment change over the hidden layers?

    Yields:
        At most one finding.
    """
    layers = [x for x in hidden_layers(evidence) if math.isfinite(x.q) and x.q > 0]
    if len(layers) < 3:
        return
    folds = math.log(layers[-1].q / layers[0].q)
    if abs(folds) <= EFOLDS:
        return
    span = max(len(layers) - 1, 1)
    expected: float | None = None
    if evidence.prediction is not None and 0 < evidence.prediction.q[-1] < math.inf and evidence.prediction.q[0] > 0:
        expected = math.log(evidence.prediction.q[-1] / evidence.prediction.q[0])
    beside = "" if expected is None else f" Theory predicts {expected:.3g}."
    grows = folds > 0
    yield Finding(
        "warning",
        "exploding_signal" if grows else "vanishing_signal",
        f"The signal {'grows' if grows else 'shrinks'}: its second moment goes from {layers[0].q:.2g} to "
        f"{layers[-1].q:.2g} over {span} layers, one e-fold every {span / abs(folds):.2g} layers.{beside}",
        folds,
        expected if expected is not None else 0.0,
        "e-folds of the second moment over the hidden layers",
        "Initialize with the prescription; scale residual branches by 1/sqrt(depth) or normalize.",
        names(layers),
    )


def input_scale(evidence: Evidence) -> Iterator[Finding]:
    """Input scale off q*: are the inputs in units of their own spread, and does h^1 start near q*?

    Yields:
        At most one finding.
    """
    x = evidence.case.x
    if not x.is_floating_point():
        return
    rms = float(x.double().square().mean().sqrt())
    prediction, signal = evidence.prediction, evidence.signal
    if rms > LARGE_INPUT:
        yield Finding(
            "warning",
            "input_scale",
            f"The inputs are large (root mean square {rms:.3g}, from {float(x.min()):.3g} to {float(x.max()):.3g}): "
            "raw measurements or 8-bit pixels, it seems.",
            rms,
            1.0,
            "root mean square of the inputs",
            "Standardize the inputs (subtract the mean, divide by the standard deviation; for 8-bit images at least "
            "divide by 255).",
            ("input",),
        )
    elif prediction is not None and prediction.q_star and signal is not None and prediction.phase != "critical":
        q1 = prediction.q[0]
        if q1 > 0 and abs(math.log(q1 / prediction.q_star)) > math.log(10.0):
            yield Finding(
                "info",
                "input_scale",
                f"The first layer's second moment, {q1:.2g}, is far from {prediction.q_star:.2g}, where it settles.",
                q1,
                prediction.q_star,
                "second moment of the first pre-activations",
                "Scale the inputs, or let the prescription absorb the scale in the first layer.",
                ("input",),
            )
