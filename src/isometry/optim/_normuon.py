"""NorMuon: Muon, whose rows are brought to like size by a running mean of their squares.

References:
    Z. Li, L. Liu, C. Liang, W. Chen, T. Zhao, NorMuon: making Muon more efficient and scalable, 2025.
    arXiv:2510.05491, and its released code, github.com/zichongli5/NorMuon
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from isometry.linalg._precision import working_dtype
from isometry.optim._base import ParameterSource, check_choice, check_number, check_switch
from isometry.optim._matrix import MatrixOptimizer, MatrixRule
from isometry.optim._momentum import MomentumRule
from isometry.optim._orthogonal_step import Polar, check_polar, orthogonalized, resolved_dtype
from isometry.optim._rule import Options, State
from isometry.optim._update_scale import Scale, check_scale, scale_factor
from isometry.optim._update_size import UpdateSize
from isometry.roles import Axes

__all__ = ["NorMuon", "normuon_update"]

Norm = Literal["norm_preserving", "rms_match"]
RMS = 0.2  # of the update's entries under "rms_match", times the learning rate


def normuon_update(
    orthogonal: Tensor,
    row_squares: Tensor,
    *,
    beta2: float = 0.95,
    norm: Norm = "norm_preserving",
    scale: Scale = "original",
    eps: float = 1e-10,
) -> tuple[Tensor, Tensor]:
    """Bring the rows of orthogonalized momentum matrices to like size.

    v <- beta2 v + (1 - beta2) mean over the row of O^2; Y = O / (v^(1/2) + eps), a number per row. Under
    ``"norm_preserving"`` the update is c |O|_F / (|Y|_F + eps) Y, c the scale; under ``"rms_match"`` its entries have
    the root mean square 0.2: 0.2 (m n)^(1/2) / (|Y|_F + eps) Y. The direction is the same.

    Args:
        orthogonal: Orthogonalized momentum O of shape ``(*batch, m, n)``.
        row_squares: Running mean v of shape ``(*batch, m, 1)``; zeros before the first step.
        beta2: Its decay rate. It needs no bias correction: a common factor of the rows leaves with the norm.
        norm: Which norm the update gets.
        scale: The factor c, under ``"norm_preserving"``.
        eps: Added to the root and to the norm.

    Returns:
        The update, and the new running mean. Zero matrices give zero.

    Example:
        >>> wide, _ = normuon_update(torch.eye(2, 3), torch.zeros(2, 1))  # its rows are equal already
        >>> torch.allclose(wide, torch.eye(2, 3))
        True
    """
    factor, fresh = _row_factors(orthogonal, row_squares, beta2=beta2, norm=norm, scale=scale, eps=eps)
    return orthogonal * factor, fresh


def _row_factors(
    orthogonal: Tensor, row_squares: Tensor, *, beta2: float, norm: Norm, scale: Scale, eps: float
) -> tuple[Tensor, Tensor]:
    m, n = orthogonal.shape[-2:]
    # Everything but the update itself is numbers per row: |O|_F and |Y|_F are sums of them.
    squares = torch.linalg.vector_norm(
        orthogonal, dim=-1, keepdim=True, dtype=working_dtype(orthogonal.dtype)
    ).square_()
    fresh = torch.lerp(row_squares, squares / n, 1 - beta2)
    inverse = (fresh.sqrt() + eps).reciprocal_()
    size = (squares * inverse.square()).sum(-2, keepdim=True).sqrt_() + eps
    wanted = squares.sum(-2, keepdim=True).sqrt_() * scale_factor(scale, m, n)
    if norm == "rms_match":
        wanted = torch.full_like(size, RMS * (m * n) ** 0.5)
    return (inverse * (wanted / size)).to(orthogonal.dtype), fresh


class NorMuon(MatrixOptimizer):
    """Muon with a second moment of each output unit: rows that were large come out smaller, and the norm stays.

    O is Muon's orthogonalized momentum before the scale (``Muon``); v <- beta2 v + (1 - beta2) mean over the row of
    O^2; Y = O / (v^(1/2) + eps); W <- (1 - lr wd) W - lr c (|O|_F / |Y|_F) Y. The second moment is a number per row,
    so the state is Muon's and a row's length more. For wide and square matrices the rows of a polar factor are equal
    already; tall ones gain. The parameters of other groups (``rule="adamw"``) move by AdamW.

    Sharded parameters: whole matrices are moved by one process each, so the norms are those of the whole matrix. The
    second moments are small, and whole on every process.

    Args:
        params: ``isometry.roles.route(model)``, matrices, or groups; see ``MatrixOptimizer`` for their options.
        lr: Learning rate; under ``"norm_preserving"`` as for ``Muon``, under ``"rms_match"`` as for AdamW.
        momentum: Decay rate of the momentum.
        beta2: Decay rate of the rows' second moment.
        weight_decay: Decoupled; W shrinks by lr times it.
        nesterov: Look ahead. The released code does; the paper (section 2.2) orthogonalizes the momentum itself
            (``nesterov=False``).
        polar: How the polar factor is computed, see ``isometry.optim.POLAR``.
        compute_dtype: Dtype of its products, as for ``Muon``.
        norm: ``"norm_preserving"``: the update keeps the Frobenius norm that Muon's has, as in the released code and
            the port in dion. ``"rms_match"``: its entries have the root mean square of Adam's updates, as in the paper
            (section 3.1); that this is 0.2 is known from what others rebuilt from it. The first is the default, since
            Muon's learning rates then stay what they were.
        scale: The factor c, as for ``Muon``, under ``"norm_preserving"``; None is ``"original"`` there, and the only
            choice under ``"rms_match"``, which has a scale of its own.
        eps: Added to the roots and norms.
        maximize: Go uphill.
        adamw: AdamW's ``lr``, ``betas``, ``eps``, ``weight_decay`` for the other groups, where they do not say it
            themselves; default 3e-4, (0.9, 0.95), 1e-10, 0.

    Raises:
        TypeError: If an option is of a wrong type.
        ValueError: If an option is out of its range; if a scale is given under ``"rms_match"``; if a parameter in a
            group of matrices is none, or may be several things (more than two dimensions and no ``layout``); if no
            parameter is a matrix.

    Example:
        >>> layer = torch.nn.Linear(3, 12, bias=False)
        >>> optimizer = NorMuon(layer.parameters(), lr=0.1, norm="rms_match")
        >>> before = layer.weight.detach().clone()
        >>> layer(torch.randn(5, 3)).square().sum().backward()
        >>> optimizer.step()
        >>> step = (before - layer.weight.detach()) / 0.1
        >>> abs(float(step.square().mean().sqrt()) - 0.2) < 1e-4
        True
    """

    def __init__(
        self,
        params: ParameterSource,
        lr: float | Tensor = 0.02,
        *,
        momentum: float = 0.95,
        beta2: float = 0.95,
        weight_decay: float = 0.0,
        nesterov: bool = True,
        polar: Polar = "fast",
        compute_dtype: str = "auto",
        norm: Norm = "norm_preserving",
        scale: Scale | None = None,
        eps: float = 1e-10,
        maximize: bool = False,
        adamw: Mapping[str, Any] | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "beta2": beta2,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "polar": polar,
            "compute_dtype": compute_dtype,
            "norm": norm,
            "scale": scale,
            "eps": eps,
            "maximize": maximize,
        }
        super().__init__(params, defaults, adamw)

    def _check_matrix_options(self, options: dict[str, Any]) -> None:
        check_number("momentum", options["momentum"], below=1)
        check_number("beta2", options["beta2"], below=1)
        check_number("eps", options["eps"])
        check_switch("nesterov", options["nesterov"])
        check_choice("norm", options["norm"], get_args(Norm))
        if options["scale"] is not None:
            check_scale(options["scale"])
            if options["norm"] == "rms_match":
                raise ValueError(
                    f"scale={options['scale']!r} has no effect under norm='rms_match', which scales to a root mean "
                    f"square of {RMS}; leave scale out, or use norm='norm_preserving'."
                )
        check_polar(options)

    def _matrix_rule(self, axes: Axes, options: dict[str, Any]) -> MatrixRule:
        del options
        return NorMuonRule(axes)


@dataclass(frozen=True)
class NorMuonRule(MomentumRule):
    """NorMuon's step of the matrices of a parameter."""

    small: ClassVar[tuple[str, ...]] = ("row_squares",)

    def begin_small(self, value: Tensor, members: int) -> State:
        count, out, _ = self.shape
        return {"row_squares": value.new_zeros(members * count, out, 1)}

    def update_size(self, shape: Sequence[int], options: Options) -> UpdateSize:
        if options["norm"] == "rms_match":
            return UpdateSize(None, None, RMS, "always")
        factor = scale_factor(options["scale"] or "original", *shape)
        return UpdateSize(factor, None, factor / max(shape) ** 0.5, "momentum of full rank")

    def move(self, matrices: Tensor, small: State, options: Options) -> tuple[Tensor, State]:
        update = orthogonalized(matrices, polar=options["polar"], compute_dtype=resolved_dtype(options, matrices))
        factor, fresh = _row_factors(
            update,
            small["row_squares"],
            beta2=options["beta2"],
            norm=options["norm"],
            scale=options["scale"] or "original",
            eps=options["eps"],
        )
        return update.mul_(factor), {"row_squares": fresh}  # fresh memory for large matrices costs more than a pass
