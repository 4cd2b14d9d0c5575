"""The Jacobian of a diagnosis: which one is worth its time, from where to where, all singular values or the largest.

A path starts at the input, or where that is made of whole numbers at the output of the module that looks them up. It
ends at the output; of a long sequence or an image, at one position of it. All singular values are computed where the
sweeps cost no more than a few passes of the batch; otherwise the largest alone, from products with the Jacobian.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isometry import measure, theory
from isometry._base import MemoryBudgetError
from isometry.diagnosis._case import Case
from isometry.diagnosis._chain import Chain
from isometry.diagnosis._words import count
from isometry.tape import Call, record, untouched

__all__ = ["JacobianEvidence", "measure_jacobian"]

INPUTS = 8
LEAST_INPUTS = 2  # below, one position or the largest singular value is preferred
UNITS = 1024  # a Jacobian whose narrower side is wider is not swept here
BATCH_PASSES = 2  # what the sweeps may cost, in backward passes of the whole batch
SWEEP_WORK = 4e9  # or in multiply-adds, whichever is more: about a second
STEPS = 16  # of the search for the largest singular value, two products each
TOLERANCE = 1e-2  # of that value

_Part = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class JacobianEvidence:
    """Singular values of a Jacobian, with their law where theory has one.

    Attributes:
        values: One list for each input, the largest first.
        start: The module at whose output it starts; None for the model's input.
        stop: The module at whose output it stops; None for the model's output.
        law: What theory predicts at the net's own scales, or None.
        of: From where to where, with the positions, in words.
        between_hidden: Whether it runs from the first to the last hidden layer of a chain.
        left_out: Why there are only the largest singular values; empty where there are all.
    """

    values: tuple[tuple[float, ...], ...]
    start: str | None
    stop: str | None
    law: theory.JacobianLaw | None
    of: str = "from the input to the output"
    between_hidden: bool = False
    left_out: str = ""

    @property
    def s_max(self) -> float:
        """The largest, mean over inputs."""
        return sum(v[0] for v in self.values) / len(self.values)

    @property
    def s_min(self) -> float:
        """The smallest, mean over inputs; NaN where only the largest is known."""
        return math.nan if self.left_out else sum(v[-1] for v in self.values) / len(self.values)

    @property
    def mean_square(self) -> float:
        """Mean of the squares; NaN where only the largest is known."""
        if self.left_out:
            return math.nan
        return sum(s * s for v in self.values for s in v) / sum(len(v) for v in self.values)


@dataclass(frozen=True)
class _Start:
    """Where the path starts."""

    name: str | None
    words: str
    units: int  # of one input


@dataclass(frozen=True)
class _Stop:
    """Where the path ends."""

    part: _Part | None
    words: str
    units: int


def measure_jacobian(case: Case, chain: Chain | None, widest: int, budget: int | None) -> JacobianEvidence:
    """Measure the Jacobian that says most about this model for a small share of the diagnosis's time.

    Args:
        case: The case.
        chain: The chain that theory describes, or None.
        widest: Units of the widest layer; the hidden layers' Jacobian of a chain is measured where that is small.
        budget: Bytes that dense Jacobians may take; None for the library's default.

    Returns:
        The singular values, and what they are of.

    Raises:
        ValueError: If no Jacobian can be had; the message says why.
    """
    if chain is not None and chain.depth > 1 and widest <= UNITS:
        start, stop = chain.layers[0].name, chain.layers[-2].name
        found = measure.jacobian(case.model, case.x[:INPUTS], start=start, stop=stop, budget=budget)
        of = f"from the output of {start!r} to the output of {stop!r}"
        return _evidence(found, of, case, swept=True, between_hidden=True)
    work, lookup = _survey(case)
    begin = _start(case, lookup)
    allowed = int(max(BATCH_PASSES * len(case.x), SWEEP_WORK // max(work, 1)))
    inputs, end = _affordable(case, begin, allowed)
    swept = inputs >= LEAST_INPUTS
    x = case.x[: min(INPUTS, inputs) if swept else LEAST_INPUTS]
    found = measure.jacobian(case.model, x, start=begin.name, part=end.part, budget=budget)
    return _evidence(found, f"from {begin.words} to {end.words}", case, swept=swept)


def _evidence(
    found: measure.Jacobian, of: str, case: Case, *, swept: bool, between_hidden: bool = False
) -> JacobianEvidence:
    left_out = ""
    try:
        values = found.singular_values() if swept else None
    except MemoryBudgetError:
        values = None
    if values is None:
        generator = torch.Generator(case.x.device).manual_seed(case.seed)
        largest = found.extremes(which="largest", tolerance=TOLERANCE, max_steps=STEPS, generator=generator)
        values = largest.values
        error = float((largest.residuals / largest.values.clamp(min=1e-300)).max())
        out, inp = found.shape
        left_out = (
            f"the Jacobian {of} is {out:,} x {inp:,}; only the largest was sought, without forming it, and is known "
            f"to {100 * max(error, 1e-3):.1g} %"
        )
    return JacobianEvidence(
        values=tuple(tuple(map(float, row)) for row in values),
        start=found.start,
        stop=found.stop,
        law=None,
        of=of,
        between_hidden=between_hidden,
        left_out=left_out,
    )


def _survey(case: Case) -> tuple[float, tuple[str, int] | None]:
    """Run two samples, count the work of one, and look for the module that looks the tokens up.

    Returns:
        Multiply-adds of one sample, roughly; and the innermost module that is given the model's first input, whole
        numbers, and returns real ones, with the units that it returns for one sample. None where there is none.
    """
    x, work = case.x[:LEAST_INPUTS], 0.0
    tokens = None if x.first.is_floating_point() else x.first
    found: list[tuple[str, int]] = []
    followed = False  # else it is the whole model, under another name

    def on_call(call: Call) -> None:
        nonlocal work, followed
        shape = call.output_shape
        followed = followed or bool(found and call.name and not found[0][0].startswith(f"{call.name}."))
        if call.name and tokens is not None and not found and call.inputs and shape[:1] == (len(x),):
            same = call.input.shape == tokens.shape and call.input.dtype == tokens.dtype
            if same and call.output.is_floating_point() and bool((call.input == tokens).all()):
                found.append((call.name, math.prod(shape[1:])))
                return
        if not isinstance(call.module, nn.Embedding | nn.EmbeddingBag):
            features = shape[1] if len(shape) > 3 else shape[-1] if len(shape) else 1
            positions = math.prod(shape[1:]) / max(features, 1)
            work += positions * sum(p.numel() for p in call.module.parameters(recurse=False))

    with (
        untouched(case.model, training=False),
        torch.no_grad(),
        record(case.model, lambda _name, _module: True, on_call=on_call, keep=False),
    ):
        x.run(case.model)
    return work, found[0] if followed else None


def _start(case: Case, lookup: tuple[str, int] | None) -> _Start:
    x = case.x
    if not x.first.is_floating_point() and lookup is not None:
        name, units = lookup
        positions = math.prod(x.first.shape[1:])
        where = f", {count(positions, 'position')}" if positions > 1 else ""
        return _Start(name, f"the output of {name!r} (the embedded input{where})", units)
    if x.leaf is None:
        raise ValueError(
            "the inputs are integers, and no module takes them as they are and returns real numbers (an embedding "
            "would); measure.jacobian(model, x, start=...) starts at a module that you name"
        )
    real = sum(1 for t in x.rows() if t.is_floating_point())
    words = "the input" if real == 1 else f"the first of {real} real-valued inputs (the others are held fixed)"
    return _Start(None, words, x.leaf[0].numel())


def _affordable(case: Case, start: _Start, allowed: int) -> tuple[int, _Stop]:
    """Choose the whole output, or one position of it, by what can be swept.

    Returns:
        How many inputs can be swept, and the path's end; the smallest one where none can be.
    """
    whole = math.prod(case.shape[1:])
    ends = [_Stop(None, "the output" if len(case.shape) < 3 else "the outputs at all positions", whole)]
    if len(case.shape) > 2 and whole > case.outputs:
        ends.append(_one_position(case))
    for end in ends:
        directions = min(start.units, end.units)
        inputs = allowed // directions if directions <= UNITS else 0
        if inputs >= LEAST_INPUTS:
            return inputs, end
    return 0, ends[-1]


def _one_position(case: Case) -> _Stop:
    """Take the last position of a sequence that counts in every measured sample; of an image the middle.

    Returns:
        The end.

    Raises:
        ValueError: If no position counts in all of them.
    """
    sizes = case.shape[1:-1]
    counted = case.x[:INPUTS].counted((min(INPUTS, len(case.x)), *sizes))
    if len(sizes) > 1:
        place = tuple(size // 2 for size in sizes)
        words = f"the outputs at position {place} of {sizes}"
    else:
        shared = None if counted is None else counted.all(0).nonzero().flatten()
        if shared is not None and not len(shared):
            raise ValueError("no position counts in all the samples; measure.jacobian with part= takes one of each")
        last = sizes[0] - 1 if shared is None else int(shared[-1])
        place, words = (last,), f"the outputs at position {last + 1} of {sizes[0]}"
    index: tuple[slice | int, ...] = (slice(None), *place)
    return _Stop(lambda out: out[index], words, case.outputs)
