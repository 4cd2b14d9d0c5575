"""How lazily a network learned: the change of its weights, of its representation, and of its tangent kernel.

Paper: Y. H. Liu, A. Baratin, J. Cornford, S. Mihalas, E. Shea-Brown, G. Lajoie. "How connectivity structure shapes rich
and lazy learning in neural circuits." ICLR 2024. arXiv:2310.08513

Neither kernels nor representations are centred, as there. The kernel is the Gram matrix that ``measure.ntk`` has
without a gradient of any output being formed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isometry._base import Cost, stopwatch, unknown_name
from isometry.measure._fisher_setup import choose_parameters
from isometry.measure._guards import check_model, check_per_sample, open_inputs, outside_inference, run_model
from isometry.measure._laziness_result import Laziness, RepresentationChange, WeightChange
from isometry.measure._ntk import ntk
from isometry.tape import Inputs, measuring, record

__all__ = ["laziness"]


@outside_inference
def laziness(
    before: nn.Module,
    after: nn.Module,
    probe: Tensor | Inputs | Mapping[str, Any] | Sequence[Any],
    *,
    params: str | Iterable[str] = "all",
    representation: str | None = None,
    outputs: Sequence[int] | None = None,
    per_layer: bool = False,
    budget: int | None = None,
) -> Laziness:
    """Compare two states of a model, before and after training, on a fixed batch.

    Both are measured in the modes that they are in. Keep the first with ``copy.deepcopy(model)``.

    Args:
        before: The model before training.
        after: The model after training; parameters of the same names and shapes.
        probe: The batch, samples first, at least two: a tensor, a tuple, a dict by argument name, or ``Inputs``.
        params: Whose change and tangent kernel is measured: "all", "hidden" or name patterns, as for ``fisher``; the
            paper has the recurrent weights alone.
        representation: The module whose output is compared (its last call, so the last step of a recurrence that calls
            it step by step); default: the module without children that is called last before the output's.
        outputs: Numbers of the outputs that enter the kernel, as for ``ntk``; default: all.
        per_layer: Align each module's own kernel too, at the price of a kernel for each.
        budget: Bytes that a kernel may take; default: the package's.

    Returns:
        The changes, frozen. What is 0 / 0 (the alignment of a network whose units are all off) is NaN and named in
        ``undefined``.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If the models do not match, samples influence each other or chance does (dropout in training mode),
            values are not finite, or the probe holds a single sample.
        MemoryBudgetError: If a kernel is over the budget.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        >>> same = laziness(model, model, torch.eye(3))
        >>> same.weight_change, round(same.kernel_alignment, 6), same.sign_similarity, same.representation
        (0.0, 1.0, 1.0, '1')
    """
    names = params if isinstance(params, str) else tuple(params)
    with stopwatch() as watch:
        batch = _check(before, after, probe)
        missing: list[str] = []
        first, second = choose_parameters(before, names), choose_parameters(after, names)
        weights = _weight_changes(first, second, missing)
        old, new = _outputs(before, batch), _outputs(after, batch)
        changes = _representation_changes(old, new, missing)
        chosen = _chosen(representation, changes, old)
        # The last kernel is that of all parameters; with per_layer it is the sum of the modules'.
        wanted = [tuple(n for n in first if _module(n) == w.name) for w in weights] if per_layer else [names]
        kernels, cost = [], Cost()
        for patterns in wanted:
            pair = [ntk(m, batch, outputs=outputs, params=patterns, budget=budget) for m in (before, after)]
            cost = cost + pair[0].cost + pair[1].cost
            kernels.append((pair[0].values, pair[1].values))
        whole = kernels[0] if not per_layer else (sum(k for k, _ in kernels), sum(k for _, k in kernels))
        kernel = _cosine(*whole, "kernel alignment: the tangent kernel", missing)  # type: ignore[arg-type]
        if per_layer:
            weights = [
                WeightChange(
                    w.name, w.absolute, w.relative, _cosine(*k, f"kernel alignment of {w.name!r}: its kernel", missing)
                )
                for w, k in zip(weights, kernels, strict=True)
            ]
    moved = math.hypot(*(w.absolute for w in weights))
    size = math.sqrt(sum(float(p.detach().double().square().sum()) for p in first.values()))
    return Laziness(
        weight_change=moved,
        relative_weight_change=moved / size if size > 0 else math.nan,
        kernel_alignment=kernel,
        representation_alignment=chosen.alignment,
        sign_similarity=chosen.sign_similarity,
        representation=chosen.name,
        layers=tuple(weights),
        representations=tuple(changes),
        undefined=tuple(missing),
        params=names if isinstance(names, str) else ", ".join(names),
        samples=len(batch),
        dtype=next(iter(first.values())).dtype,
        cost=Cost(cost.forward_passes + 2, cost.backward_passes, cost.matvecs, cost.bytes, watch.seconds),
    )


def _check(before: nn.Module, after: nn.Module, probe: object) -> Inputs:
    """Insist on two states of one model, and a probe of several samples.

    Returns:
        The probe.

    Raises:
        ValueError: If they do not match.
    """
    shapes = []
    for model in (before, after):
        shapes.append({n: tuple(p.shape) for n, p in check_model(model).named_parameters()})
        check_per_sample(model, "Laziness at a batch is", "Call .eval() on both models first.")
    for name in (*shapes[0], *shapes[1]):
        one, two = shapes[0].get(name), shapes[1].get(name)
        if one != two:
            raise ValueError(
                f"before and after are not two states of one model: {name!r} has shape {one or 'none'} in the first "
                f"and {two or 'none'} in the second; keep copy.deepcopy(model) before training."
            )
    batch = open_inputs(before, probe)
    open_inputs(after, probe)
    if len(batch) < 2:
        raise ValueError(
            "probe holds one sample, whose representation is aligned with itself whatever happens; pass at least two."
        )
    return batch


def _module(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _weight_changes(
    before: dict[str, nn.Parameter], after: dict[str, nn.Parameter], missing: list[str]
) -> list[WeightChange]:
    squares: dict[str, tuple[float, float]] = {}
    for name, old in before.items():
        start, end = old.detach().double(), after[name].detach().to(old.device, torch.float64)
        gap, size = squares.get(_module(name), (0.0, 0.0))
        squares[_module(name)] = (gap + float((end - start).square().sum()), size + float(start.square().sum()))
    found = []
    for name, (gap, size) in squares.items():
        if not math.isfinite(gap):
            raise ValueError(f"the parameters of {name!r} are not finite, so they have no change; training diverged.")
        if size == 0:
            missing.append(f"relative weight change of {name!r}: its parameters were all zero before")
        found.append(WeightChange(name, math.sqrt(gap), math.sqrt(gap / size) if size > 0 else math.nan, None))
    return found


def _outputs(model: nn.Module, batch: Inputs) -> dict[str, Tensor]:
    """Run a model and keep what each module without children returned at its last call.

    Returns:
        Outputs by module, in the order of the last calls, the model's own output last.

    Raises:
        ValueError: If one of them is not finite.
    """
    found: dict[str, Tensor] = {}
    with measuring(model, training=None), record(model, copy=True) as recording, torch.no_grad():
        run_model(model, batch.clone())
        for call in recording.calls:
            if call.output.is_floating_point():
                found.pop(call.name, None)
                found[call.name] = call.output
    for name, value in found.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"the output of {name!r} overflows on the probe, so nothing can be compared; measure.signal says where "
                "signals grow (in a recurrent network, a spectral radius above 1)."
            )
    return found


def _representation_changes(
    old: dict[str, Tensor], new: dict[str, Tensor], missing: list[str]
) -> list[RepresentationChange]:
    found = []
    for name, one in old.items():
        two = new.get(name)
        if two is None or two.shape != one.shape:
            missing.append(f"representation of {name!r}: the second model's output is of another shape")
            continue
        one, two = one.flatten(1).double(), two.to(one.device).flatten(1).double()  # (samples, features)
        alignment = _cosine(one @ one.T, two @ two.T, f"representation alignment of {name!r}: its output", missing)
        found.append(RepresentationChange(name, alignment, float((one.sign() == two.sign()).double().mean())))
    return found


def _chosen(wanted: str | None, changes: list[RepresentationChange], old: dict[str, Tensor]) -> RepresentationChange:
    """Pick the representation: by name, or the last one before the output.

    Returns:
        Its change.

    Raises:
        ValueError: If there is none.
        unknown_name: If no module of that name was compared (a ValueError).
    """
    if wanted is not None:
        for change in changes:
            if change.name == wanted:
                return change
        raise unknown_name("representation", wanted, [c.name for c in changes])
    hidden = [change for change in changes if change.name != list(old)[-1]]
    if not hidden:
        raise ValueError(
            "model has no module before its output's, so it has no hidden representation; name a module by "
            "representation=, the output's own if that is meant."
        )
    return hidden[-1]


def _cosine(one: Tensor, two: Tensor, what: str, missing: list[str]) -> float:
    norms = float(one.norm()), float(two.norm())
    if 0 in norms:
        state = "before and after" if norms == (0, 0) else "before" if norms[0] == 0 else "after"
        missing.append(f"{what} is zero {state}, and zero has no direction")
        return math.nan
    return min(1.0, float((one / norms[0] * (two.to(one.device) / norms[1])).sum()))
