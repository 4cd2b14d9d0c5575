"""Trion: steps along the polar factor of the strongest cosine columns of the momentum.

References:
    I.-V. Modoranu et al., SVD-free low-rank adaptive gradient optimization for large language models, 2025.
    arXiv:2505.17967
    Its released code, IST-DASLab/ISTA-DASLab-Optimizers, folder fft_low_rank, which does not run as published
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from isometry.linalg._dct import DCTRoute
from isometry.optim._base import ParameterSource, check_number
from isometry.optim._dct_projector import (
    Basis,
    basis_columns,
    check_projection,
    coefficients,
    strongest_columns,
    taken,
    tall,
)
from isometry.optim._low_rank import LowRankOptimizer, LowRankRule, Rank
from isometry.optim._matrix import MatrixRule
from isometry.optim._orthogonal_step import ComputeDtype, Polar, check_polar, orthogonalized, resolved_dtype
from isometry.optim._rule import Options, State
from isometry.optim._update_scale import Scale, check_scale, scale_factor
from isometry.optim._update_size import UpdateSize
from isometry.roles import Axes

__all__ = ["Trion", "trion_update"]


def trion_update(
    momentum: Tensor,
    *,
    rank: int,
    polar: Polar = "fast",
    compute_dtype: torch.dtype | None = None,
    scale: Scale = "spectral",
    p: Literal[1, 2] = 2,
    basis: Basis = "dct2",
    route: DCTRoute = "auto",
) -> tuple[Tensor, Tensor]:
    """Make Trion's update of momentum matrices. Wide ones are taken as their transposes.

    I = the columns of B Q of largest norm; b = B Q_I; O = polar factor of b; the update is c O Q_I^T.

    Args:
        momentum: B, shape ``(*batch, out, in)``.
        rank: How many columns are chosen.
        polar: How the polar factor is computed.
        compute_dtype: Dtype of its products; default: at least float32.
        scale: The factor c, by the matrix's sizes.
        p: Norm of the columns.
        basis: Which basis.
        route: How the DCT is computed.

    Returns:
        The update and the part of the momentum that it has used, b Q_I^T; each of the same shape and dtype.

    Example:
        >>> b = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
        >>> update, part = trion_update(b, rank=2, polar="exact", scale="none")
        >>> bool((torch.linalg.svdvals(update) - torch.tensor([1.0, 1.0, 0.0, 0.0])).abs().max() < 1e-5)
        True
    """
    matrices = tall(momentum)
    spectrum = coefficients(matrices, basis=basis, route=route)
    chosen = strongest_columns(spectrum, rank, p=p)
    low = taken(spectrum, chosen)
    columns = basis_columns(chosen, matrices.shape[-1], basis=basis, dtype=matrices.dtype)
    factor = scale_factor(scale, *momentum.shape[-2:])
    update = (orthogonalized(low, polar=polar, compute_dtype=compute_dtype) * factor) @ columns
    part = low @ columns
    return (update, part) if matrices is momentum else (update.mT, part.mT)


class Trion(LowRankOptimizer):
    """Momentum, orthogonalized in the r cosine columns that hold most of it.

    B <- B + G; I = the r columns of B Q of largest norm, Q the DCT-II basis of size n = min(R, K); b = B Q_I; B <- B -
    (1 - mu) b Q_I^T; O = the polar factor of b, approximately; W <- (1 - lr wd) W - lr c O Q_I^T. Wide matrices: from
    the left. Only the part used decays, so what is left out waits in B for its turn. With r = n it is ``Muon`` without
    looking ahead. The one state is B. Parameters of other groups (``rule="adamw"``) move by AdamW.

    Args:
        params: ``isometry.roles.route(model)``, matrices, or groups; see ``MatrixOptimizer`` for their options.
        lr: Learning rate.
        rank: r, an int, or as a float the fraction of n, rounded half up.
        momentum: mu; what is used is multiplied by it.
        weight_decay: Decoupled; W shrinks by lr times it.
        scale: The factor c, which is the spectral norm of the update: ``"spectral"`` (out/in)^(1/2), as Dion has it
            (the paper's ``"dion"``) and the default, since Dion is what Trion is compared with; ``"original"`` max(1,
            out/in)^(1/2) (``"kj"``); ``"match_rms_adamw"`` 0.2 max(out, in)^(1/2) (``"kimi"``), at which the root mean
            square of the entries is 0.2 (r/n)^(1/2); ``"none"``.
        polar: How the polar factor is computed, see ``Muon``.
        compute_dtype: Dtype of its products, see ``Muon``.
        p: Norm by which columns are chosen, 2 or, as in the released code, 1; see ``DCTProjector``.
        basis: ``"dct2"``, ``"dct3"``, ``"random"``, ``"identity"``; see ``DCTProjector``.
        route: How the DCT-II is computed, see ``isometry.linalg.dct``.
        maximize: Go uphill.
        adamw: AdamW's ``lr``, ``betas``, ``eps``, ``weight_decay`` for the other groups, where they do not say it
            themselves; default 3e-4, (0.9, 0.95), 1e-10, 0.

    Raises:
        TypeError: If an option is of a wrong type.
        ValueError: If an option is out of its range; if the rank is no rank for some matrix; if a parameter in a group
            of matrices is none, or may be several things (more than two dimensions and no ``layout``); if no parameter
            is a matrix.

    Example:
        >>> layer = torch.nn.Linear(8, 8, bias=False)
        >>> optimizer = Trion(layer.parameters(), lr=0.1, rank=3, polar="exact")
        >>> before = layer.weight.detach().clone()
        >>> layer(torch.randn(5, 8)).square().sum().backward()
        >>> optimizer.step()
        >>> [round(float(s), 3) for s in torch.linalg.svdvals(before - layer.weight.detach())]
        [0.1, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0]
    """

    def __init__(
        self,
        params: ParameterSource,
        lr: float | Tensor = 0.02,
        *,
        rank: Rank = 0.25,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        scale: Scale = "spectral",
        polar: Polar = "fast",
        compute_dtype: ComputeDtype = "auto",
        p: Literal[1, 2] = 2,
        basis: Basis = "dct2",
        route: DCTRoute = "auto",
        maximize: bool = False,
        adamw: Mapping[str, Any] | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "rank": rank,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "scale": scale,
            "polar": polar,
            "compute_dtype": compute_dtype,
            "p": p,
            "basis": basis,
            "route": route,
            "maximize": maximize,
        }
        super().__init__(params, defaults, adamw)

    def _check_matrix_options(self, options: dict[str, Any]) -> None:
        super()._check_matrix_options(options)
        check_number("momentum", options["momentum"], below=1)
        check_scale(options["scale"])
        check_polar(options)
        check_projection(options["p"], options["basis"], options["route"])

    def _matrix_rule(self, axes: Axes, options: dict[str, Any]) -> MatrixRule:
        del options
        return TrionRule(axes)


@dataclass(frozen=True)
class TrionRule(LowRankRule):
    """Trion's step of the matrices of a parameter."""

    @property
    def in_parts(self) -> bool:
        return True

    def names(self) -> tuple[str, ...]:
        return ("momentum_buffer",)

    def update_size(self, shape: Sequence[int], options: Options) -> UpdateSize:
        factor = scale_factor(options["scale"], *shape)
        rms = factor * (self.rank / (shape[0] * shape[1])) ** 0.5
        return UpdateSize(factor, factor, rms, f"momentum of rank {self.rank} or more")

    def prepare(self, gradient: Tensor, state: State, options: Options) -> tuple[Tensor, State]:
        del options
        buffer = state["momentum_buffer"] + gradient
        return buffer, {"momentum_buffer": buffer}

    def move_part(self, matrices: Tensor, small: State, options: Options) -> tuple[Tensor, Tensor | None, State]:
        update, part = trion_update(
            matrices,
            rank=self.rank,
            compute_dtype=resolved_dtype(options, matrices),
            **{name: options[name] for name in ("polar", "scale", "p", "basis", "route")},
        )
        return update, part, small

    def finish(self, update: Tensor, used: Tensor, state: State, options: Options) -> tuple[Tensor, State]:
        buffer = torch.sub(state["momentum_buffer"], used, alpha=1 - options["momentum"])
        return update, {"momentum_buffer": buffer}
