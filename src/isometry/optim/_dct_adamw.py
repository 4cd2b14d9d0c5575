"""DCT-AdamW: Adam in a few columns of a fixed cosine basis, chosen anew by their part of the gradient.

References:
    I.-V. Modoranu et al., SVD-free low-rank adaptive gradient optimization for large language models, 2025.
    arXiv:2505.17967
    Its released code, IST-DASLab/ISTA-DASLab-Optimizers, folder fft_low_rank

Departures: one basis whatever the route; what the released code decides by a flag that is off (the states of columns
that leave and enter) is on; its 4-bit buffer is unpacked in another order than it is packed, here in the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from isometry.linalg._dct import DCTRoute
from isometry.linalg._precision import check_size
from isometry.optim._base import ParameterSource, check_betas, check_number, check_switch
from isometry.optim._dct_projector import (
    Basis,
    basis_columns,
    check_projection,
    coefficients,
    strongest_columns,
    taken,
    tall,
)
from isometry.optim._elementwise import adam_ratio
from isometry.optim._low_rank import LowRankOptimizer, LowRankRule, Rank
from isometry.optim._matrix import MatrixRule
from isometry.optim._packed_rows import pack_rows, unpack_rows
from isometry.optim._rule import Member, Options, State
from isometry.optim._sharded import is_sharded, sharded_like
from isometry.optim._update_size import ADAMW_RMS, UpdateSize
from isometry.roles import Axes

__all__ = ["DCTAdamW", "DCTAdamWUpdate", "carried", "dct_adamw_update"]


_PACKED = ("error_codes", "error_levels")  # rows of the error in few bits


class DCTAdamWUpdate(NamedTuple):
    """A step of DCT-AdamW.

    Attributes:
        update: U, shape ``(*batch, out, in)``; the step is minus the learning rate times it.
        part: The part of the matrices that it has used, a Q_I^T, same shape; None if not asked for.
        exp_avg: m, shape ``(*batch, max(out, in), rank)``.
        exp_avg_sq: v, same shape.
        indices: I, shape ``(*batch, rank)``.
    """

    update: Tensor
    part: Tensor | None
    exp_avg: Tensor
    exp_avg_sq: Tensor
    indices: Tensor


def dct_adamw_update(
    matrices: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    indices: Tensor,
    *,
    step: int,
    rank: int,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    refresh: int = 1,
    rotate: bool = True,
    p: Literal[1, 2] = 2,
    basis: Basis = "dct2",
    route: DCTRoute = "auto",
    part: bool = True,
) -> DCTAdamWUpdate:
    """Make DCT-AdamW's update of matrices. Wide ones are taken as their transposes, in their states as well.

    Args:
        matrices: A, the gradient plus what earlier steps have left of it, shape ``(*batch, out, in)``.
        exp_avg: m, shape ``(*batch, max(out, in), rank)``; zeros before the first step.
        exp_avg_sq: v, same shape.
        indices: I of the last step, shape ``(*batch, rank)``. Its rank may differ from the new one.
        step: t, from 1.
        rank: r.
        betas: Decay rates of m and v.
        eps: Added to the root of v.
        refresh: T; columns are chosen at t = 1 and when T divides t.
        rotate: Let the states follow their columns; else they stay in their places.
        p: Norm of the columns.
        basis: Which basis.
        route: How the DCT is computed.
        part: Whether to give the part used.

    Returns:
        The update, the part used, and the new states.

    Example:
        >>> zeros, first = torch.zeros(3, 1), torch.zeros(1, dtype=torch.int32)
        >>> g = torch.outer(torch.tensor([1.0, -2.0, 3.0]), torch.ones(2))  # a constant in every row: frequency 0
        >>> step = dct_adamw_update(g, zeros, zeros, first, step=1, rank=1)
        >>> step.indices.tolist(), torch.allclose(step.part, g), torch.allclose(step.update, g.sign() / 2**0.5)
        ([0], True, True)
    """
    a, n = tall(matrices), min(matrices.shape[-2:])
    if step == 1 or step % refresh == 0 or indices.shape[-1] != rank:
        spectrum = coefficients(a, basis=basis, route=route)
        chosen = strongest_columns(spectrum, rank, p=p)
        low = taken(spectrum, chosen)  # S_I = A Q_I without another product
        if rotate or indices.shape[-1] != rank:
            exp_avg, exp_avg_sq = (carried(s, indices, chosen) for s in (exp_avg, exp_avg_sq))
        columns = basis_columns(chosen, n, basis=basis, dtype=a.dtype)
    else:
        chosen, columns = indices, basis_columns(indices, n, basis=basis, dtype=a.dtype)
        low = a @ columns.mT
    mean = torch.lerp(exp_avg, low, 1 - betas[0])
    square = (betas[1] * exp_avg_sq).addcmul_(low, low, value=1 - betas[1])
    denominator, factor = adam_ratio(square, step=step, betas=betas, eps=eps)
    update = (mean / denominator).mul_(factor) @ columns
    used = low @ columns if part else None
    if a is not matrices:
        update, used = update.mT, None if used is None else used.mT
    return DCTAdamWUpdate(update, used, mean, square, chosen)


def carried(states: Tensor, before: Tensor, now: Tensor) -> Tensor:
    """Let states follow their columns, M Q_before^T Q_now: columns that stay keep theirs, those that enter have zeros.

    The columns are of one orthonormal basis, so that product has a single 1, or none, in each column.

    Args:
        states: M, shape ``(*batch, m, r)``.
        before: The columns that they belong to, increasing, shape ``(*batch, r)``.
        now: The new columns, increasing, shape ``(*batch, s)``.

    Returns:
        Shape ``(*batch, m, s)``.

    Example:
        >>> carried(torch.tensor([[5.0, 7.0]]), torch.tensor([1, 4]), torch.tensor([2, 4]))
        tensor([[0., 7.]])
    """
    place = torch.searchsorted(before, now).clamp_(max=before.shape[-1] - 1)
    stays = before.gather(-1, place) == now
    # Not by a product with 0: of gradients beyond 1e19 the squares are infinite in float32.
    return taken(states, place).masked_fill(~stays.unsqueeze(-2), 0)


class DCTAdamW(LowRankOptimizer):
    """Adam with states of rank r: of a (R, K) matrix 2 max(R, K) r numbers in place of 2 R K.

    A = G + E; I = the r columns of A Q of largest norm, Q the DCT-II basis; a = A Q_I; E = A - a Q_I^T;
    m <- b1 m + (1 - b1) a and v <- b2 v + (1 - b2) a^2, after the states have followed their columns;
    W <- (1 - lr wd) W - lr [m / (1 - b1^t)] / ([v / (1 - b2^t)]^(1/2) + eps) Q_I^T. Wide matrices: from the left. No
    matrix is decomposed. What is kept of a projection is r indices a matrix, and one basis for each n = min(R, K).

    With r = n it is Adam in the rotated basis, which is not Adam (with ``basis="identity"`` it is). E has as many
    numbers as the matrix: in float32 the memory is that of AdamW at r = n/2, with ``ef_bits`` it is less, without error
    feedback least; what is left out is lost then. Parameters of other groups (``rule="adamw"``) move by AdamW with
    the same numbers. The states of rank r are whole on every process; E is sharded as its parameter.

    Args:
        params: ``isometry.roles.route(model)``, matrices, or groups; see ``MatrixOptimizer`` for their options.
        lr: Learning rate.
        rank: r, an int, or as a float the fraction of n, rounded half up.
        betas: Decay rates b1, b2.
        eps: Added to the root of v.
        weight_decay: Decoupled; W shrinks by lr times it.
        error_feedback: Keep what the columns chosen leave out of the gradient, E, and add it to the next one.
        ef_bits: Keep E in 8 or 4 bits an entry, each row (of the parameter's first dimension) between its minimum and
            maximum; None keeps it as it is. A change of it, or of ``error_feedback``, begins with E = 0.
        refresh: T; columns are chosen at the first step and whenever T divides the number of the step.
        rotate: Let the states follow their columns; those of columns that enter begin with zeros. Without it the states
            of different columns are mixed. The released code has it off; it is on here, since training suffers
            without it (and it costs next to nothing).
        p: Norm by which columns are chosen; 2 bounds what is left, |E|_F^2 <= (1 - r/n) |A|_F^2, the 1 of the released
            code does not.
        basis: ``"dct2"``, ``"dct3"``, ``"random"``, ``"identity"``; see ``DCTProjector``.
        route: How the DCT-II is computed, see ``isometry.linalg.dct``.
        maximize: Go uphill.
        adamw: What differs for the other groups: ``lr``, ``betas``, ``eps``, ``weight_decay``.

    Raises:
        TypeError: If an option is of a wrong type.
        ValueError: If an option is out of its range; if the rank is no rank for some matrix; if a parameter in a group
            of matrices is none, or may be several things (more than two dimensions and no ``layout``); if no parameter
            is a matrix.

    Example:
        >>> layer = torch.nn.Linear(16, 8, bias=False)
        >>> optimizer = DCTAdamW(layer.parameters(), lr=0.01, rank=2, error_feedback=False)
        >>> layer(torch.randn(5, 16)).square().sum().backward()
        >>> optimizer.step()
        >>> optimizer.state_bytes()["exp_avg"] == 4 * 16 * 2
        True
    """

    def __init__(
        self,
        params: ParameterSource,
        lr: float | Tensor = 1e-3,
        *,
        rank: Rank = 0.25,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        error_feedback: bool = True,
        ef_bits: int | None = None,
        refresh: int = 1,
        rotate: bool = True,
        p: Literal[1, 2] = 2,
        basis: Basis = "dct2",
        route: DCTRoute = "auto",
        maximize: bool = False,
        adamw: Mapping[str, Any] | None = None,
    ) -> None:
        for name, number in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            check_number(name, number)  # before they are called AdamW's
        shared = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        defaults = {
            **shared,
            "rank": rank,
            "error_feedback": error_feedback,
            "ef_bits": ef_bits,
            "refresh": refresh,
            "rotate": rotate,
            "p": p,
            "basis": basis,
            "route": route,
            "maximize": maximize,
        }
        given = {**shared, **adamw} if isinstance(adamw, Mapping) else adamw
        super().__init__(params, defaults, shared if adamw is None else given)

    def _check_matrix_options(self, options: dict[str, Any]) -> None:
        super()._check_matrix_options(options)
        check_betas(options["betas"])
        check_number("eps", options["eps"])
        check_switch("error_feedback", options["error_feedback"])
        check_switch("rotate", options["rotate"])
        check_size("refresh", options["refresh"])
        check_projection(options["p"], options["basis"], options["route"])
        if options["ef_bits"] not in (None, 8, 4):
            raise ValueError(f"ef_bits must be None, 8 or 4, got {options['ef_bits']!r}.")

    def _matrix_rule(self, axes: Axes, options: dict[str, Any]) -> MatrixRule:
        return DCTAdamWRule(axes, ef_bits=(options["ef_bits"] or 32) if options["error_feedback"] else 0)

    def _form(self, options: dict[str, Any]) -> tuple[Any, ...]:
        return *super()._form(options), options["error_feedback"], options["ef_bits"]


@dataclass(frozen=True)
class DCTAdamWRule(LowRankRule):
    """DCT-AdamW's step of the matrices of a parameter.

    Attributes:
        ef_bits: Bits of an entry of the error; 32 for the working dtype, 0 for no error feedback.
    """

    small: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq", "indices")

    ef_bits: int = 32

    @property
    def in_parts(self) -> bool:
        return self.ef_bits > 0

    def names(self) -> tuple[str, ...]:
        error = {0: (), 32: ("error",)}.get(self.ef_bits, ("error_codes", "error_levels"))
        return (*self.small, *error)

    def begin(self, value: Tensor, members: int) -> State:
        state = self.begin_small(value, members)
        if self.ef_bits == 32:
            state["error"] = torch.zeros_like(value)
        elif self.ef_bits:
            state["error_codes"], state["error_levels"] = self._packed(torch.zeros_like(value))
        return state

    def entrywise(self, name: str) -> bool:
        return super().entrywise(name) and name not in _PACKED

    def begin_small(self, value: Tensor, members: int) -> State:
        count, out, in_ = self.shape
        zeros = value.new_zeros(members * count, max(out, in_), self.rank)
        first = torch.arange(self.rank, dtype=torch.int32, device=value.device).repeat(len(zeros), 1)
        return {"exp_avg": zeros, "exp_avg_sq": zeros.clone(), "indices": first}

    def update_size(self, shape: Sequence[int], options: Options) -> UpdateSize:
        del options
        return UpdateSize(rms=ADAMW_RMS * (self.rank / min(shape)) ** 0.5, holds="typical; AdamW's in the rank's share")

    def prepare(self, gradient: Tensor, state: State, options: Options) -> tuple[Tensor, State]:
        del options
        if not self.ef_bits:
            return gradient, {}
        used = gradient + (state["error"] if self.ef_bits == 32 else self._unpacked(gradient, state))
        return used, {"error": used}

    def update(
        self, value: Tensor, gradient: Tensor, state: State, step: int, options: Options, context: Mapping[str, Any]
    ) -> tuple[Tensor, State]:
        return super().update(value, gradient, state, step, {**options, "step": step}, context)

    def move_part(self, matrices: Tensor, small: State, options: Options) -> tuple[Tensor, Tensor | None, State]:
        names = ("step", "betas", "eps", "refresh", "rotate", "p", "basis", "route")
        update, part, *states = dct_adamw_update(
            matrices,
            *(small[name] for name in self.small),
            rank=self.rank,
            part=self.in_parts,
            **{name: options[name] for name in names},
        )
        return update, part, dict(zip(self.small, states, strict=True))

    def finish(self, update: Tensor, used: Tensor, state: State, options: Options) -> tuple[Tensor, State]:
        del options
        if not self.ef_bits:
            return update, {}
        error = state["error"] - used
        if self.ef_bits == 32:
            return update, {"error": error}
        return update, dict(zip(_PACKED, self._packed(error), strict=True))

    # -- the error in few bits: rows of a parameter's first dimension

    def _packed(self, error: Tensor) -> tuple[Tensor, Tensor]:
        return pack_rows(error.flatten(2) if error.ndim > 2 else error.unsqueeze(-1), bits=self.ef_bits)

    def _unpacked(self, gradient: Tensor, state: State) -> Tensor:
        columns = gradient[0, :1].numel()
        rows = unpack_rows(state["error_codes"], state["error_levels"], columns=columns, bits=self.ef_bits)
        return rows.view(gradient.shape)

    def keep(self, member: Member, name: str, part: Tensor) -> Tensor:
        if name in _PACKED and is_sharded(member.parameter):
            whole = torch.Size([member.parameter.shape[0], part.shape[-1]])
            return sharded_like(part.squeeze(0), member.parameter, whole)
        return super().keep(member, name, part)
