"""Does the gradient reach the first layers, and may a step follow it?"""

from __future__ import annotations

import math
from collections.abc import Iterator

from isometry.diagnosis._evidence import Evidence
from isometry.diagnosis._finding import Finding
from isometry.diagnosis._response import ADAM_EPS, SMALL_STEP
from isometry.diagnosis._words import count, several
from isometry.diagnosis.rules._quantities import (
    EFOLDS,
    WHERE,
    collapsed,
    gradient_efolds,
    hidden_layers,
    names,
    reached,
    transforming,
)

__all__ = ["UNRULY", "gradient_scale", "no_gradient", "unreachable", "unruly_step", "vanished"]

UNRULY = 1.0  # curvature alone then moves the outputs as much as the inputs do; unrelated outputs give 1.22
WAKES = 6  # layers of tiny weights that a few hundred steps wake one after another through their biases
ASLEEP = 0.2  # sigma_w below which a layer counts as asleep: Adam's updates outgrow it before it passes a signal


def gradient_scale(evidence: Evidence) -> Iterator[Finding]:
    """Vanishing or exploding gradient over the hidden layers: measured e-fold depth against the predicted one.

    Yields:
        At most one finding.
    """
    folds = gradient_efolds(evidence)
    layers = reached(evidence)
    if math.isnan(folds) or abs(folds) <= EFOLDS:
        return
    span = len(layers) - 1
    hidden = len(transforming(evidence))
    zeros = hidden - len(layers)
    silent = f"; it is exactly zero in the first {'layer' if zeros == 1 else zeros}" if zeros else ""
    measured = span / abs(folds)
    grows = folds > 0
    p = evidence.prediction
    xi = p.xi_grad if p is not None and math.isfinite(p.xi_grad) else None
    beside = (
        ""
        if xi is None
        else f" Theory predicts one e-fold every {several(abs(xi), 'layer')} ({'growing' if xi < 0 else 'falling'})."
    )
    fatal = _unruly(evidence) if grows else collapsed(evidence.response)
    yield Finding(
        "error" if fatal else "warning",
        "exploding_gradient" if grows else "vanishing_gradient",
        f"The squared gradient {'grows' if grows else 'falls'} by one e-fold every {several(measured, 'layer')} on its "
        f"way to the first of {hidden} hidden layers, {several(abs(folds), 'e-fold')} in all{silent}.{beside}",
        measured,
        None if xi is None else abs(xi),
        "layers per e-fold of the squared gradient",
        "Initialize with the prescription, so that chi = 1; residual connections or normalization help as well.",
        names(layers),
    )


def unruly_step(evidence: Evidence) -> Iterator[Finding]:
    """No step small enough: does the smallest sensible step do what the gradient says?

    Yields:
        At most one finding.
    """
    if not _unruly(evidence):
        return
    yield Finding(
        "error",
        "unruly_step",
        f"Even a step of Adam at {SMALL_STEP:g} changes the outputs in an unrelated way: what "
        f"curvature alone does is {evidence.response.unruliness:.2f} times what the inputs do, so the gradient says "
        "nothing about the step's effect.",
        evidence.response.unruliness,
        UNRULY,
        "curvature's part of the smallest sensible step over the outputs' spread (unrelated outputs: 1.22)",
        "Bring the gradient's growth per layer down (critical initialization, residual connections with scaled "
        "branches); fewer layers between skips help as well.",
        names(hidden_layers(evidence)),
    )


def _unruly(evidence: Evidence) -> bool:
    response = evidence.response
    return response.unruliness > UNRULY and response.terminal > response.noise


def no_gradient(evidence: Evidence) -> Iterator[Finding]:
    """No gradient at all: is there any weight that training would move?

    Yields:
        At most one finding.
    """
    response = evidence.response
    if not evidence.finite or response.strongest > 0:
        return
    matrices = [g for g in response.gradients if g.matrix]
    message, remedy = _stuck(evidence) if matrices else _frozen(evidence)
    yield Finding(
        "error",
        "no_gradient",
        message,
        0.0,
        ADAM_EPS,
        "largest gradient of a weight, root mean square per entry",
        remedy,
        tuple(g.name for g in matrices[:WHERE]),
    )


def _stuck(evidence: Evidence) -> tuple[str, str]:
    one = sum(g.matrix for g in evidence.response.gradients) == 1
    return (
        "The only weight matrix to be trained receives no gradient: training does not move it."
        if one
        else "No weight matrix receives a gradient: training moves none of them.",
        "Look for a detach(), an argmax or a torch.no_grad() on the way to the "
        "loss, for dead or zeroed layers and for a frozen zero readout; initialize those layers anew.",
    )


def _frozen(evidence: Evidence) -> tuple[str, str]:
    """Say what is frozen: every parameter, or all but biases and scales.

    Returns:
        Message and remedy.
    """
    left = len(evidence.response.gradients)
    if left:
        return (
            f"Every weight matrix is frozen: {count(left, 'vector')} (biases, scales) "
            f"{'is' if left == 1 else 'are'} all that training moves.",
            "Call requires_grad_(True) on the weights that are to be trained, at least on the readout.",
        )
    return (
        "Every parameter is frozen: none requires a gradient, so training would change nothing.",
        "Call requires_grad_(True) on what is to be trained. If the model is meant to stay as it is, nothing needs to "
        "be done: all other findings describe it as it stands.",
    )


def vanished(evidence: Evidence) -> Iterator[Finding]:
    """Gradient below what an optimizer can see: Adam divides by its root mean square plus 1e-8.

    A stack of tiny weights can wake up layer by layer, from the last to the first, since its biases still learn.

    Yields:
        At most one finding.
    """
    response = evidence.response
    if not evidence.finite or not 0 < response.strongest < ADAM_EPS:
        return
    asleep = _asleep(evidence)
    wakes = asleep is not None and asleep <= WAKES
    yield Finding(
        "warning" if wakes else "error",
        "gradient_underflow",
        f"No weight has a gradient above {response.strongest:.1e} per entry: below the {ADAM_EPS:g} that Adam adds to "
        "its denominator, and far below what SGD needs.",
        response.strongest,
        ADAM_EPS,
        "largest gradient of a weight, root mean square per entry",
        "Initialize with the prescription; look for factors or gates that shut the signal off.",
        tuple(g.name for g in response.gradients if g.matrix)[:WHERE],
    )


def _asleep(evidence: Evidence) -> int | None:
    """Count the layers of a chain with tiny weights, if these are why gradients vanish and biases can wake them.

    Returns:
        The count; None if the cause is another one.
    """
    response = evidence.response
    fans = {layer.name: layer.fan_in for layer in response.inputs}
    weights = {g.name.removesuffix(".weight"): g for g in response.gradients if g.matrix}
    biases = {g.name.removesuffix(".bias") for g in response.gradients if g.name.endswith("bias")}
    if evidence.chain is None or not set(fans) <= set(weights) or not set(list(fans)[:-1]) <= biases:
        return None
    tiny = [n for n, fan in fans.items() if weights[n].weight_rms * math.sqrt(fan) < ASLEEP]
    return len(tiny) if tiny else None


def unreachable(evidence: Evidence) -> Iterator[Finding]:
    """Parameters that are to be trained but that no gradient reaches.

    Yields:
        At most one finding.
    """
    response = evidence.response
    if not evidence.finite or response.strongest == 0:
        return
    lost = [g for g in response.gradients if not g.reached]
    still = [g for g in response.gradients if g.reached and g.matrix and g.rms == 0]
    if lost:
        yield Finding(
            "warning",
            "unreachable_parameters",
            f"{len(lost)} of {count(len(response.gradients), 'parameter')} {'is' if len(lost) == 1 else 'are'} not "
            "connected to the loss.",
            float(len(lost)),
            0.0,
            "parameters without a path to the loss",
            "Remove a detach() or no_grad() on the way, or freeze what is meant to stay.",
            tuple(g.name for g in lost[:WHERE]),
        )
    if still:
        one = len(still) == 1
        yield Finding(
            "info",
            "zero_gradient",
            f"{count(len(still), 'weight')} {'starts' if one else 'start'} with a gradient of exactly zero: zero "
            f"layers stand before or behind {'it' if one else 'them'}, or the gradient underflowed.",
            float(len(still)),
            0.0,
            "weights with zero gradient",
            "Nothing, if the zeros are meant (zero-initialized readout or branches); else initialize those layers.",
            tuple(g.name for g in still[:WHERE]),
        )
