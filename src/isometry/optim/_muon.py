"""Muon: steps along the polar factor of the momentum.

References:
    K. Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024.
    https://kellerjordan.github.io/posts/muon/
    J. Liu et al., Muon is scalable for LLM training, 2025. arXiv:2502.16982 (the scale "match_rms_adamw")
    J. Bernstein, Deriving Muon, 2025 (the scale "spectral")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isometry.optim._base import ParameterSource, check_number, check_switch
from isometry.optim._matrix import MatrixOptimizer, MatrixRule
from isometry.optim._momentum import MomentumRule
from isometry.optim._orthogonal_step import Polar, check_polar, orthogonalized, resolved_dtype
from isometry.optim._rule import Options, State
from isometry.optim._update_scale import Scale, check_scale, orthogonalized_size, scale_factor
from isometry.optim._update_size import UpdateSize
from isometry.roles import Axes

__all__ = ["Muon", "muon_update"]


def muon_update(
    matrices: Tensor, *, polar: Polar = "fast", compute_dtype: torch.dtype | None = None, scale: Scale = "original"
) -> Tensor:
    """Make Muon's update of momentum matrices: their polar factors, scaled.

    Args:
        matrices: Shape ``(*batch, out, in)``.
        polar: How the polar factor is computed.
        compute_dtype: Dtype of the products; default: at least float32.
        scale: The factor, by the matrix's sizes.

    Returns:
        Same shape and dtype; the step is minus the learning rate times it.

    Example:
        >>> update = muon_update(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), polar="exact")
        >>> torch.allclose(update, torch.eye(2), atol=1e-6)
        True
    """
    out, in_ = matrices.shape[-2:]
    factor, update = scale_factor(scale, out, in_), orthogonalized(matrices, polar=polar, compute_dtype=compute_dtype)
    return update if factor == 1 else update.mul_(factor)


class Muon(MatrixOptimizer):
    """Momentum, orthogonalized: all singular values of the update of a hidden matrix are near 1.

    M <- mu M + (1 - mu) G; U = (1 - mu) G + mu M; O = UV^T of U's SVD, approximately; W <- (1 - lr wd) W - lr c O with
    c = max(1, out / in)^(1/2). The parameters of other groups (``rule="adamw"``) move by AdamW.

    Args:
        params: ``isometry.roles.route(model)``, matrices, or groups; see ``MatrixOptimizer`` for their options.
        lr: Learning rate: the spectral norm of a square matrix's step.
        momentum: Decay rate mu.
        nesterov: Look ahead.
        weight_decay: Decoupled; W shrinks by lr times it.
        polar: How the polar factor is computed, see ``isometry.optim.POLAR``: ``"fast"``, ``"quick"`` (a product
            less), ``"accurate"``, ``"muon"`` (the five steps of the first release), ``"dion"``, ``"exact"``.
        compute_dtype: Dtype of its products: ``"float32"``, ``"bfloat16"``, or ``"auto"``: on accelerators bfloat16; on
            a processor the faster one, measured once. What is chosen is written into the group, and so saved.
        scale: The factor c: ``"original"`` max(1, out/in)^(1/2); ``"spectral"`` (out/in)^(1/2); ``"match_rms_adamw"``
            0.2 max(out, in)^(1/2), under which AdamW's learning rates carry over; ``"none"``.
        maximize: Go uphill.
        adamw: AdamW's ``lr``, ``betas``, ``eps``, ``weight_decay`` for the other groups, where they do not say it
            themselves; default 3e-4, (0.9, 0.95), 1e-10, 0.

    Raises:
        TypeError: If an option is of a wrong type.
        ValueError: If an option is out of its range; if a parameter in a group of matrices is none, or may be several
            things (more than two dimensions and no ``layout``); if no parameter is a matrix.

    Example:
        >>> layer = torch.nn.Linear(3, 3, bias=False)
        >>> optimizer = Muon(layer.parameters(), lr=0.1, polar="exact")
        >>> before = layer.weight.detach().clone()
        >>> layer(torch.randn(5, 3)).square().sum().backward()
        >>> optimizer.step()
        >>> step = (before - layer.weight.detach()) / 0.1
        >>> torch.allclose(step @ step.T, torch.eye(3), atol=1e-4)
        True
    """

    def __init__(
        self,
        params: ParameterSource,
        lr: float | Tensor = 0.02,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        polar: Polar = "fast",
        compute_dtype: str = "auto",
        scale: Scale = "original",
        maximize: bool = False,
        adamw: Mapping[str, Any] | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "polar": polar,
            "compute_dtype": compute_dtype,
            "scale": scale,
            "maximize": maximize,
        }
        super().__init__(params, defaults, adamw)

    def _check_matrix_options(self, options: dict[str, Any]) -> None:
        check_number("momentum", options["momentum"], below=1)
        check_switch("nesterov", options["nesterov"])
        check_scale(options["scale"])
        check_polar(options)

    def _matrix_rule(self, axes: Axes, options: dict[str, Any]) -> MatrixRule:
        del options
        return MuonRule(axes)


@dataclass(frozen=True)
class MuonRule(MomentumRule):
    """Muon's step of the matrices of a parameter."""

    def update_size(self, shape: Sequence[int], options: Options) -> UpdateSize:
        return orthogonalized_size(options["scale"], *shape)

    def move(self, matrices: Tensor, small: State, options: Options) -> tuple[Tensor, State]:
        return (
            muon_update(
                matrices,
                polar=options["polar"],
                compute_dtype=resolved_dtype(options, matrices),
                scale=options["scale"],
            ),
            small,
        )
