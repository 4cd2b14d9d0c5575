"""The structure that a report is drawn from, and that ``diagnosis.json`` holds.

Everything is plain JSON data. ``None`` stands for "not measured"; a number that is not finite is ``None`` too.
"""

from __future__ import annotations

from typing import Literal, TypedDict

__all__ = [
    "Change",
    "Content",
    "CostSection",
    "CoverageSection",
    "CriticalLine",
    "FindingItem",
    "FisherSection",
    "HiddenFisher",
    "JacobianSection",
    "LawCurve",
    "LayerItem",
    "PhasePoint",
    "PhaseSection",
    "PrescriptionSection",
    "ProofSection",
    "SignalSection",
    "SkippedItem",
    "Subject",
    "TrainingRun",
    "UncoveredItem",
]

Number = float | None


class Subject(TypedDict):
    """What was diagnosed."""

    model: str | None
    data: str | None
    parameters: int | None
    layers: int | None
    samples: int | None
    nodes: int | None  # of one whole graph, which stand for samples
    classes: int | None
    likelihood: str | None
    activation: str | None
    dtype: str | None
    device: str | None


class FindingItem(TypedDict):
    """One finding: a measured value beside the expected one, and what to do."""

    severity: Literal["error", "warning", "info"]
    code: str
    message: str
    value: float | str | None
    expected: float | str | None
    unit: str | None
    remedy: str | None
    where: list[str]  # layer names


class LayerItem(TypedDict):
    """One layer's signal, measured and predicted."""

    name: str
    kind: str | None  # "norm" is drawn apart: it shares the depth of the layer before it
    depth: int | None
    q: Number  # second moment of the pre-activations
    q_theory: Number
    correlation: Number  # mean over pairs of inputs
    correlation_theory: Number
    gradient_norm: Number
    gradient_theory: Number  # same unit as gradient_norm
    dead: Number  # fractions of the units
    saturated: Number
    nonfinite: Number  # how many values are NaN or infinite


class SignalSection(TypedDict):
    """The signal by depth. Depth scales are in layers, positive where the quantity decays.

    ``measured_efold_forward`` belongs beside ``xi_c``: over how many layers the share of the signal that tells inputs
    apart falls by e. ``measured_efold_gradient`` belongs beside ``xi_grad``: the same of the squared gradient norm.
    """

    layers: list[LayerItem]
    q_star: Number
    xi_c: Number
    xi_grad: Number
    measured_efold_forward: Number
    measured_efold_gradient: Number


class LawCurve(TypedDict):
    """The density of singular values that theory predicts."""

    s: list[float]
    density: list[float]
    s_max: Number
    mean_square: Number
    variance: Number  # of the squared singular values
    weights: str | None


class JacobianSection(TypedDict):
    """Singular values of a Jacobian: flat, or one list for each input; without ``complete`` the largest alone."""

    singular_values: list[float] | list[list[float]]
    start: str | None
    stop: str | None
    of: str | None  # from where to where, in words
    complete: bool | None
    inputs: int | None
    s_max: Number
    s_min: Number
    mean_square: Number
    law: LawCurve | None


class HiddenFisher(TypedDict):
    """The Fisher information of the hidden layers' parameters alone: the theorem is about this one."""

    lambda_max: Number
    bound_theorem: Number


class UncoveredItem(TypedDict):
    """A parameter whose contribution to the Fisher matrix was not had in closed form."""

    name: str
    layer: str | None  # the class of the module that holds it
    how: str | None  # "sample by sample", "unused" or "not measurable"
    size: int | None
    share: Number  # of all parameters' numbers


class CoverageSection(TypedDict):
    """How the parameters' contributions to the Fisher matrix were had, as shares of their numbers."""

    parameters: int | None  # numbers in all
    closed_form: Number
    sample_by_sample: Number
    unused: Number
    not_measurable: Number
    uncovered: list[UncoveredItem]


class FisherSection(TypedDict):
    """The Fisher information's nonzero spectrum; ``bound_rigorous`` belongs to it."""

    eigenvalues: list[float]
    kind: str | None
    likelihood: str | None
    params: str | None
    lambda_max: Number
    max_step_size: Number  # 2 / lambda_max
    lambda_max_drawn: Number  # that of drawn labels, an overestimate; as lambda_max where the exact one was not had
    effective_rank: Number
    condition: Number
    bound_rigorous: Number
    hidden: HiddenFisher | None
    coverage: CoverageSection | None


class PhasePoint(TypedDict):
    """A net's place in the phase diagram; standard deviations."""

    sigma_w: Number
    sigma_b: Number


class CriticalLine(TypedDict):
    """Points of the critical line, in order; standard deviations."""

    sigma_w: list[float]
    sigma_b: list[float]


class PhaseSection(TypedDict):
    """chi over a grid of standard deviations."""

    activation: str | None
    sigma_w: list[float]
    sigma_b: list[float]
    chi: list[list[float | None]]  # rows: sigma_b, columns: sigma_w
    critical: CriticalLine | None
    before: PhasePoint | None
    after: PhasePoint | None


class Change(TypedDict):
    """What the prescription does to one parameter or module."""

    name: str
    action: str
    detail: str | None


class PrescriptionSection(TypedDict):
    """What to change."""

    summary: str
    changes: list[Change]
    input_scale: Number
    notes: list[str]


class TrainingRun(TypedDict):
    """One training run of the proof."""

    lr: Number
    loss: list[float | None]  # of each minibatch
    final_loss: Number  # of the training set, at the end
    accuracy: Number  # of the training set, at the end, in [0, 1]


class ProofSection(TypedDict):
    """The same training, before and after the prescription."""

    steps: int | None
    optimizer: str | None
    batch_size: int | None
    chance: Number  # the loss of guessing
    before: TrainingRun | None
    after: TrainingRun | None
    verdict: str | None


class SkippedItem(TypedDict):
    """What was not measured, and why."""

    what: str
    why: str


class CostSection(TypedDict):
    """Seconds for each part and in total."""

    seconds: dict[str, float]
    total: Number


class Content(TypedDict):
    """A whole diagnosis as plain data."""

    schema: int
    isometry: str | None
    created: str | None
    subject: Subject
    verdict: Literal["error", "warning", "healthy"] | None
    findings: list[FindingItem]
    signal: SignalSection | None
    jacobian: JacobianSection | None
    fisher: FisherSection | None
    phase: PhaseSection | None
    prescription: PrescriptionSection | None
    proof: ProofSection | None
    skipped: list[SkippedItem]
    cost: CostSection | None
