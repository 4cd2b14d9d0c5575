"""The Gram matrix of a model's parameter Jacobians, without forming them where a closed form is known.

For outputs f(x_n) in R^C and cotangents c_{v,n}, row (v, n) is J_theta(x_n)^T c_{v,n}. The matrix of all inner products
between rows is a sum over parameters. For a linear layer it is (activations' Gram + 1) times (cotangents' Gram),
elementwise, so one forward and one backward sweep and a product per layer give the whole matrix.

Where several processes share the work, each runs the model on its samples. The sum over parameters is then divided by
units: of each layer a process gets the cotangents of all samples at its share of the units, and all samples' features,
and adds up what these units contribute; the sum over processes is the whole matrix. That moves every cotangent once
(V N out numbers a layer between all processes, beside N in for each) where rows of the matrix for every process would
need all cotangents in each, and it keeps the lower half that the sums are content with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from isometry._base import ALONE, BegunAgainError, Team
from isometry.measure._gram_general import general_contribution
from isometry.measure._gram_modules import Layout, by_sample, outer_backs, outer_features, scale_rows, token_features
from isometry.measure._gram_plan import Bundle, CallPlan, Plan
from isometry.measure._gram_sums import AnyGram, DenseFeatures, GramSum, TokenFeatures
from isometry.tape import Call, Inputs, StaleActivationError, record

__all__ = ["CHUNK_BYTES", "Sums", "accumulate"]

CHUNK_BYTES = 64 * 1024**2  # of formed rows at a time
Sums = Callable[[str], AnyGram]  # layer -> where its contributions go
Done = Callable[[str], None]  # called when a layer has all its contributions


@dataclass
class _Waiting:
    """Activations and cotangents of a bundle's calls, until the last has come."""

    bundle: Bundle
    inputs: dict[int, Tensor] = field(default_factory=dict)
    backs: dict[int, Tensor] = field(default_factory=dict)


def accumulate(
    model: nn.Module,
    x: Inputs,
    plan: Plan,
    cotangents: Callable[[Tensor], Tensor],
    sums: Sums,
    *,
    done: Done | None = None,
    restart: Callable[[], None],
    team: Team = ALONE,
) -> tuple[Tensor, Tensor]:
    """Add every chosen parameter's contribution to the Gram matrix.

    Args:
        model: The model, in the mode that is measured.
        x: The batch, or this process's share of it.
        plan: From ``make_plan``, for this model and batch.
        cotangents: Turns the model's output into cotangents (V, *output.shape); called once per attempt.
        sums: Gives the matrix that a layer's contributions are added to.
        done: Called with a layer's name when nothing more will be added for it.
        restart: Called to zero everything when a cheap attempt failed and a more careful one begins.
        team: The processes that share the batch; each is left with its summand of the matrix over the whole batch.

    Returns:
        The model's output, and the cotangents that were used.

    Raises:
        StaleActivationError: If activations are overwritten although copies were kept.
        OutOfMemoryError: If the device's memory does not suffice.
        RuntimeError: If the model's backward pass fails by itself.
    """
    copy, batched = False, True
    while True:
        try:
            return _attempt(model, x, plan, cotangents, sums, done, copy=copy, batched=batched, team=team)
        except BegunAgainError:
            restart()
            continue
        except StaleActivationError:
            if copy:
                raise
            copy = True  # the model overwrites activations in place: keep copies
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            if not batched:
                raise
            batched = False  # an operation that vmap cannot take: sweep once per direction
        team.begin_again()
        restart()


def _attempt(
    model: nn.Module,
    x: Inputs,
    plan: Plan,
    cotangents: Callable[[Tensor], Tensor],
    sums: Sums,
    done: Done | None,
    *,
    copy: bool,
    batched: bool,
    team: Team,
) -> tuple[Tensor, Tensor]:
    needed = {order for bundle in plan.bundles for order in bundle.calls}
    calls: dict[int, Call] = {}
    left = _LayersLeft(plan, done)

    def keep(call: Call) -> None:
        if call.order in needed:
            calls[call.order] = call

    with (
        record(model, lambda n, _m: n in plan.watched, keep=False, on_call=keep, cotangents=True, copy=copy) as tape,
        torch.enable_grad(),
    ):
        out = x.clone().run(model)
        back = cotangents(out.detach())
        _check_calls(plan, calls)
        if calls and out.requires_grad:
            sweep = _Sweep(plan, calls, sums, left, team)
            tape.pull_back(out, back, sweep.hear, batched=batched)
            sweep.flush()
    if plan.general:
        general = {name: plan.parameters[name] for name in plan.general}
        general_contribution(model, x, general, back, lambda name: sums(plan.group_of(name)), CHUNK_BYTES, team)
    for name in plan.general:
        left.finished(plan.group_of(name), name)
    left.flush()
    return out.detach(), back


class _LayersLeft:
    """Says when a layer has had all its contributions."""

    def __init__(self, plan: Plan, done: Done | None) -> None:
        self.done = done
        self.names: dict[str, set[str]] = {}
        for bundle in plan.bundles:
            self.names.setdefault(bundle.group, set()).update(bundle.names.values())
        for group, names in plan.general_groups().items():
            self.names.setdefault(group, set()).update(names)

    def finished(self, group: str, *names: str) -> None:
        self.names[group] -= set(names)
        if not self.names[group]:
            del self.names[group]
            if self.done is not None:
                self.done(group)

    def flush(self) -> None:
        """Finish the layers that no cotangent reached."""
        for group in list(self.names):
            self.finished(group, *self.names[group])


class _Sweep:
    """Hears the cotangents of one backward sweep and adds each bundle once its last call has been heard."""

    def __init__(self, plan: Plan, calls: dict[int, Call], sums: Sums, left: _LayersLeft, team: Team) -> None:
        self.plan, self.calls, self.sums, self.left, self.team = plan, calls, sums, left, team
        self.users: dict[int, list[_Waiting]] = {}
        for bundle in plan.bundles:
            waiting = _Waiting(bundle)
            for order in bundle.calls:
                self.users.setdefault(order, []).append(waiting)

    def hear(self, call: Call, back: Tensor) -> None:
        planned = self.calls.pop(call.order, None)
        if planned is None:
            return
        for waiting in self.users.pop(call.order):
            waiting.inputs[call.order] = call.input
            waiting.backs[call.order] = back
            if len(waiting.backs) == len(waiting.bundle.calls):
                self._add(waiting)

    def flush(self) -> None:
        """Add the bundles some of whose calls do not influence the output."""
        pending = {id(w): w for users in self.users.values() for w in users if w.backs}
        for waiting in pending.values():
            self._add(waiting)

    def _add(self, waiting: _Waiting) -> None:
        bundle = waiting.bundle
        calls = [self.plan.calls[order] for order in sorted(waiting.backs)]
        tensors = [(waiting.inputs[c.order], waiting.backs[c.order]) for c in calls]
        _contribute(bundle, calls, tensors, self.plan.samples, self.sums(bundle.group), self.team)
        waiting.inputs.clear()
        waiting.backs.clear()
        self.left.finished(bundle.group, *bundle.names.values())


def _contribute(
    bundle: Bundle,
    calls: list[CallPlan],
    tensors: list[tuple[Tensor, Tensor]],
    samples: int,
    into: AnyGram,
    team: Team,
) -> None:
    kinds = {call.kind for call in calls}
    pairs = list(zip(calls, tensors, strict=True))
    what = "+".join(bundle.names.values())
    if kinds <= {"linear", "conv"}:
        # Calls of a reused module are more positions.
        back = _joined([outer_backs(c.module, a, _layout(c), samples) for c, (_, a) in pairs], 2)
        f = None
        if "weight" in bundle.names:
            f = _joined([_features(c, x, samples, into.samples, team, what) for c, (x, _) in pairs], 1)
        else:
            back = back.sum(2, keepdim=True)
        back = team.regroup(back, into.samples, f"cotangents of {what}")
        _add_products(back, f, "bias" in bundle.names, into)
    elif kinds == {"embedding"}:
        tokens, back = _tokens(calls, tensors, samples)
        tokens = team.gather(tokens, into.samples, f"tokens of {what}")
        _add_tokens(tokens, team.regroup(back, into.samples, f"cotangents of {what}"), into)
    elif kinds == {"norm"}:
        for word, name in bundle.names.items():
            parts = [scale_rows(c.module, x, a, _layout(c), samples, (word,))[word] for c, (x, a) in pairs]
            into.add_rows(team.regroup(_total(parts), into.samples, f"rows of {name}"))
    else:
        _add_mixed(calls, tensors, samples, into, team, what)


def _layout(call: CallPlan) -> Layout:
    if call.layout is None:  # pragma: no cover - such calls are not in bundles
        raise AssertionError(call.name)
    return call.layout


def _check_calls(plan: Plan, calls: dict[int, Call]) -> None:
    """Insist that the whole batch went the way that the two samples of the plan went.

    Raises:
        ValueError: If modules were called in another order, or on other shapes.
    """
    for bundle in plan.bundles:
        for order in bundle.calls:
            planned, call = plan.calls[order], calls.get(order)
            if (
                call is None
                or call.name != planned.name
                or call.output_shape.numel() != planned.output_numel * plan.samples
            ):
                raise ValueError(
                    f"model: {planned.name!r} is called differently on the whole batch than on two of its samples, so "
                    "per-sample quantities are undefined; remove the dependence on the batch's size or content."
                )


def _features(call: CallPlan, x: Tensor, own: int, samples: int, team: Team, what: str) -> Tensor:
    # Inputs travel, not the patches that a convolution cuts out of them, of which each input is in several.
    rows = by_sample(x, _layout(call), own, call.module.get_parameter("weight").ndim - 1)
    return outer_features(call.module, team.gather(rows, samples, f"inputs of {what}"), Layout(0, 1, 1), samples)


def _add_products(back: Tensor, f: Tensor | None, bias: bool, into: AnyGram) -> None:
    samples, outside = back.shape[1], back.shape[-1]
    if not outside:  # more processes than units
        return
    if f is None:
        into.add_rows(back.sum(2).flatten(2))
        return
    _, positions, groups, inside = f.shape
    if (positions == 1 and groups == 1) or into.pair_cost(positions, inside, outside) < 1:
        for g in range(groups):
            into.add_outer(back[..., g, :], DenseFeatures(f[:, :, g], 1.0 if bias else 0.0))
        return
    if bias:
        into.add_rows(back.sum(2).flatten(2))
    per_output = back.shape[0] * samples * inside * (back.element_size() + 8)
    width = max(1, CHUNK_BYTES // per_output)  # outputs whose rows are formed at a time
    depth = max(1, width // outside)  # or whole groups
    for g in range(0, groups, depth):
        for o in range(0, outside, width):
            rows = torch.einsum("vnpgo,npgi->vngoi", back[..., g : g + depth, o : o + width], f[:, :, g : g + depth])
            into.add_rows(rows.flatten(2))


def _tokens(calls: list[CallPlan], tensors: list[tuple[Tensor, Tensor]], samples: int) -> tuple[Tensor, Tensor]:
    tokens = [token_features(c.module, x, _layout(c), samples) for c, (x, _) in zip(calls, tensors, strict=True)]
    backs = [by_sample(a, _layout(c), samples, 1, lead=1) for c, (_, a) in zip(calls, tensors, strict=True)]
    return _joined(tokens, 1), _joined(backs, 2)


def _add_tokens(tokens: Tensor, back: Tensor, into: GramSum) -> None:
    if not back.shape[-1]:
        return
    used, ids = torch.unique(tokens, return_inverse=True)
    ids = torch.where(tokens < 0, -1, ids)
    if into.pair_cost(tokens.shape[1], len(used), back.shape[-1]) < 1:
        into.add_outer(back, TokenFeatures(ids))
        return
    width = max(1, CHUNK_BYTES // (back.shape[0] * back.shape[1] * back.shape[-1] * (back.element_size() + 8)))
    for start in range(0, len(used), width):
        into.add_rows(_token_rows(ids, back, start, min(start + width, len(used))).flatten(2))


def _token_rows(ids: Tensor, back: Tensor, start: int, stop: int) -> Tensor:
    """Sum cotangents by token, for tokens from start to stop.

    Returns:
        Shape (V, N, stop - start, features).
    """
    v, n, _, width = back.shape
    inside = (ids >= start) & (ids < stop)
    place = torch.where(inside, ids - start, stop - start)  # what is outside falls into one extra row
    rows = back.new_zeros(v, n, stop - start + 1, width)
    rows.scatter_add_(2, place[None, :, :, None].expand(v, n, -1, width), back)
    return rows[:, :, :-1]


def _add_mixed(
    calls: list[CallPlan],
    tensors: list[tuple[Tensor, Tensor]],
    own: int,
    into: AnyGram,
    team: Team,
    what: str,
) -> None:
    """Add a weight that an embedding and a linear layer share: its rows are formed, some tokens at a time.

    Processes take different tokens: a linear layer's outputs, and the positions of an embedding where they stand.
    """
    samples = into.samples
    outside = max(call.module.get_parameter("weight").shape[0] for call in calls)
    mine = team.parts(outside)[team.rank]
    ready = []
    for call, (x, a) in zip(calls, tensors, strict=True):
        if call.kind == "embedding":
            f, back = _tokens([call], [(x, a)], own)
            back = team.gather(back.transpose(0, 1), samples, f"cotangents of {what}").transpose(0, 1)
        else:
            f = by_sample(x, _layout(call), own, 1)
            back = outer_backs(call.module, a, _layout(call), own)[..., 0, :]
            back = team.regroup(back, samples, f"cotangents of {what}")
        ready.append((call.kind == "embedding", team.gather(f, samples, f"features of {what}"), back))
    inside = calls[0].module.get_parameter("weight").shape[1]
    width = max(1, CHUNK_BYTES // (tensors[0][1].shape[0] * samples * inside * (tensors[0][1].element_size() + 8)))
    for start in range(mine.start, mine.stop, width):
        stop = min(start + width, mine.stop)
        rows = [
            _token_rows(f, back, start, stop)
            if is_token
            else torch.einsum("vnpo,npi->vnoi", back[..., start - mine.start : stop - mine.start], f)
            for is_token, f, back in ready
        ]
        into.add_rows(_total([r.flatten(2) for r in rows]))


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return torch.cat(parts, dim) if len(parts) > 1 else parts[0]


def _total(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
