"""What the Jacobian's singular values and the Fisher spectrum say."""

from __future__ import annotations

import math
from collections.abc import Iterator

from isometry.diagnosis._evidence import Evidence
from isometry.diagnosis._finding import Finding
from isometry.diagnosis._jacobian import JacobianEvidence
from isometry.diagnosis.rules._quantities import EFOLDS

__all__ = ["jacobian_conditioning", "rank", "step_size"]

TINY_STEP = 1e-3  # below this, SGD's usual step sizes diverge


def jacobian_conditioning(evidence: Evidence) -> Iterator[Finding]:
    """Badly conditioned Jacobian, against the law of its singular values.

    Yields:
        At most one finding.
    """
    jacobian = evidence.jacobian
    if jacobian is not None and jacobian.start is not None and not jacobian.between_hidden:
        yield _of_embedded(jacobian)
        return
    if (
        jacobian is None
        or not jacobian.between_hidden
        or not math.isfinite(jacobian.mean_square)
        or jacobian.mean_square <= 0
    ):
        return
    folds = math.log(jacobian.mean_square)
    law = jacobian.law
    expected = None if law is None else float(law.s_max)
    beside = "" if expected is None else f" Theory puts the largest at {expected:.3g} for these weights."
    bad = abs(folds) > EFOLDS
    yield Finding(
        "warning" if bad else "info",
        "jacobian",
        f"Between the first and the last hidden layer the Jacobian's singular values reach {jacobian.s_max:.3g}, root "
        f"mean square {math.sqrt(jacobian.mean_square):.3g}.{beside}",
        jacobian.s_max,
        expected,
        "largest singular value",
        "Orthogonal weights at the critical point keep all of them near 1." if bad else None,
        (jacobian.start or "input", jacobian.stop or "output"),
    )


def _of_embedded(jacobian: JacobianEvidence) -> Finding:
    square = jacobian.mean_square
    rms = f", root mean square {math.sqrt(square):.3g}" if math.isfinite(square) else ""
    return Finding(
        "info",
        "jacobian",
        f"The Jacobian {jacobian.of} has singular values up to {jacobian.s_max:.3g}{rms}.",
        jacobian.s_max,
        None,
        "largest singular value",
        None,
        (jacobian.start or "input", jacobian.stop or "output"),
    )


def step_size(evidence: Evidence) -> Iterator[Finding]:
    """The largest stable step of gradient descent: 2 over the Fisher matrix's largest eigenvalue.

    Yields:
        At most one finding.
    """
    fisher = evidence.fisher
    if fisher is None or not evidence.lambda_max > 0:
        return
    largest = 2 / evidence.lambda_max
    drawn = fisher.kind == "monte-carlo" and evidence.exact_top is None
    about = " (of drawn labels, which overstate it)" if drawn else ""
    yield Finding(
        "warning" if largest < TINY_STEP else "info",
        "step_size",
        f"The Fisher matrix's largest eigenvalue is {evidence.lambda_max:.3g}{about}: plain gradient descent is "
        f"stable up to a step size of about {largest:.2g}.",
        largest,
        TINY_STEP if largest < TINY_STEP else None,
        "largest stable step size of plain gradient descent",
        "Use Adam, or scale outputs and inputs down." if largest < TINY_STEP else None,
    )


def rank(evidence: Evidence) -> Iterator[Finding]:
    """How many directions of parameter space share the curvature.

    Yields:
        At most one finding.
    """
    fisher = evidence.fisher
    if fisher is None or not fisher.lambda_max > 0:
        return
    condition = fisher.condition()
    total = len(fisher.eigenvalues())
    median = (
        f"the largest eigenvalue is {condition.median:.2g} times the median"
        if condition.median * condition.cutoff < 1
        else f"{condition.below} are at rounding level"
    )
    drawn = fisher.kind == "monte-carlo"  # the spectrum of few draws has as many directions as rows
    of, rest = ("", "") if drawn else (f" of {total}", f"; {median}")
    if drawn:
        of = " (by drawn labels, which understate it)" if evidence.exact_top is None else " (the trace by drawn labels)"
    yield Finding(
        "info",
        "effective_rank",
        f"{evidence.effective_rank:.3g} directions{of} share the curvature{rest}.",
        evidence.effective_rank,
        None if drawn else float(total),
        "trace over largest eigenvalue",
        None,
    )
