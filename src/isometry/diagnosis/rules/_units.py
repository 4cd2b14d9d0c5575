"""Are units dead, saturated or all the same?"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from isometry.diagnosis._evidence import Evidence
from isometry.diagnosis._finding import Finding
from isometry.diagnosis._words import count
from isometry.diagnosis.rules._inputs import distinct_samples
from isometry.diagnosis.rules._quantities import EFOLDS, WHERE

__all__ = ["dead_units", "dropout", "identical_units", "saturated_units", "zero_layers"]

MANY = 0.5  # of a layer's units; an untrained ReLU layer has hardly any that are dead on a hundred inputs
RANK_ONE = 1e-3  # second over first singular value below which features are one-dimensional
HEAVY_DROPOUT = 0.9


def dead_units(evidence: Evidence) -> Iterator[Finding]:
    """Dead units: silent for the whole batch, without a slope.

    Yields:
        At most one finding.
    """
    yield from _unhealthy(
        evidence,
        "dead",
        "dead_units",
        "are zero for every input and pass no gradient",
        "Initialize biases to zero and weights by the prescription; a leaky slope keeps units alive.",
    )


def saturated_units(evidence: Evidence) -> Iterator[Finding]:
    """Saturated units: on the flat ends of their squashing function.

    Yields:
        At most one finding.
    """
    yield from _unhealthy(
        evidence,
        "saturated",
        "saturated_units",
        "sit on the flat ends of their activation",
        "Make weights, biases or inputs smaller; the prescription sets the second moment to q*.",
    )


def _unhealthy(evidence: Evidence, kind: str, code: str, what: str, remedy: str) -> Iterator[Finding]:
    if evidence.signal is None:
        return
    shares = [(layer.name, float(getattr(layer, kind))) for layer in evidence.signal.layers]
    sick = [(name, share) for name, share in shares if share > MANY]
    if sick:
        name, worst = max(sick, key=lambda pair: pair[1])
        yield Finding(
            "warning",
            code,
            f"In {count(len(sick), 'layer')} most units {what}; worst {name}: {worst:.0%}.",
            worst,
            MANY,
            "share of a layer's units",
            remedy,
            tuple(n for n, _ in sick[:WHERE]),
        )


def identical_units(evidence: Evidence) -> Iterator[Finding]:
    """All units the same: features of rank one, before and after a step.

    Yields:
        At most one finding.
    """
    response = evidence.response
    if not response.inputs or response.after is None or evidence.case.outputs < 3:
        return
    before, after = response.inputs[-1], response.after
    visible = before.distinguishability > 2.718281828**-EFOLDS and after.distinguishability > 0
    if distinct_samples(evidence) < 3:
        return  # two different inputs have features of rank one, whatever the units do
    if visible and before.rank_ratio < RANK_ONE and after.rank_ratio < RANK_ONE:
        yield Finding(
            "error",
            "identical_units",
            "The last layer is given features of rank one: all units compute the same, and a step keeps them alike.",
            before.rank_ratio,
            RANK_ONE,
            "second over first singular value of the centred features",
            "Break the symmetry: initialize weights at random, by the prescription.",
            (before.name,),
        )


def zero_layers(evidence: Evidence) -> Iterator[Finding]:
    """Layers whose weights are all zero or all equal.

    Yields:
        At most one finding.
    """
    flat = [
        (name, float(p.detach().flatten()[0]))
        for name, p in evidence.case.model.named_parameters()
        if p.ndim > 1 and p.numel() > 1 and bool((p.detach() == p.detach().flatten()[0]).all())
    ]
    hidden = [
        name for name, _ in flat if evidence.response.inputs and not name.startswith(evidence.response.inputs[-1].name)
    ]
    if flat:
        zero = sum(value == 0 for _, value in flat)
        yield Finding(
            "warning" if hidden and evidence.chain is not None else "info",
            "constant_weights",
            f"{len(flat):,} weights hold one number only ({zero or 'none'} of them zero)."
            if len(flat) > 1
            else f"The weight {flat[0][0]} holds one number only{' (zero)' if zero else ''}.",
            float(len(flat)),
            0.0,
            "weights that hold a single number",
            "Fine for a readout or the last layer of a residual branch; initialize the others at random.",
            tuple(name for name, _ in flat[:WHERE]),
        )


def dropout(evidence: Evidence) -> Iterator[Finding]:
    """Dropout that leaves nothing, or next to nothing.

    Yields:
        At most one finding.
    """
    rates = [
        (name, float(m.p))
        for name, m in evidence.case.model.named_modules()
        if isinstance(m, nn.modules.dropout._DropoutNd)
    ]
    heavy = [(name, p) for name, p in rates if p > HEAVY_DROPOUT]
    if not heavy:
        return
    worst = max(p for _, p in heavy)
    yield Finding(
        "error" if worst >= 1 and not _has_skips(evidence) else "warning",
        "dropout",
        f"Dropout removes {worst:.0%} of the units: {'nothing' if worst >= 1 else 'next to nothing'} is left.",
        worst,
        HEAVY_DROPOUT,
        "dropout rate",
        "Use a rate of at most 0.5.",
        tuple(n for n, _ in heavy[:WHERE]),
    )


@torch.no_grad()
def _has_skips(evidence: Evidence) -> bool:
    """Say whether anything gets past the dropout: the outputs in training mode still depend on the input.

    Returns:
        True if they do.
    """
    from isometry.tape import untouched

    model, x = evidence.case.model, evidence.case.x
    with untouched(model, training=False):
        for module in model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.train()
        out = x.run(model).double()
    return bool((out - out.mean(0)).abs().max() > 0)
