"""The neural tangent kernel of a network at a batch: whole, per output, or between two batches.

Theta(x, x')_{ab} = sum over parameters of df_a(x)/dtheta df_b(x')/dtheta, without forming any of the gradients: it is
the Gram matrix whose contributions per layer the Fisher matrix shares, with one direction per output.

References:
    A. Jacot, F. Gabriel, C. Hongler. Neural Tangent Kernel: Convergence and Generalization in Neural Networks, 2018.
    https://arxiv.org/abs/1806.07572
    N. Cristianini, J. Shawe-Taylor, A. Elisseeff, J. Kandola. On kernel-target alignment, 2001.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isometry._base import Cost, allowed_bytes, check_budget, stopwatch, team_for, together
from isometry.measure._fisher_roots import check_choice
from isometry.measure._fisher_setup import Setup, make_setup
from isometry.measure._gram import accumulate
from isometry.measure._gram_sums import DirectionGrams, FullGram
from isometry.measure._guards import check_model, open_inputs, outside_inference
from isometry.measure._ntk_result import NTK, Form
from isometry.tape import Inputs

__all__ = ["ntk"]

Batch = Tensor | Inputs | Mapping[str, Any] | Sequence[Any]


@outside_inference
def ntk(
    model: nn.Module,
    x: Batch,
    other: Batch | None = None,
    *,
    form: Form = "full",
    outputs: Sequence[int] | None = None,
    params: str | Iterable[str] = "all",
    budget: int | None = None,
) -> NTK:
    """Measure the empirical neural tangent kernel of a model at a batch, or between two batches.

    The model is measured in the modes that it is in. Every layer's contribution is exact; Linear, convolution,
    embedding and normalization parameters contribute by closed forms, all others by their Jacobian rows.

    Args:
        model: The model.
        x: The batch, samples first: a tensor, a tuple, a dict by argument name, or ``Inputs``.
        other: A second batch of the same kind; the kernel is then between the two. It is cut out of the kernel of both
            together, which costs up to four times as much as would be needed.
        form: "full" has a row per sample and output; "per-output" has one N x N kernel for each output, without the
            products between outputs, at a C-th of the memory; "trace" is their mean over the outputs.
        outputs: Numbers of the outputs that are measured (of those of one sample, flattened); default: all, of the
            positions that a mask or an ``attention_mask`` among the inputs lets count.
        params: "all", "hidden" or name patterns, as for ``fisher``.
        budget: Bytes that the kernel may take; default: the package's.

    Returns:
        The kernel, frozen, with its spectrum and its alignment with targets.

    Raises:
        TypeError: If an argument has a wrong type, or no output is a real-valued tensor.
        ValueError: If per-sample quantities are undefined, values are not finite, or an output's number is out of
            range.
        MemoryBudgetError: If the kernel is over the budget.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> x = torch.eye(3)
        >>> kernel = ntk(model, x, form="trace")  # x x^T + 1: the inputs' Gram matrix, and one for the bias
        >>> bool(torch.allclose(kernel.values, (x @ x.T + 1).double()))
        True
    """
    check_choice("form", form, Form)
    model = check_model(model)
    first = open_inputs(model, x)
    second = None if other is None else open_inputs(model, other)
    with stopwatch() as watch, together(f"measure.ntk ({form}) of {outputs}, {params}"):
        batch = first if second is None else _together(first, second)
        setup = make_setup(
            model,
            batch,
            targets=None,
            likelihood="gaussian",
            kind="true",
            params=params if isinstance(params, str) else tuple(params),
            draws=1,
            mask=None,
            class_dim=None,
            budget=budget,
            generator=None,
            what="tangent kernel",
        )
        chosen = _chosen(setup, outputs)
        needed = _check_memory(setup, form, len(chosen), budget)
        whole = _full(setup, chosen) if form == "full" else _per_output(setup, chosen)
    if not bool(torch.isfinite(whole).all()):
        raise ValueError(
            f"the model's gradients overflow on this batch, so its tangent kernel has no finite value in "
            f"{setup.out.dtype}; measure.signal says which layers explode."
        )
    n = len(first)
    if second is not None:
        whole = whole[:, :n, :, n:] if form == "full" else whole[:, :n, n:]
    return NTK(
        form=form,
        samples=n,
        others=None if second is None else len(second),
        outputs=len(chosen),
        size=setup.plan.size,
        params=params if isinstance(params, str) else ", ".join(params),
        dtype=setup.out.dtype,
        general=setup.plan.general,
        unused=setup.plan.unused,
        coverage=setup.coverage,
        cost=Cost(forward_passes=2, backward_passes=len(chosen), bytes=needed, seconds=watch.seconds),
        values=whole.mean(0) if form == "trace" else whole,
        _available=setup.out[0].numel(),
    )


def _together(first: Inputs, second: Inputs) -> Inputs:
    """Put two batches one behind the other.

    Returns:
        One batch.

    Raises:
        ValueError: If they do not hold the same tensors, or their samples differ in shape.
    """
    one, two = first.rows(), second.rows()
    if len(one) != len(two) or any(a.shape[1:] != b.shape[1:] for a, b in zip(one, two, strict=True)):
        raise ValueError(f"other must hold samples like those of x; x is {first}, other is {second}.")
    return first.with_rows([torch.cat([a, b]) for a, b in zip(one, two, strict=True)])


def _chosen(setup: Setup, outputs: Sequence[int] | None) -> Tensor:
    total = setup.out[0].numel()
    if outputs is None:
        counted = setup.masked(torch.ones_like(setup.out)).any(0).flatten()  # positions that count in some sample
        return torch.arange(total)[counted.cpu()]
    numbers = torch.as_tensor(list(outputs), dtype=torch.int64)
    if not numbers.numel() or int(numbers.min()) < 0 or int(numbers.max()) >= total:
        raise ValueError(f"outputs must be numbers from 0 to {total - 1}, at least one of them, got {list(outputs)}.")
    return numbers


def _check_memory(setup: Setup, form: Form, outputs: int, budget: int | None) -> int:
    allowed = allowed_bytes(budget)
    # Bytes grow with the outputs: the most that fit are where the predicate turns.
    fitting = bisect_left(range(1, outputs + 1), True, key=lambda count: _bytes(setup, form, count) > allowed)
    instead = "Take fewer samples"
    if fitting:
        instead += f", or at most {fitting} {'output' if fitting == 1 else 'outputs'} by outputs=[...]"
    if form == "full" and _bytes(setup, "trace", outputs) <= allowed:
        instead += ', or form="trace" (a matrix of samples alone)'
    if form == "full":
        instead += ", or measure.fisher(..., dense=False) for products"
    return check_budget(
        _bytes(setup, form, outputs),
        budget,
        what=f"The tangent kernel of {setup.plan.samples} samples and {outputs} outputs",
        instead=f"{instead},",
    )


def _bytes(setup: Setup, form: Form, outputs: int) -> int:
    """Foresee the peak memory of a kernel.

    Returns:
        Bytes.
    """
    n, item = setup.plan.samples, setup.out.element_size()
    numbers = (n * outputs) ** 2 if form == "full" else n * n * outputs
    calls = setup.plan.calls.values()
    widest = max((call.output_numel for call in calls), default=0)
    activations = team_for(n).shares(n)[0] * item * sum(call.input_numel + call.output_numel for call in calls)
    return 2 * 8 * numbers + activations + n * outputs * (setup.out[0].numel() * item + widest * (2 * item + 8))


def _cotangents(out: Tensor, chosen: Tensor, mask: Tensor | None) -> Tensor:
    flat = out.new_zeros(len(chosen), len(out), out[0].numel())
    flat[torch.arange(len(chosen)), :, chosen.to(flat.device)] = 1
    shaped = flat.view(len(chosen), *out.shape)
    if mask is None:
        return shaped
    return shaped * mask.reshape(*mask.shape, *[1] * (out.ndim - mask.ndim)).to(shaped)


def _full(setup: Setup, chosen: Tensor) -> Tensor:
    """Sum the whole kernel.

    Returns:
        Shape (C, N, C, N).
    """
    n, count = setup.plan.samples, len(chosen)
    total = FullGram(count, n, setup.out.device)
    _sum_up(setup, chosen, total, total.matrix)
    return total.finish().view(count, n, count, n)


def _per_output(setup: Setup, chosen: Tensor) -> Tensor:
    """Sum each output's kernel.

    Returns:
        Shape (C, N, N).
    """
    total = DirectionGrams(len(chosen), setup.plan.samples, setup.out.device)
    _sum_up(setup, chosen, total, total.grams)
    return total.grams


def _sum_up(setup: Setup, chosen: Tensor, into: FullGram | DirectionGrams, numbers: Tensor) -> None:
    share = setup.share()
    mask = None if setup.mask is None else setup.mask[share.part]
    with setup.measuring():
        accumulate(
            setup.model,
            share.x,
            share.plan,
            lambda out: _cotangents(out, chosen, mask),
            lambda _group: into,
            restart=into.restart,
            team=share.team,
        )
    share.team.total(numbers, "the kernel")
