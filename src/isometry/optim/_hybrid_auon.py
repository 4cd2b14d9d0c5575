"""HybridAuON: one Newton-Schulz step before AuON's scaling.

References:
    D. Maity, AuON: a linear-time alternative to semi-orthogonal momentum updates, 2025. arXiv:2509.24320 (version 1)
    Its released code, https://github.com/ryyzn9/AuON (``variant="released"``)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from isometry.linalg import orthogonalize
from isometry.linalg._precision import check_matrix, check_size, working_dtype
from isometry.optim._auon import DELTA, GAMMA, AuONScale, Variant, check_auon_options
from isometry.optim._base import ParameterSource, check_choice
from isometry.optim._matrix import MatrixOptimizer, MatrixRule
from isometry.optim._momentum import MomentumRule
from isometry.optim._orthogonal_step import ComputeDtype, resolved_dtype
from isometry.optim._rms_cosh import check_gamma, frobenius, over_largest_, rms_cosh
from isometry.optim._rule import Options, State
from isometry.optim._update_scale import scale_factor
from isometry.optim._update_size import UpdateSize
from isometry.roles import Axes

__all__ = ["HybridAuON", "hybrid_auon_update"]

STEPS: Mapping[Variant, int] = {"paper": 1, "released": 5}
LARGEST_GAMMA = 36.0  # Newton-Schulz leaves entries of up to 1.21, and sinh(1.21 * 36)^2 still is a float32


def hybrid_auon_update(
    momentum: Tensor,
    *,
    variant: Variant = "paper",
    ns_steps: int | None = None,
    gamma: float | None = None,
    eps: float = 1e-7,
    compute_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Make HybridAuON's update of momentum matrices.

    X = U / (|U|_F + eps), then Newton-Schulz steps X <- a X + (b A + c A^2) X with A = X X^T and (a, b, c) = (3.4445,
    -4.7750, 2.0315); rms = (mean of cosh(gamma X)^2)^(1/2); the update is X / (rms + 1e-8). In the released code the
    cosines are those of gamma X / (|X|_F + eps).

    Args:
        momentum: U, shape ``(*batch, out, in)``.
        variant: ``"paper"`` or ``"released"``.
        ns_steps: How many Newton-Schulz steps; default 1 for the paper, 5 for the released code.
        gamma: Factor under the cosine, in (0, 36]; default 1 for the paper, 1.5 for the released code.
        eps: Added to the Frobenius norm.
        compute_dtype: Dtype of the products; default: at least float32.

    Returns:
        The update, of the same shape and dtype, and rms, shape ``(*batch,)``, in float32 at least. A zero matrix has a
        zero update and rms 1.

    Example:
        >>> update, rms = hybrid_auon_update(torch.diag(torch.tensor([0.6, 0.8, 0.0])))
        >>> [round(float(s * rms), 4) for s in torch.linalg.svdvals(update)]  # p(0.6), p(0.8), p(0)
        [1.1933, 0.9765, 0.0]
    """
    check_matrix("momentum", momentum, finite=False)
    check_choice("variant", variant, get_args(Variant))
    check_gamma(gamma, LARGEST_GAMMA)
    steps = STEPS[variant] if ns_steps is None else check_size("ns_steps", ns_steps)
    scaled, largest = over_largest_(momentum.to(working_dtype(momentum.dtype), copy=True))
    tiny = torch.finfo(scaled.dtype).tiny
    unit = scaled.div_((frobenius(scaled) + eps / largest).clamp_min(tiny))
    # The Frobenius norm bounds the singular values by 1, so they are not normalized once more. Taller matrices are
    # transposed there.
    factor = orthogonalize(unit, coefficients="muon", steps=steps, normalize="none", compute_dtype=compute_dtype)
    braked = factor if variant == "paper" else factor / (frobenius(factor) + eps).clamp_min(tiny)
    angles = braked * (GAMMA[variant] if gamma is None else gamma)
    rms = rms_cosh(angles, entries=angles.shape[-2] * angles.shape[-1])
    return (factor / (rms + DELTA)).to(momentum.dtype), rms[..., 0, 0]


class HybridAuON(MatrixOptimizer):
    """Momentum after one Newton-Schulz step: small singular values are lifted, at a fifth of the cost of Muon.

    M <- mu M + (1 - mu) G; U = (1 - mu) G + mu M; X = NS(U / (|U|_F + eps)); Y = X / (mean of cosh(X)^2)^(1/2);
    W <- (1 - lr wd) W - lr c Y. The parameters of other groups (``rule="adamw"``) move by AdamW.

    What follows from the formula, and is good to know before choosing it. The step multiplies a singular value s of
    U / |U|_F by 3.44 - 4.78 s^2 + 2.03 s^4: by up to 3.44 where s is small, by 0.70 at s = 1. That is all the
    reconditioning there is: of a momentum whose singular values are all small against its Frobenius norm, as of
    a Gaussian one, every one is multiplied by 3.44 or nearly so, and Y is 3.44 times ``AuON``'s. ``Muon`` takes five
    such steps. The cosines change the size of Y, by less than 10 / N, N the number of entries. The paper prints their
    mean square without the root here, but with it for AuON; the root is taken.

    Args:
        params: ``isometry.roles.route(model)``, matrices, or groups; see ``MatrixOptimizer`` for their options.
        lr: Learning rate.
        momentum: Decay rate mu.
        nesterov: Look ahead; else U = M.
        weight_decay: Decoupled; W shrinks by lr times it.
        variant: ``"paper"`` as above, the default since it is what the paper describes and compares; ``"released"``
            as the code that came with it: five steps, and Y = X / (mean of cosh(1.5 X / |X|_F)^2)^(1/2), which is
            Muon's update but for a factor that differs from 1 by 2.3 / N at most, N the number of entries.
        ns_steps: How many Newton-Schulz steps; None is the variant's, 1 or 5.
        gamma: Factor under the cosine, in (0, 36]; None is the variant's, 1 or 1.5.
        compute_dtype: Dtype of the products: ``"float32"``, ``"bfloat16"`` or ``"auto"``, as for ``Muon``.
        scale: The factor c: ``"none"`` 1, as in the paper; ``"original"`` max(1, out/in)^(1/2).
        eps: Added to the Frobenius norm.
        maximize: Go uphill.
        adamw: AdamW's ``lr``, ``betas``, ``eps``, ``weight_decay`` for the other groups, where they do not say it
            themselves; default 3e-4, (0.9, 0.95), 1e-10, 0.

    Raises:
        TypeError: If an option is of a wrong type.
        ValueError: If an option is out of its range; if a parameter in a group of matrices is none, or may be several
            things (more than two dimensions and no ``layout``); if no parameter is a matrix.

    Example:
        >>> weight = torch.nn.Parameter(torch.eye(3))
        >>> optimizer = HybridAuON([weight], lr=0.1, compute_dtype="float32")
        >>> weight.grad = torch.diag(torch.tensor([0.6, 0.8, 0.0]))
        >>> optimizer.step()
        >>> update, _ = hybrid_auon_update(weight.grad)  # of the first step U is a multiple of the gradient
        >>> torch.allclose(weight.detach(), torch.eye(3) - 0.1 * update)
        True
    """

    def __init__(
        self,
        params: ParameterSource,
        lr: float | Tensor = 0.08,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        variant: Variant = "paper",
        ns_steps: int | None = None,
        gamma: float | None = None,
        compute_dtype: ComputeDtype = "auto",
        scale: AuONScale = "none",
        eps: float = 1e-7,
        maximize: bool = False,
        adamw: Mapping[str, Any] | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "variant": variant,
            "ns_steps": ns_steps,
            "gamma": gamma,
            "compute_dtype": compute_dtype,
            "scale": scale,
            "eps": eps,
            "maximize": maximize,
        }
        super().__init__(params, defaults, adamw)

    def _check_matrix_options(self, options: dict[str, Any]) -> None:
        check_auon_options(options)
        check_gamma(options["gamma"], LARGEST_GAMMA)
        check_choice("compute_dtype", options["compute_dtype"], get_args(ComputeDtype))
        if options["ns_steps"] is not None:
            check_size("ns_steps", options["ns_steps"])

    def _matrix_rule(self, axes: Axes, options: dict[str, Any]) -> MatrixRule:
        del options
        return HybridAuONRule(axes)


@dataclass(frozen=True)
class HybridAuONRule(MomentumRule):
    """HybridAuON's step of the matrices of a parameter."""

    def update_size(self, shape: Sequence[int], options: Options) -> UpdateSize:
        factor = scale_factor(options["scale"], *shape)
        return UpdateSize(factor, 1.21 * factor, None, "the spectral norm at most")

    def move(self, matrices: Tensor, small: State, options: Options) -> tuple[Tensor, State]:
        update, _ = hybrid_auon_update(
            matrices,
            variant=options["variant"],
            ns_steps=options["ns_steps"],
            gamma=options["gamma"],
            eps=options["eps"],
            compute_dtype=resolved_dtype(options, matrices),
        )
        factor = scale_factor(options["scale"], *matrices.shape[-2:])
        return update if factor == 1 else update * factor, small
