"""The rules: each looks at the evidence and says what it finds. One small file for each family.

``RULES`` is the whole list, in the order in which findings appear within a severity; ``CODES`` names every code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MappingProxyType

from isometry.diagnosis._evidence import Evidence
from isometry.diagnosis._finding import SEVERITIES, Finding
from isometry.diagnosis.rules import _gradient, _inputs, _numerics, _outputs, _signal, _spectra, _units

__all__ = ["CODES", "RULES", "judge"]

Rule = Callable[[Evidence], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    _inputs.indistinct_inputs,  # first: these are the causes of most of what they stand beside
    _signal.raw_inputs,
    _inputs.unsteady_outputs,
    _numerics.nonfinite,
    _gradient.no_gradient,
    _signal.collapse,
    _gradient.gradient_scale,
    _gradient.unruly_step,
    _gradient.vanished,
    _signal.forward_scale,
    _units.identical_units,
    _outputs.bounded_outputs,
    _outputs.large_outputs,
    _units.dropout,
    _units.dead_units,
    _units.saturated_units,
    _units.zero_layers,
    _gradient.unreachable,
    _signal.input_scale,
    _numerics.narrow_formats,
    _spectra.jacobian_conditioning,
    _spectra.step_size,
    _spectra.rank,
)

CODES = MappingProxyType(
    {
        # samples
        "indistinct_inputs": "inputs that hardly differ from each other",
        "random_outputs": "another output each time, in evaluation mode",
        "coupled_samples": "the output for one sample depends on the others",
        # signal
        "correlation_collapse": "inputs become indistinguishable with depth (6 xi_c)",
        "constant_output": "the last layer is given the same for every input",
        "vanishing_signal": "the second moment shrinks with depth",
        "exploding_signal": "the second moment grows with depth",
        "input_scale": "the inputs' scale is off",
        # gradient
        "vanishing_gradient": "the gradient shrinks on its way back",
        "exploding_gradient": "the gradient grows on its way back",
        "unruly_step": "even the smallest sensible step is not what the gradient says",
        "gradient_underflow": "all gradients are below what an optimizer can see",
        "no_gradient": "no weight receives a gradient",
        "unreachable_parameters": "parameters without a path to the loss",
        "zero_gradient": "weights that start with a gradient of zero",
        # units
        "dead_units": "units that are silent for the whole batch",
        "saturated_units": "units on the flat ends of their activation",
        "identical_units": "units that all compute the same",
        "constant_weights": "weights that hold a single number",
        "dropout": "dropout that leaves next to nothing",
        # outputs
        "bounded_outputs": "probabilities where the loss wants logits",
        "logits_too_large": "an untrained net that is sure of its guesses",
        "features_unresolved": "features so large that rounding hides what the loss needs",
        # numbers
        "nonfinite_parameters": "NaN or infinity in parameters",
        "nonfinite_signal": "NaN or infinity in signal or gradient",
        "fp16_overflow": "values beyond float16",
        "bf16_overflow": "values beyond bfloat16",
        "fp16_underflow": "gradients below float16",
        "bf16_underflow": "gradients below bfloat16",
        # spectra
        "jacobian": "singular values of the Jacobian against their law",
        "step_size": "largest stable step size",
        "effective_rank": "directions that share the curvature",
    }
)


def judge(evidence: Evidence) -> tuple[Finding, ...]:
    """Let every rule look at the evidence.

    Args:
        evidence: What was measured and predicted.

    Returns:
        All findings, errors first.

    Raises:
        LookupError: If a rule uses a code that is not in the table.
    """
    findings = [finding for rule in RULES for finding in rule(evidence)]
    unknown = {f.code for f in findings} - set(CODES)
    if unknown:
        raise LookupError(f"codes {sorted(unknown)} are missing from CODES; add a line for each.")
    return tuple(sorted(findings, key=lambda f: SEVERITIES.index(f.severity)))
