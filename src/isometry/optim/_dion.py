"""Dion: steps along a low-rank orthonormal factor of the momentum, by one power iteration.

References:
    K. Ahn, B. Xu, N. Abreu, J. Langford, Dion: distributed orthonormalized updates, 2025. arXiv:2504.05295
    Its released code, https://github.com/microsoft/dion (dion_simple.py)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from isometry.linalg import haar
from isometry.optim._base import ParameterSource, check_number
from isometry.optim._low_rank import LowRankOptimizer, LowRankRule, Rank
from isometry.optim._matrix import MatrixRule
from isometry.optim._rule import Options, State
from isometry.optim._update_scale import Scale, check_scale, scale_factor
from isometry.optim._update_size import UpdateSize
from isometry.roles import Axes

__all__ = ["Dion", "dion_update"]


def dion_update(momentum: Tensor, right: Tensor, *, scale: Scale = "spectral") -> tuple[Tensor, Tensor, Tensor]:
    """Make Dion's update of momentum matrices.

    P = orthonormal factor of B Q (QR); R = B^T P; Q <- R with columns of norm 1; the update is c P Q^T.

    Args:
        momentum: B, shape ``(*batch, out, in)``.
        right: Q of the last step, shape ``(*batch, in, r)``.
        scale: The factor c, by the matrix's sizes.

    Returns:
        The update; the part of the momentum that it has used, P R^T; the new Q. A column of R that is zero gives
        nothing to the update and leaves its column of Q.

    Example:
        >>> b = torch.outer(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0, 0.0]))
        >>> update, part, _ = dion_update(b, torch.eye(3)[:, 1:2], scale="none")
        >>> torch.allclose(update, b / 5), torch.allclose(part, b)  # of rank 1, so all of it is used
        (True, True)
    """
    left, _ = torch.linalg.qr(momentum @ right)
    r = momentum.mT @ left
    largest = r.abs().amax(dim=-2, keepdim=True)  # the squares in the norm neither overflow nor vanish
    scaled = r / torch.where(largest == 0, 1.0, largest)
    unit = scaled / torch.where(largest == 0, 1.0, torch.linalg.vector_norm(scaled, dim=-2, keepdim=True))
    update = (left * scale_factor(scale, *momentum.shape[-2:])) @ unit.mT
    return update, left @ r.mT, torch.where(largest == 0, right, unit)


class Dion(LowRankOptimizer):
    """Momentum of which a part of rank r, found by one power iteration, is orthonormalized.

    B <- B + G; P = qr(B Q); R = B^T P; B <- B - (1 - mu) P R^T; Q <- R with columns of norm 1; W <- (1 - lr wd) W -
    lr c P Q^T. P is orthonormal, Q only has columns of norm 1, so the singular values of the update spread a little
    around c until the subspace has settled. States are B and Q, which has in x r numbers and is whole on every process.
    Parameters of other groups (``rule="adamw"``) move by AdamW. It is here as the peer of ``Trion``.

    Args:
        params: ``isometry.roles.route(model)``, matrices, or groups; see ``MatrixOptimizer`` for their options.
        lr: Learning rate.
        rank: r, an int, or as a float the fraction of min(out, in), rounded half up.
        momentum: mu; what is used is multiplied by it.
        weight_decay: Decoupled; W shrinks by lr times it.
        scale: The factor c: ``"spectral"`` (out/in)^(1/2), the paper's; ``"original"``, ``"match_rms_adamw"``,
            ``"none"`` as for ``Muon``.
        seed: Draws the first Q, a Haar frame, the same one for all matrices of a shape.
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
        >>> optimizer = Dion(layer.parameters(), lr=0.1, rank=1)
        >>> before = layer.weight.detach().clone()
        >>> layer(torch.randn(5, 8)).square().sum().backward()
        >>> optimizer.step()
        >>> [round(float(s), 3) for s in torch.linalg.svdvals(before - layer.weight.detach())][:2]
        [0.1, 0.0]
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
        seed: int = 0,
        maximize: bool = False,
        adamw: Mapping[str, Any] | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "rank": rank,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "scale": scale,
            "seed": seed,
            "maximize": maximize,
        }
        super().__init__(params, defaults, adamw)

    def _check_matrix_options(self, options: dict[str, Any]) -> None:
        super()._check_matrix_options(options)
        check_number("momentum", options["momentum"], below=1)
        check_scale(options["scale"])
        if isinstance(options["seed"], bool) or not isinstance(options["seed"], int):
            raise TypeError(f"seed must be an integer, got {type(options['seed']).__name__}.")

    def _matrix_rule(self, axes: Axes, options: dict[str, Any]) -> MatrixRule:
        return DionRule(axes, seed=options["seed"])


@dataclass(frozen=True)
class DionRule(LowRankRule):
    """Dion's step of the matrices of a parameter.

    Attributes:
        seed: Of the first Q.
    """

    small: ClassVar[tuple[str, ...]] = ("right",)

    seed: int = 0

    @property
    def in_parts(self) -> bool:
        return True

    def names(self) -> tuple[str, ...]:
        return ("momentum_buffer", "right")

    def begin_small(self, value: Tensor, members: int) -> State:
        count, _, in_ = self.shape
        return {"right": self._frame(value)[:, : self.rank].expand(members * count, in_, self.rank).clone()}

    def _frame(self, like: Tensor) -> Tensor:
        _, out, in_ = self.shape
        generator = torch.Generator().manual_seed(self.seed)
        return haar(in_, min(out, in_), device="cpu", generator=generator).to(like)

    def update_size(self, shape: Sequence[int], options: Options) -> UpdateSize:
        factor = scale_factor(options["scale"], *shape)
        rms = factor * (self.rank / (shape[0] * shape[1])) ** 0.5
        told = f"the spectral norm up to {self.rank**0.5:.3g} times that until the subspace has settled"
        return UpdateSize(factor, factor, rms, f"momentum of rank {self.rank} or more; {told}")

    def prepare(self, gradient: Tensor, state: State, options: Options) -> tuple[Tensor, State]:
        del options
        buffer = state["momentum_buffer"] + gradient
        return buffer, {"momentum_buffer": buffer}

    def move_part(self, matrices: Tensor, small: State, options: Options) -> tuple[Tensor, Tensor | None, State]:
        right = small["right"]
        if self.held != self.rank:  # the group's rank was changed: columns are cut off, or new ones come in
            frame = self._frame(matrices).expand(len(right), -1, -1)
            right = torch.cat([right, frame[..., self.held :]], dim=-1)[..., : self.rank]
        update, part, right = dion_update(matrices, right, scale=options["scale"])
        return update, part, {"right": right}

    def finish(self, update: Tensor, used: Tensor, state: State, options: Options) -> tuple[Tensor, State]:
        buffer = torch.sub(state["momentum_buffer"], used, alpha=1 - options["momentum"])
        return update, {"momentum_buffer": buffer}
