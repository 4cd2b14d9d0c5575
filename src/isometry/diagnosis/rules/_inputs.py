"""Are the samples samples: do they differ, and is the output for one its own?"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from isometry.diagnosis._evidence import Evidence
from isometry.diagnosis._finding import Finding
from isometry.diagnosis._nodes import NodeInputs
from isometry.diagnosis._words import count
from isometry.tape import untouched

__all__ = ["distinct_samples", "indistinct_inputs", "unsteady_outputs"]

FEW = 0.1  # of the samples
CHANGED = 1e-3  # of the outputs' size; rounding in another batch size is far below
INFLUENCE = "samples influence each other"  # with which the Jacobian refuses
WITHIN = (
    "Take statistics within a sample, or running ones; the nodes of one graph are one sample: Inputs(..., whole=True)."
)
ALIKE = 1e-6  # of the inputs' size: what float32 hardly resolves


def distinct_samples(evidence: Evidence) -> int:
    """Count the samples that differ from each other by more than rounding.

    Returns:
        At least one.
    """
    columns = [_rounded(t) for t in evidence.case.x.rows()]
    if not columns:
        return 1
    return len(torch.unique(torch.cat([c.double() for c in columns], 1), dim=0))


def _rounded(rows: Tensor) -> Tensor:
    flat = rows.detach().double().reshape(len(rows), -1)  # ids and times are one number a sample
    size = float(flat.square().mean().sqrt())
    if not rows.is_floating_point() or size == 0:
        return flat
    return (flat / (ALIKE * size)).round()


def indistinct_inputs(evidence: Evidence) -> Iterator[Finding]:
    """Inputs that hardly differ: nothing can be learned about labels from them.

    Yields:
        At most one finding.
    """
    if isinstance(evidence.case.x, NodeInputs):
        return  # nodes with equal features differ by their neighbours
    samples, distinct = len(evidence.case.x), distinct_samples(evidence)
    if distinct > max(2, FEW * samples) or samples < 3:
        return
    alone = distinct == 1
    yield Finding(
        "error" if alone else "warning",
        "indistinct_inputs",
        f"All {samples} inputs are the same, up to rounding: there is nothing to tell their labels apart by."
        if alone
        else f"Of {samples} inputs only {count(distinct, 'one differs', 'differ')} from all others.",
        float(distinct),
        float(samples),
        "different inputs",
        "Look at the data: how they are loaded, scaled and stored. No initialization helps.",
        ("input",),
    )


@torch.no_grad()
def unsteady_outputs(evidence: Evidence) -> Iterator[Finding]:
    """Outputs that are not a function of their own sample: drawn anew each time, or dependent on the other samples.

    Yields:
        At most one finding.
    """
    model, x = evidence.case.model, evidence.case.x
    if not evidence.finite or len(x) < 4:
        return
    with untouched(model, training=False):
        whole, again = x.clone().run(model), x.clone().run(model)
        try:
            few = whole[:2] if isinstance(x, NodeInputs) else x[:2].clone().run(model)  # nodes are meant to be coupled
        except (RuntimeError, ValueError, IndexError):
            few = None
    size = float(whole.abs().max())
    if float((whole - again).abs().max()) > CHANGED * size:
        yield Finding(
            "warning",
            "random_outputs",
            "In evaluation mode the model gives another output each time, so quantities of single samples, and half of "
            "what is measured here, are undefined.",
            float((whole - again).abs().max()),
            0.0,
            "largest change between two passes",
            "Draw random numbers in training mode only (if self.training: ...).",
            ("output",),
        )
    elif few is None or few.shape != whole[:2].shape or float((few - whole[:2]).abs().max()) > CHANGED * size:
        yield Finding(
            "warning",
            "coupled_samples",
            "The output for one sample depends on the others in the batch, so quantities of single samples, and half "
            "of what is measured here, are undefined.",
            float("nan") if few is None or few.shape != whole[:2].shape else float((few - whole[:2]).abs().max()),
            0.0,
            "largest change of two samples' outputs without the others",
            WITHIN,
            ("output",),
        )
    elif few is not None and any(INFLUENCE in skipped.why for skipped in evidence.skipped):  # by exact derivatives
        yield Finding(
            "warning",
            "coupled_samples",
            "The output for one sample depends weakly on the others in the batch: its derivative in their inputs is "
            "not zero. Quantities of single samples are then undefined, and those that insist on independent samples "
            "are not measured.",
            float((few - whole[:2]).abs().max()),
            0.0,
            "largest change of two samples' outputs without the others",
            WITHIN,
            ("output",),
        )
