"""Does the input reach the output, and at a sane scale?"""

from __future__ import annotations

import math
from collections.abc import Iterator

from isometry.diagnosis._evidence import Evidence
from isometry.diagnosis._finding import Finding
from isometry.diagnosis._words import count, several
from isometry.diagnosis.rules._quantities import EFOLDS, collapsed, hidden_layers, names

__all__ = ["collapse", "forward_scale", "input_scale", "raw_inputs"]

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
            f" Theory: xi_c = {several(p.xi_c, 'layer')}, trainable to about 6 xi_c = {p.trainable_depth:.3g} of "
            f"{count(evidence.chain.depth, 'layer')}."
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
        f"{layers[-1].q:.2g} over {count(span, 'layer')}, one e-fold every {several(span / abs(folds), 'layer', 2)}."
        f"{beside}",
        folds,
        expected if expected is not None else 0.0,
        "e-folds of the second moment over the hidden layers",
        "Initialize with the prescription; scale residual branches by 1/sqrt(depth) or normalize.",
        names(layers),
    )


def raw_inputs(evidence: Evidence) -> Iterator[Finding]:
    """Raw inputs: does the first layer read numbers far from one, as raw measurements and 8-bit pixels are?

    A model that rescales its inputs itself is left alone: what its first weight layer reads counts as well.

    Yields:
        At most one finding.
    """
    rms = _input_rms(evidence)
    inputs = evidence.response.inputs
    if not rms > LARGE_INPUT or (inputs and inputs[0].q <= LARGE_INPUT**2):
        return
    x = evidence.case.x.leaf
    if x is None:  # pragma: no cover - tokens have no root mean square
        return
    low, high = float(x.min()), float(x.max())
    pixels = low >= 0 and high <= 255
    what = "raw measurements"
    if pixels:
        what = "8-bit pixels" if bool((x == x.round()).all()) else "8-bit pixels or raw measurements"
    yield Finding(
        "warning",
        "input_scale",
        f"The inputs are not scaled: {what}, it seems (root mean square {rms:.3g}, from {low:.3g} to {high:.3g}).",
        rms,
        1.0,
        "root mean square of the inputs",
        "Standardize the inputs: subtract the mean and divide by the standard deviation"
        + (" (for 8-bit pixels at least divide by 255)." if pixels else "."),
        ("input",),
    )


def input_scale(evidence: Evidence) -> Iterator[Finding]:
    """Input scale off q*: does h^1 start near q*?

    Yields:
        At most one finding.
    """
    prediction, signal = evidence.prediction, evidence.signal
    if not _input_rms(evidence) <= LARGE_INPUT or prediction is None or signal is None:
        return
    if not prediction.q_star or prediction.phase == "critical":
        return
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


def _input_rms(evidence: Evidence) -> float:
    x = evidence.case.x.leaf
    return math.nan if x is None else float(x.double().square().mean().sqrt())
