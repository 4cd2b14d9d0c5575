"""What to change: an initialization that can be applied, and what no initialization cures, in words."""

from __future__ import annotations

import copy
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from isometry import init
from isometry._base import Cost, Result, stopwatch
from isometry.diagnosis._admit import eagerly, uncompiled
from isometry.diagnosis._case import Case, reopen
from isometry.diagnosis._evidence import Evidence
from isometry.diagnosis._finding import Finding
from isometry.diagnosis._pretrained import OVERWRITES
from isometry.diagnosis._response import measure_response
from isometry.diagnosis._words import count
from isometry.diagnosis.rules import judge
from isometry.report._files import whole_file
from isometry.tape import Inputs

__all__ = ["INCURABLE", "Change", "Prescription", "write_prescription"]

# Findings whose cause lies in the model's code or in its frozen values, with what to do about each.
INCURABLE = {
    "indistinct_inputs": "Look at how the data are loaded: no initialization tells equal samples apart.",
    "bounded_outputs": "Return logits: no initialization lets a bounded output fit the cross-entropy.",
    "dropout": "Lower the dropout rate: what dropout removes no initialization brings back.",
    "no_gradient": "If a detach(), a no_grad() or a frozen readout cuts the gradient, remove it: weights cannot help.",
    "unreachable_parameters": "Reconnect or freeze the parameters that no gradient reaches.",
    "constant_output": "If the model averages over the batch or drops its input, mend that: weights cannot help.",
    "gradient_underflow": "If a constant factor in the model's code shrinks the signal, remove it.",
    "nonfinite_signal": "If the model's code makes values that are not finite (divisions by zero, logarithms of zero), "
    "mend that: weights cannot help.",
    "random_outputs": "Draw random numbers in training mode only: weights cannot make an output follow from its input.",
    "coupled_samples": "Take statistics within a sample, or running ones: weights cannot make samples independent.",
    "input_scale": "Standardize the inputs in the data pipeline, then prescribe again: as it is now, the first layer "
    "absorbs their scale.",
}

PERHAPS = ("no_gradient", "constant_output", "gradient_underflow", "nonfinite_signal")  # some weights cause them, too
UNDEFINED = ("random_outputs", "coupled_samples")  # what is measured then says little


@dataclass(frozen=True)
class Change(Result):
    """What happens to one parameter.

    Attributes:
        name: The parameter.
        action: "set", "scaled", "kept" or "skipped".
        detail: How, or why not.
    """

    name: str
    action: str
    detail: str


@dataclass(frozen=True)
class Prescription(Result):
    """An initialization for one model.

    Attributes:
        summary: One sentence.
        changes: One row for each parameter.
        input_scale: What the inputs must still be multiplied with; None if nothing.
        notes: What no initialization cures, and remarks.
        sigma_w: sigma_w of the hidden layers, of most if they differ; None without an operating point.
        sigma_b: sigma_b of the same layers; None likewise.
        q_star: Second moment that is aimed at; None likewise.
        remaining: Codes of the errors that a second look at the prescribed model still finds; empty if it is cured as
            far as the rules can tell.
        seed: Seed of the draw: applying it again gives the same weights.
        cost: What it took.
    """

    summary: str
    changes: tuple[Change, ...]
    input_scale: float | None
    notes: tuple[str, ...]
    sigma_w: float | None
    sigma_b: float | None
    q_star: float | None
    remaining: tuple[str, ...]
    seed: int
    cost: Cost = field(default_factory=Cost)
    _options: dict[str, Any] = field(default_factory=dict, repr=False)
    _batch: Inputs | None = field(default=None, repr=False)
    _model: nn.Module | None = field(default=None, repr=False)
    _shapes: dict[str, tuple[int, ...]] = field(default_factory=dict, repr=False)

    def apply_(self, model: nn.Module) -> nn.Module:
        """Overwrite a model's parameters as prescribed; the same draw every time.

        Args:
            model: The diagnosed model, or one with the same parameters.

        Returns:
            The model.

        Raises:
            TypeError: If it is no module.
            ValueError: If its parameters have other names or shapes; nothing is then written.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}; pass the diagnosed model.")
        bare = uncompiled(model)
        _insist_on_likeness(self._shapes, _shapes(bare))
        with eagerly(model):
            _initialize(bare, self._batch, self.seed, self._options)
        return model

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the prescribed state as a safetensors file, whole or not at all.

        Args:
            path: The file; load it with ``safetensors.torch.load_model(model, path)``.

        Returns:
            The path.

        Raises:
            RuntimeError: If the prescription no longer knows its model.
            ValueError: If the file's name does not end in ``.safetensors``.
            OSError: If nothing can be written there.
        """
        from safetensors.torch import save_model

        if self._model is None:
            raise RuntimeError("this prescription does not know its model; apply it to one and save that.")
        target = Path(path)
        if target.suffix != ".safetensors":
            raise ValueError(f"path must end in .safetensors, the format that is written, got {target.name!r}.")
        prescribed = self.apply_(copy.deepcopy(self._model))
        with whole_file(target) as part:
            save_model(prescribed, str(part))
        return target

    def __str__(self) -> str:
        touched = [c for c in self.changes if c.action in ("set", "scaled")]
        lines = [f"{self.summary} ({len(touched)} of {len(self.changes)} parameters are set)"]
        lines += [f"  {c.name}: {c.action}: {c.detail}" for c in self.changes[:20]]
        if len(self.changes) > 20:
            lines.append(f"  ... and {len(self.changes) - 20} more")
        if self.input_scale is not None:
            lines.append(f"  multiply the inputs by {self.input_scale:.4g}")
        return "\n".join([*lines, *(f"  note: {n}" for n in self.notes)])


def write_prescription(case: Case, findings: tuple[Finding, ...], *, q_star: float | None) -> Prescription:
    """Work out the prescription on a copy of the model.

    Args:
        case: The case.
        findings: What was found; remedies that no initialization replaces become notes.
        q_star: Second moment to aim at; None lets the initializer choose.

    Returns:
        The prescription.

    Raises:
        ValueError: If every parameter is frozen.
    """
    if not any(p.requires_grad for p in case.original.parameters()):
        raise ValueError(
            "model has no parameter that requires a gradient, and frozen values are taken to be meant; call "
            "requires_grad_(True) on what may be initialized."
        )
    options: dict[str, Any] = {} if q_star is None else {"q_star": q_star}
    with stopwatch() as watch:
        prescribed = copy.deepcopy(case.original)
        done = _initialize(prescribed, case.x, case.seed, options)
        remaining = _second_look(case, prescribed)
    setting = _setting(done)
    return Prescription(
        summary=_summary(_described(done, setting), findings, remaining),
        changes=tuple(Change(r.name, r.action, _detail(r)) for r in done.rows),
        input_scale=done.input_scale,
        notes=(
            *((OVERWRITES,) if case.pretrained else ()),
            *_left(remaining, findings),
            *_incurable(findings),
            *done.notes,
        ),
        sigma_w=setting.sigma_w,
        sigma_b=setting.sigma_b,
        q_star=done.q_star,
        remaining=remaining,
        seed=case.seed,
        cost=Cost(forward_passes=done.cost.forward_passes, seconds=watch.seconds),
        _options=options,
        _batch=case.x,
        _model=case.original,
        _shapes=_shapes(case.original),
    )


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """List a model's parameters, whether or not parts of it are compiled.

    Returns:
        Shapes by name, tied parameters once.
    """
    return {name.replace("_orig_mod.", ""): tuple(p.shape) for name, p in model.named_parameters()}


def _insist_on_likeness(wanted: dict[str, tuple[int, ...]], given: dict[str, tuple[int, ...]]) -> None:
    """Refuse a model that is not the diagnosed one, naming the first difference.

    Raises:
        ValueError: If a parameter is missing, has another shape, or is one too many.
    """
    difference = None
    for name, shape in wanted.items():
        if name not in given:
            difference = f"it has no parameter {name!r}"
        elif given[name] != shape:
            difference = f"its parameter {name!r} has shape {given[name]}, the diagnosed model's {shape}"
        if difference is not None:
            break
    else:
        more = next((name for name in given if name not in wanted), None)
        difference = None if more is None else f"its parameter {more!r} is not in the diagnosed model"
    if difference is not None:
        raise ValueError(
            f"model is not the one that this prescription was made for: {difference}; apply it to the diagnosed model "
            "or to one that is built alike, or call isometry.prescribe on this one."
        )


def _second_look(case: Case, prescribed: nn.Module) -> tuple[str, ...]:
    """Measure how the prescribed model responds, and ask the rules again.

    Returns:
        Codes of the errors that are left.
    """
    second = reopen(case, prescribed)
    left = judge(Evidence(second, measure_response(second)))
    return tuple(dict.fromkeys(f.code for f in left if f.severity == "error"))


def _left(remaining: tuple[str, ...], findings: tuple[Finding, ...]) -> tuple[str, ...]:
    if not remaining:
        return ()
    if any(f.severity == "error" for f in findings):
        return (f"This initialization alone does not cure the model: {', '.join(remaining)} would remain.",)
    return (f"Measured as prescribed, the model shows {', '.join(remaining)}.",)


def _initialize(model: nn.Module, batch: Inputs | None, seed: int, options: dict[str, Any]) -> init.InitTable:
    """Initialize a model; values that are not finite would spoil what is calibrated, so they are cleared first.

    Returns:
        What was done.

    Raises:
        NotImplementedError: If a layer is called on a packed sequence.
        AttributeError: What else the model's code lacks.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
                parameter.zero_()
    generator = torch.Generator().manual_seed(seed)
    try:
        return init.critical_(model, data=batch, generator=generator, **options)
    except AttributeError as error:
        if "PackedSequence" not in str(error):
            raise
        raise NotImplementedError(
            "model calls a layer on a packed sequence, which cannot be calibrated on; feed it padded sequences to get "
            "a prescription."
        ) from error


@dataclass(frozen=True)
class _Setting:
    """What the hidden layers are set to; layers between other activations may differ.

    Attributes:
        sigma_w: sigma_w of most of them.
        sigma_b: sigma_b of the same layers.
        count: How many these are.
        hidden: How many there are.
    """

    sigma_w: float | None
    sigma_b: float | None
    count: int = 0
    hidden: int = 0


def _setting(done: init.InitTable) -> _Setting:
    """Find the setting of most hidden layers; the operating point is that of the first activation alone.

    Returns:
        The setting; the operating point's where the layers have it, or were calibrated each on its own.
    """
    point = _Setting(done.sigma_w, done.sigma_b)
    if done.method != "analytic":
        return point
    biases = {row.name.rpartition(".")[0]: row.sigma_b for row in done.rows if row.role == "bias"}
    layers = [
        (row.sigma_w, biases.get(row.name.rpartition(".")[0]))
        for row in done.rows
        if row.role == "hidden" and row.sigma_w is not None
    ]
    if not layers:
        return point
    (sigma_w, sigma_b), number = Counter(layers).most_common(1)[0]
    return _Setting(sigma_w, done.sigma_b if sigma_b is None else sigma_b, number, len(layers))


def _described(done: init.InitTable, setting: _Setting) -> str:
    """Say what was done, in the words of most layers where the first one is an exception.

    Returns:
        A phrase.
    """
    if setting.count == 0 or setting.sigma_w == done.sigma_w:
        return done.summary
    return (
        f"{done.weights} weights, by theory: q* = {done.q_star:.4g}, sigma_w = {setting.sigma_w:.4g}, sigma_b = "
        f"{setting.sigma_b:.3g} in {setting.count} of {count(setting.hidden, 'hidden layer')}, the others between "
        "other activations"
    )


def _summary(described: str, findings: tuple[Finding, ...], remaining: tuple[str, ...]) -> str:
    """Lead with what only the model's code or the data can mend; weights come second, or not at all.

    Returns:
        A phrase, or whole sentences.
    """
    weights = f"standardize the inputs, then {described}" if _raw(findings) else described
    found = {f.code: f.severity for f in findings if f.severity != "info"}
    leading = [code for code in found if code in INCURABLE and code != "input_scale"]
    leading = [code for code in leading if code not in PERHAPS or code in remaining]
    if not leading:
        return weights
    grave = ("error",) if any(code in UNDEFINED for code in leading) else ("error", "warning")
    helped = any(s in grave and code not in leading and code not in remaining for code, s in found.items())
    return " ".join(INCURABLE[code] for code in leading) + (f" Then {weights}" if helped else "")


def _detail(row: init.InitRow) -> str:
    parts = [] if row.scheme == "-" else [row.scheme]
    if row.sigma_w is not None:
        parts.append(f"sigma_w = {row.sigma_w:.4g}")
    if row.sigma_b is not None:
        parts.append(f"sigma_b = {row.sigma_b:.3g}")
    return ", ".join(parts) + (f" ({row.why})" if row.why and parts else row.why)


def _raw(findings: tuple[Finding, ...]) -> bool:
    return any(f.code == "input_scale" and f.severity != "info" for f in findings)


def _incurable(findings: tuple[Finding, ...]) -> tuple[str, ...]:
    codes = dict.fromkeys(f.code for f in findings if f.severity != "info")
    return tuple(INCURABLE[code] for code in codes if code in INCURABLE)
