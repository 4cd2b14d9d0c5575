"""Weights that were read and not drawn: remedies that keep what they have learned, and no initialization unasked."""

from __future__ import annotations

import re
from dataclasses import replace

from isometry.diagnosis._finding import Finding

__all__ = ["OVERWRITES", "WITHHELD", "spared"]

WITHHELD = (
    "the model's weights were read from a checkpoint, and an initialization would overwrite what they have learned, so "
    "none is prescribed; isometry.prescribe(model, data) and init.critical_(model) draw new ones where that is wanted"
)
OVERWRITES = "The model's weights were read from a checkpoint: this initialization overwrites them."

_DRAWING = re.compile("initiali|prescri|orthogonal", re.IGNORECASE)
_DESTRUCTIVE = ("logits_too_large",)
_KEEP = "Warm the learning rate up from a small one, or freeze the layers that are named."
_SCALE = "Compare the inputs' scale and the tokenizer with those of the pretraining"
# What to do instead, by code, where the rule's own remedy would draw the weights anew.
_REMEDIES = {
    "correlation_collapse": f"{_SCALE}; fine-tune the last layers first and keep the others frozen.",
    "constant_output": "Find the layer behind which nothing varies in the signal table and compare it with the "
    "checkpoint: weights that were not in it, or that were read wrongly, are the usual cause.",
    "vanishing_signal": f"{_SCALE}; where only the new head is affected, scale what it reads.",
    "exploding_signal": f"{_SCALE}; warm the learning rate up, and clip gradients.",
    "vanishing_gradient": "Give early layers a larger learning rate (by layer), or freeze them and fine-tune the last.",
    "exploding_gradient": "Warm the learning rate up from a small one, clip gradients, or freeze the early layers.",
    "gradient_underflow": "Look for factors or gates that shut the signal off; a gradient scaler scales the loss up.",
    "unruly_step": "Lower the learning rate and warm it up, or freeze the layers before the last ones.",
    "no_gradient": "Look for a detach(), an argmax or a torch.no_grad() on the way to the loss, and for frozen or zero "
    "layers behind the pretrained ones.",
    "nonfinite_parameters": "Read the checkpoint again, in float32 or bfloat16; check what wrote it.",
    "zero_gradient": "Nothing, if the zeros are meant (adapters and new heads often start at zero).",
    "dead_units": f"{_SCALE}; units that stay silent on all data can be pruned.",
    "saturated_units": f"{_SCALE}; make the inputs smaller.",
    "identical_units": "Compare the last layers with the checkpoint: weights that were not in it, or that were read "
    "wrongly, are the usual cause.",
    "constant_weights": "Fine for a new head; else see whether the checkpoint holds these weights.",
    "features_unresolved": f"{_SCALE}; measure in float32.",
    "logits_too_large": f"{_SCALE}, and the labels' order with the head's; a new head may start at zero.",
    "input_scale": "Scale the inputs as in the pretraining: subtract the mean and divide by the standard deviation.",
    "jacobian": "Warm the learning rate up from a small one, or freeze the early layers.",
}


def spared(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Give findings on pretrained weights remedies that do not draw those anew.

    Args:
        findings: What was found.

    Returns:
        The same findings; those remedies are replaced that speak of drawing weights, or of zeroing the readout.
    """
    return tuple(replace(f, remedy=_REMEDIES.get(f.code, _KEEP)) if _draws(f) else f for f in findings)


def _draws(finding: Finding) -> bool:
    return finding.remedy is not None and (finding.code in _DESTRUCTIVE or bool(_DRAWING.search(finding.remedy)))
