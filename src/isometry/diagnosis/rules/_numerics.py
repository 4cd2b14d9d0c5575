"""Is everything finite, and would narrower number formats do?"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from isometry.diagnosis._evidence import Evidence
from isometry.diagnosis._finding import Finding
from isometry.diagnosis._words import count
from isometry.diagnosis.rules._quantities import WHERE

__all__ = ["narrow_formats", "nonfinite"]

SHARE = 0.01  # of a layer's values
MOST = 0.5


def nonfinite(evidence: Evidence) -> Iterator[Finding]:
    """NaN or infinity in parameters, signal or gradient: where it starts.

    Yields:
        At most one finding.
    """
    bad = [n for n, p in evidence.case.model.named_parameters() if not bool(torch.isfinite(p).all())]
    signal = evidence.signal
    if bad:
        yield Finding(
            "error",
            "nonfinite_parameters",
            f"{count(len(bad), 'parameter')} {'holds' if len(bad) == 1 else 'hold'} NaN or infinity"
            f"{': ' if len(bad) == 1 else ', first '}{bad[0]}.",
            float(len(bad)),
            0.0,
            "parameters with non-finite values",
            "Load or initialize them anew; check what wrote them.",
            tuple(bad[:WHERE]),
        )
    elif not evidence.finite:
        start = None if signal is None else signal.nonfinite_at or signal.gradient_nonfinite_at
        yield Finding(
            "error",
            "nonfinite_signal",
            f"The {'signal' if signal is None or signal.nonfinite_at else 'gradient'} is not finite"
            + ("." if start is None else f" from {start} on."),
            "not finite",
            "finite",
            None,
            "Make weights or inputs smaller; look for divisions by zero and logarithms of zero in that layer.",
            () if start is None else (start,),
        )


def narrow_formats(evidence: Evidence) -> Iterator[Finding]:
    """Risk of underflow or overflow in float16 or bfloat16; a warning only if the model already runs in that format.

    Yields:
        At most one finding for each format and direction.
    """
    if evidence.signal is None or not evidence.finite:
        return
    own = next((p.dtype for p in evidence.case.model.parameters() if p.is_floating_point()), torch.float32)
    for label, dtype, limit in (("fp16", torch.float16, 6.1e-5), ("bf16", torch.bfloat16, 1.2e-38)):
        worst = _worst(evidence, f"overflow_{label}", ("values", "gradients"))
        if worst is not None and worst[1] > 0:
            yield Finding(
                "warning",
                f"{label}_overflow",
                f"{worst[1]:.1%} of the values of {worst[0]} would overflow in {label}.",
                worst[1],
                0.0,
                "share of a layer's values",
                "Keep this model in float32, or bring the signal to q* first.",
                (worst[0],),
            )
        worst = _worst(evidence, f"underflow_{label}", ("gradients",))
        if worst is not None and worst[1] > (MOST if label == "fp16" else SHARE):
            yield Finding(
                "warning" if own == dtype else "info",
                f"{label}_underflow",
                f"{worst[1]:.0%} of the gradient at {worst[0]} is below {label}'s smallest normal number ({limit:g}).",
                worst[1],
                SHARE,
                "share of a layer's gradient",
                "Scale the loss (torch.amp.GradScaler)." if label == "fp16" else "Use float32 here.",
                (worst[0],),
            )


def _worst(evidence: Evidence, risk: str, kinds: tuple[str, ...]) -> tuple[str, float] | None:
    found = [
        (layer.name, float(getattr(part, risk)))
        for layer in (evidence.signal.layers if evidence.signal is not None else ())
        for part in (getattr(layer, kind) for kind in kinds)
        if part is not None
    ]
    return max(found, key=lambda pair: pair[1], default=None)
