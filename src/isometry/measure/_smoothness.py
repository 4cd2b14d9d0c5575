"""Local smoothness along the path of a training: how fast the gradient changes, beside how large it is.

A loss is smooth with the constant L if gradients at two points differ by at most L times their distance. In recurrent
nets and transformers L grows with the gradient: |grad F(x) - grad F(y)| <= (L0 + L1 |grad F(x)|) |x - y| nearby.

Paper: M. Crawshaw, M. Liu, F. Orabona, W. Zhang, Z. Zhuang. "Robustness to Unbounded Smoothness of Generalized
SignSGD." NeurIPS 2022. arXiv:2208.11195, figures 1 to 3; the estimator is that of J. Zhang et al., ICLR 2020.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from isometry._base import Cost, check_budget, progress, stopwatch
from isometry.measure._confusion_guards import batch_statistics, check_still, only_require
from isometry.measure._confusion_loss import Loss, SampleLoss, masked_targets, resolve_loss
from isometry.measure._confusion_passes import batch_gradient
from isometry.measure._fisher_setup import choose_parameters
from isometry.measure._guards import check_model, differentiable, open_inputs, outside_inference
from isometry.measure._smoothness_result import LocalSmoothness, ParameterSmoothness
from isometry.measure._snapshots import Snapshot
from isometry.tape import Inputs, untouched

__all__ = ["local_smoothness"]

Parameters = dict[str, nn.Parameter]


@outside_inference
def local_smoothness(
    model: nn.Module,
    x: Tensor | Inputs | Mapping[str, Any] | Sequence[Any],
    y: Tensor,
    snapshots: Iterable[Snapshot],
    *,
    loss: Loss = None,
    k: int = 6,
    params: str | Iterable[str] = "all",
    paired: bool | None = None,
    budget: int | None = None,
) -> LocalSmoothness:
    """Measure the smoothness of the loss on a fixed batch between snapshots of a training.

    Between snapshots w_t and w_(t+1), at the points w_t + (i / k) d, i = 1, ..., k, d = w_(t+1) - w_t:
    L_t = max over i of |grad F(w_t + (i/k) d) - grad F(w_t)| / ((i/k) |d|). Of a single parameter tensor the change
    of its own gradient is taken, over the length of the whole step, as in the paper's coordinate-wise assumption.

    The model is measured in the modes that it is in and keeps its own weights; a snapshot's buffers are loaded with it.
    Every pair takes k + 1 gradients.

    Args:
        model: Maps x to outputs, samples first.
        x: The batch, samples first, as for ``gradient_confusion``.
        y: Targets, samples first.
        snapshots: Two or more states of the model, in order: state dicts, or ``Snapshots``. An iterable is read one by
            one, so a generator may load them from files.
        loss: As for ``gradient_confusion``: a name, a callable, or None; its mean over the samples is F.
        k: Points on each step. The paper does not say how many it takes.
        params: Which parameters move and are measured: "all", or name patterns; others stay as in the pair's first
            snapshot.
        paired: Take snapshots two by two, (0, 1), (2, 3), ..., instead of each with the next. Smoothness is a local
            matter: between states many steps apart the change of the gradient averages out, so pairs should be one step
            apart, however rarely they are taken. Default: as ``Snapshots`` has kept them, else False.
        budget: Bytes that the kept weights and gradients may take; default: the package's.

    Returns:
        Gradient norms and smoothness, one of each a step, of the model and of each parameter tensor.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If there are less than two snapshots or none of them moved, one is not of this model, or a loss or
            gradient is not finite at a point; the message says at which.
        MemoryBudgetError: If weights and gradients are over the budget.

    Example:
        >>> line = nn.Linear(1, 1, bias=False)
        >>> path = [{"weight": torch.tensor([[w]])} for w in (0.0, 1.0, 3.0)]
        >>> found = local_smoothness(line, torch.tensor([[2.0]]), torch.tensor([[2.0]]), path, k=4)
        >>> found.smoothness.tolist(), found.grad_norm.tolist()  # F = (2 w - 2)^2
        ([8.0, 8.0], [8.0, 0.0])
    """
    module = check_model(model)
    batch = open_inputs(module, x)
    if batch.whole:
        raise ValueError("x is one whole graph, which local_smoothness does not take; use gradient_confusion.")
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k must be a whole number of at least 1, got {k!r}.")
    chosen = choose_parameters(module, params if isinstance(params, str) else tuple(params))
    sample_loss, targets = resolve_loss(loss, y, len(batch))
    targets = masked_targets(batch, targets, sample_loss)
    batch_statistics(module)
    check_still(module, batch)
    needed = check_budget(
        5 * sum(p.numel() * p.element_size() for p in module.parameters()),
        budget,
        what="keeping two states and three gradients of the model",
        instead="Narrow params=,",
    )
    by_two = getattr(snapshots, "paired", False) if paired is None else paired
    rows: list[_Step] = []
    skipped: list[int] = []
    with stopwatch() as watch, _own_weights(module), untouched(module), differentiable(module):
        only_require(module, chosen.values())
        states = _checked(snapshots, module)
        for t, (begin, end) in enumerate(_by_two(states) if by_two else pairwise(states)):
            progress("Smoothness along snapshots", t, _count(snapshots, by_two))
            first = 2 * t if by_two else t
            row = _Step(module, batch, targets, sample_loss, chosen, k).measured(t, first, begin, end)
            if row is None:
                skipped.append(t)
            else:
                rows.append(row)
    if not rows:
        count = len(skipped)
        raise ValueError(
            f"snapshots: nothing moved in any of {count} steps between them; take them apart in training."
            if count
            else "snapshots must hold at least two states of the model, in the order of the training."
        )
    return _result(rows, skipped, chosen, k, sample_loss, len(batch), Cost(bytes=needed, seconds=watch.seconds))


class _Step:
    """The gradients along one step from a snapshot to the next."""

    def __init__(
        self, model: nn.Module, x: Inputs, y: Tensor, loss: SampleLoss, parameters: Parameters, points: int
    ) -> None:
        self.model, self.x, self.y, self.loss = model, x, y, loss
        self.parameters, self.points = parameters, points

    def measured(self, t: int, first: int, begin: Snapshot, end: Snapshot) -> _Step | None:
        """Measure step t, from snapshot ``first`` to the next.

        Returns:
            Itself, with ``number``, ``length``, and ``norms`` and ``changes`` for each parameter and, last, for all;
            None if nothing moved.
        """
        _load(self.model, begin)
        start = {name: p.detach().clone() for name, p in self.parameters.items()}
        move = {name: end[name].to(start[name]) - start[name] for name in start}
        self.number, self.length = t, math.hypot(*_norms(move))
        if self.length == 0:
            return None
        before = self._gradient(f"snapshot {first}")
        self.norms = _with_total(_norms(before))
        self.changes = [0.0] * len(self.norms)
        for i in range(1, self.points + 1):
            with torch.no_grad():
                for name, p in self.parameters.items():
                    p.copy_(start[name]).add_(move[name], alpha=i / self.points)
            where = f"the point {i}/{self.points} of the way from snapshot {first} to {first + 1}"
            after = self._gradient(where)
            apart = _with_total(_norms({name: after[name] - before[name] for name in before}))
            # As far as rounding let it go, which is what the gradients are of.
            distance = math.hypot(*_norms({name: p.detach() - start[name] for name, p in self.parameters.items()}))
            if distance > 0:
                self.changes = [max(old, gap / distance) for old, gap in zip(self.changes, apart, strict=True)]
        return self

    def _gradient(self, where: str) -> dict[str, Tensor]:
        try:
            _, self.dtype, found = batch_gradient(
                self.model, self.x, self.y, self.loss, self.parameters, torch.arange(len(self.x))
            )
        except ValueError as error:
            raise ValueError(f"at {where}: {error}") from error
        return found


def _by_two(states: Iterator[Snapshot]) -> Iterator[tuple[Snapshot, Snapshot]]:
    return zip(states, states, strict=False)


def _count(snapshots: object, by_two: bool) -> int:
    if not isinstance(snapshots, Sized):
        return 0  # not known beforehand
    return len(snapshots) // 2 if by_two else len(snapshots) - 1


def _norms(tensors: Mapping[str, Tensor]) -> list[float]:
    return [float(torch.linalg.vector_norm(t, dtype=torch.float64)) for t in tensors.values()]


def _with_total(norms: list[float]) -> list[float]:
    return [*norms, math.hypot(*norms)]


@contextmanager
def _own_weights(model: nn.Module) -> Iterator[None]:
    """Put a model's parameters back after a block, to the bit; buffers are ``untouched``'s.

    Yields:
        Nothing.
    """
    kept = [(p, p.detach().clone()) for p in model.parameters()]
    try:
        yield
    finally:
        with torch.no_grad():
            for p, value in kept:
                p.copy_(value)


def _checked(snapshots: Iterable[Snapshot], model: nn.Module) -> Iterator[Snapshot]:
    """Insist on states of this model.

    Yields:
        Each of them.

    Raises:
        TypeError: If they cannot be gone through, or one is no mapping.
        ValueError: If it is another model's or holds NaN or infinity.
    """
    if not isinstance(snapshots, Iterable):
        raise TypeError(f"snapshots must be state dicts in order, got {type(snapshots).__name__}; keep a list of them.")
    shapes = {name: p.shape for name, p in model.named_parameters()}
    for t, snapshot in enumerate(snapshots):
        if not isinstance(snapshot, Mapping):
            raise TypeError(
                f"snapshot {t} must be a state dict, got {type(snapshot).__name__}; keep model.state_dict()."
            )
        for name, shape in shapes.items():
            held = snapshot.get(name)
            if not isinstance(held, Tensor) or held.shape != shape:
                got = f"has shape {tuple(held.shape)}" if isinstance(held, Tensor) else "is missing"
                raise ValueError(
                    f"snapshot {t} is not a state of this model: {name!r} {got}, the model's is {tuple(shape)}."
                )
            if not bool(torch.isfinite(held).all()):
                raise ValueError(f"snapshot {t} holds NaN or infinity in {name!r}: training diverged; leave it out.")
        yield snapshot


def _load(model: nn.Module, snapshot: Snapshot) -> None:
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name in snapshot:
                tensor.copy_(snapshot[name])


def _result(
    rows: list[_Step], skipped: list[int], parameters: Parameters, k: int, loss: SampleLoss, samples: int, cost: Cost
) -> LocalSmoothness:
    norms = torch.tensor([row.norms for row in rows], dtype=torch.float64).T
    changes = torch.tensor([row.changes for row in rows], dtype=torch.float64).T
    passes = len(rows) * (k + 1)
    return LocalSmoothness(
        grad_norm=norms[-1],
        smoothness=changes[-1],
        step_norm=torch.tensor([row.length for row in rows], dtype=torch.float64),
        parameters=tuple(ParameterSmoothness(n, norms[i], changes[i]) for i, n in enumerate(parameters)),
        steps=tuple(row.number for row in rows),
        skipped=tuple(skipped),
        k=k,
        loss=loss.name,
        samples=samples,
        dtype=rows[0].dtype,
        cost=Cost(passes, passes, 0, cost.bytes, cost.seconds),
    )
