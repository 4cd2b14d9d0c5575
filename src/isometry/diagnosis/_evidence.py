"""All that is measured and predicted before any rule speaks."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch

from isometry import measure, theory
from isometry._base import MemoryBudgetError, progress
from isometry.diagnosis._branches import branch_layers
from isometry.diagnosis._case import Case
from isometry.diagnosis._chain import Chain, find_chain
from isometry.diagnosis._hidden import HiddenFisher, measure_hidden
from isometry.diagnosis._jacobian import JacobianEvidence, measure_jacobian
from isometry.diagnosis._nodes import NodeInputs, signal_targets
from isometry.diagnosis._prediction import Phase, Prediction, phase_of, predict
from isometry.diagnosis._response import Response, measure_response
from isometry.diagnosis._words import count
from isometry.tape import Inputs, flushed_denormals, untouched
from isometry.training import suitable_threads

__all__ = ["Evidence", "JacobianEvidence", "Skipped", "gather"]

T = TypeVar("T")
LEAST_CHI = 1e-6  # per layer: below, every unit is saturated and the law has collapsed to zero
FISHER_ROWS = 1500  # rows of the dual Gram matrix up to which the spectrum is worth its time here
TINY_GRADIENT = 1e-25  # root mean square
DRAWS = 8  # labels per position, where the exact spectrum has more rows for two samples than that
TOP_STEPS = 40  # most products for the largest eigenvalue; each is two to three passes of the batch
MOST_SAMPLED = 16  # samples then
DIRECTION_BYTES = 512 * 2**20  # of those directions in the space of the outputs
GRAPH_WORK = 10**11  # multiply-adds of the gradients of one whole graph: up to half a minute
MOST_OUTPUTS = 512  # of a sample, positions included, up to which the certificate is worth its time


@dataclass(frozen=True)
class Skipped:
    """What was not measured.

    Attributes:
        what: The part.
        why: The reason.
    """

    what: str
    why: str


@dataclass(eq=False)
class Evidence:
    """Everything that rules may look at.

    Attributes:
        case: The case.
        response: How the network answers to its inputs and to one small step.
        signal: The signal by layer; None if it could not be measured.
        branches: Names of weight layers that a path from the input to the output goes around.
        chain: The chain that theory describes, or None.
        prediction: What theory says of it, or None.
        phase: The phase diagram around it, or None.
        jacobian: Singular values, or None.
        fisher: The Fisher spectrum of all parameters, or None.
        exact_top: Its largest eigenvalue by products, where ``fisher`` has drawn labels, whose own is too large.
        certificate: An upper bound of its largest eigenvalue that holds for every network, or None.
        hidden: The largest eigenvalue of the hidden layers' parameters with the theorem's bound, or None.
        skipped: What was not measured, and why.
        seconds: Time by part.
    """

    case: Case
    response: Response
    signal: measure.SignalResult | None = None
    branches: frozenset[str] = frozenset()
    chain: Chain | None = None
    prediction: Prediction | None = None
    phase: Phase | None = None
    jacobian: JacobianEvidence | None = None
    fisher: measure.Fisher | None = None
    exact_top: float | None = None
    certificate: float | None = None
    hidden: HiddenFisher | None = None
    skipped: list[Skipped] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def lambda_max(self) -> float:
        """The Fisher matrix's largest eigenvalue; NaN if it was not measured."""
        if self.exact_top is not None:
            return self.exact_top
        return math.nan if self.fisher is None else self.fisher.lambda_max

    @property
    def effective_rank(self) -> float:
        """The Fisher matrix's trace, of which drawn labels are an unbiased estimate, over its largest eigenvalue."""
        if self.fisher is None:
            return math.nan
        return self.fisher.trace / self.exact_top if self.exact_top else self.fisher.effective_rank

    @property
    def finite(self) -> bool:
        """Whether parameters, signal and gradient are all finite."""
        parameters = all(bool(torch.isfinite(p).all()) for p in self.case.model.parameters())
        return parameters and math.isfinite(self.response.output_q) and not math.isnan(self.response.strongest)


PARTS = (
    "response",
    "signal",
    "chain",
    "theory",
    "phase diagram",
    "Jacobian",
    "law of the Jacobian",
    "Fisher information",
    "theorem's bound on the hidden layers",
)
FOR_CHAINS = "theory, phase diagram, law of the Jacobian, theorem's bound on the hidden layers"


def gather(case: Case, *, budget: int | None = None) -> Evidence:
    """Measure everything that the rules need, cheap things first.

    What does not apply to this model, or would not fit into the budget, is listed in ``skipped`` with the reason.

    Args:
        case: The case.
        budget: Bytes that a dense measurement may take; None for the library's default.

    Returns:
        The evidence.
    """
    started = time.perf_counter()
    with suitable_threads(case.model, FISHER_ROWS):
        evidence = Evidence(case, measure_response(case))
        evidence.seconds["response"] = time.perf_counter() - started
        with flushed_denormals(alone=True) if _vanishing(evidence.response) else contextlib.nullcontext():
            _measure(evidence, budget)
    return evidence


def _vanishing(response: Response) -> bool:
    """Tell whether gradients become so small on their way that arithmetic gets slow over them.

    Returns:
        Whether a weight's gradient is near the end of float32's range, or beyond it.
    """
    return any(g.matrix and g.reached and g.rms < TINY_GRADIENT for g in response.gradients)


def _measure(evidence: Evidence, budget: int | None) -> None:
    case = evidence.case
    _part(evidence, 1, lambda: setattr(evidence, "signal", _signal(case)))
    if not evidence.finite:
        for what in PARTS[2:]:
            evidence.skipped.append(Skipped(what, "parameters, signal or gradient are not finite"))
        return
    _part(evidence, 2, lambda: _chain(evidence))
    if evidence.chain is not None:
        _part(evidence, 3, lambda: _predict(evidence))
        _part(evidence, 4, lambda: _phase(evidence))
    with untouched(case.model, training=False):  # per-sample quantities do not exist under dropout
        _part(evidence, 5, lambda: _jacobian(evidence, budget))
        if evidence.chain is not None:
            _part(evidence, 6, lambda: _law(evidence))
        _part(evidence, 7, lambda: _fisher(evidence, budget))
        if evidence.chain is not None:
            _part(evidence, 8, lambda: _hidden_fisher(evidence, budget))
    progress("Diagnosis", len(PARTS), len(PARTS))


class _NotApplicableError(Exception):
    """A part that does not apply to this model; the message says why."""


def _part(evidence: Evidence, index: int, run: Callable[[], Any]) -> None:
    what = PARTS[index]
    progress("Diagnosis", index, len(PARTS))
    started = time.perf_counter()
    try:
        run()
    except (
        _NotApplicableError,
        MemoryBudgetError,
        ValueError,
        NotImplementedError,
        RuntimeError,
        ArithmeticError,
    ) as error:
        evidence.skipped.append(Skipped(what, " ".join(str(error).split())[:400]))
    evidence.seconds[what] = time.perf_counter() - started


def _signal(case: Case) -> measure.SignalResult:
    generator = torch.Generator().manual_seed(case.seed)
    targets = case.y if not isinstance(case.x, NodeInputs) else signal_targets(case.model, case.x, case.y)
    return measure.signal(case.model, case.x, targets, training=False, generator=generator)


def _chain(evidence: Evidence) -> None:
    evidence.chain, why = find_chain(evidence.case)
    if evidence.chain is None:
        evidence.skipped.append(Skipped("mean-field theory", why))
        evidence.skipped.append(Skipped(FOR_CHAINS, "only for chains that mean-field theory describes"))
        if evidence.signal is not None:
            layers = {layer.name for layer in evidence.signal.weight_layers}
            evidence.branches = branch_layers(evidence.case.model, evidence.case.x, layers)


def _hidden(evidence: Evidence) -> tuple[measure.LayerSignal, ...]:
    if evidence.chain is None or evidence.signal is None:
        raise _NotApplicableError("the model is not a chain that mean-field theory describes")
    names = {layer.name for layer in evidence.chain.layers[:-1]}
    return tuple(layer for layer in evidence.signal.weight_layers if layer.name in names)


def _predict(evidence: Evidence) -> None:
    first = _hidden(evidence)[0]
    if evidence.chain is not None and first.q > 0:
        evidence.prediction = predict(evidence.chain, first.q, first.correlation)


def _phase(evidence: Evidence) -> None:
    if evidence.chain is None:
        raise _NotApplicableError("the model is not a chain that mean-field theory describes")
    evidence.phase = phase_of(evidence.chain)


def _jacobian(evidence: Evidence, budget: int | None) -> None:
    if isinstance(evidence.case.x, NodeInputs):
        raise _NotApplicableError(
            "the nodes of one graph influence each other, so none has a Jacobian of its own, and the whole graph's is "
            "of all nodes' outputs in all nodes' inputs"
        )
    signal = evidence.signal
    widest = 0 if signal is None else max((layer.units for layer in signal.layers), default=0)
    evidence.jacobian = measure_jacobian(evidence.case, evidence.chain, widest, budget)
    if evidence.jacobian.left_out:
        evidence.skipped.append(Skipped("all singular values of the Jacobian", evidence.jacobian.left_out))


def _law(evidence: Evidence) -> None:
    chain, prediction, jacobian = evidence.chain, evidence.prediction, evidence.jacobian
    if chain is None or prediction is None or jacobian is None or not jacobian.between_hidden:
        raise _NotApplicableError("the Jacobian between hidden layers of a chain was not measured")
    if prediction.chi < LEAST_CHI:
        raise _NotApplicableError(f"chi = {prediction.chi:.1e}: theory leaves no singular value to compare with")
    if not prediction.q_star or not chain.uniform:
        raise _NotApplicableError("the layers' scales differ, or q does not settle: there is no common q*")
    if not all(layer.fan_in == layer.fan_out for layer in chain.layers[1:-1]):
        raise _NotApplicableError("the hidden layers are not square")
    law = theory.jacobian_law(
        chain.activation_like,  # type: ignore[arg-type]
        depth=chain.depth - 1,
        q_star=prediction.q_star,
        sigma_w=chain.sigma_w,
        weights="orthogonal" if chain.weights == "orthogonal" else "gaussian",
    )
    evidence.jacobian = replace(jacobian, law=law)


def _fisher(evidence: Evidence, budget: int | None) -> None:
    case = evidence.case
    graph = isinstance(case.x, NodeInputs)
    x, sampled = _fisher_inputs(case), _exact_rows(case) > (_rows_of_graph(case) if graph else FISHER_ROWS // 2)
    numbers = _output_numbers(case)  # of one sample
    draws = max(DRAWS, _rows_of_graph(case)) if graph else DRAWS
    if sampled:
        one = "the graph" if graph else "a sample"
        evidence.skipped.append(
            Skipped(
                "the exact Fisher information",
                f"{_exact_rows(case):,} rows for {one}; labels were drawn from the model instead, {draws} for each, "
                "for the spectrum, its trace and its condition number",
            )
        )
    evidence.fisher = measure.fisher(
        case.model,
        x,
        likelihood=case.likelihood,
        kind="monte-carlo" if sampled else "true",
        draws=draws,
        budget=budget,
        generator=torch.Generator(case.x.device).manual_seed(case.seed),
    )
    if sampled:
        _exact_top(evidence, x, budget)
    try:
        if numbers > MOST_OUTPUTS:
            one = "the graph" if graph else "a sample"
            raise _NotApplicableError(f"{numbers} outputs of {one}; it takes their matrix")
        evidence.certificate = float(evidence.fisher.bound("rigorous").value)
    except (_NotApplicableError, ValueError, RuntimeError, MemoryBudgetError) as error:
        evidence.skipped.append(Skipped("certificate of the largest eigenvalue", " ".join(str(error).split())[:400]))
    if len(x) < len(case.x) and not graph:
        evidence.skipped.append(
            Skipped(
                "Fisher information of all samples",
                f"{count(case.outputs, 'output')}: {count(len(x), 'sample')} of {len(case.x)} were used",
            )
        )


def _exact_top(evidence: Evidence, x: Inputs, budget: int | None) -> None:
    # Few draws overstate the largest eigenvalue, by far where there are many outputs; some products give it exactly.
    case = evidence.case
    try:
        exact = measure.fisher(case.model, x, likelihood=case.likelihood, dense=False, budget=budget)
        found = exact.top(1, tolerance=0.02, max_steps=TOP_STEPS)
        if not found.converged:
            raise RuntimeError(f"{TOP_STEPS} products left a residual of {float(found.residuals[0]):.2g}")
        evidence.exact_top = float(found.eigenvalues[0])
    except (ValueError, RuntimeError, MemoryBudgetError) as error:
        evidence.skipped.append(
            Skipped(
                "the exact largest eigenvalue",
                f"{' '.join(str(error).split())[:300]}; that of the drawn labels, an overestimate, stands for it",
            )
        )


def _output_numbers(case: Case) -> int:
    if isinstance(case.x, NodeInputs):
        return case.outputs * case.x.counting
    return math.prod(case.shape[1:])


def _rows_of_graph(case: Case) -> int:
    """Count the rows that one graph is worth: each is a gradient, summed over all nodes.

    Returns:
        As many as the work allows, and the memory of their directions in the outputs.
    """
    each = len(case.x) * sum(p.numel() for p in case.model.parameters())
    return min(FISHER_ROWS, GRAPH_WORK // each, DIRECTION_BYTES // (8 * _output_numbers(case)))


def _exact_rows(case: Case) -> int:
    each = case.outputs - 1 if case.likelihood == "categorical" else case.outputs
    return max(1, _output_numbers(case) // case.outputs * each)


def _fisher_inputs(case: Case) -> Inputs:
    """Take as many samples as the spectrum is worth, exactly or with drawn labels.

    Returns:
        At least two of the samples; a graph in one piece.
    """
    if isinstance(case.x, NodeInputs):
        return case.x.together
    rows = _exact_rows(case)
    fitting = FISHER_ROWS // rows
    if rows > FISHER_ROWS // 2:  # drawn labels: what limits is the memory of their directions in the outputs
        fitting = min(MOST_SAMPLED, DIRECTION_BYTES // (DRAWS * 8 * math.prod(case.shape[1:])))
    return case.x[: max(2, min(len(case.x), fitting))]


def _hidden_fisher(evidence: Evidence, budget: int | None) -> None:
    if evidence.chain is None or evidence.fisher is None:
        raise _NotApplicableError("the Fisher information was not measured")
    evidence.hidden = measure_hidden(evidence.case, evidence.chain, _fisher_inputs(evidence.case), budget)
