"""The neural tangent kernel of a network at one input and its changes under learning, by forward recursion.

For a network z^1 = W^1 x, z^(l+1) = W^(l+1) s(z^l) with biases at 0, learning rates lambda_w / fan_in for weights and
lambda_b for biases (lam_mu for parameter mu), and sums over all parameters up to a layer:

    H_ab    = SUM lam_mu d_mu z_a d_mu z_b                                                     the kernel
    dH_abc  = SUM lam_mu lam_nu d_mu d_nu z_a d_mu z_b d_nu z_c                                its first change
    HI_abcd = SUM lam_mu lam_nu lam_rho d_mu d_nu d_rho z_a d_mu z_b d_nu z_c d_rho z_d        its second, type I
    HII_abcd = SUM lam_mu lam_nu lam_rho d_mu d_nu z_a d_mu d_rho z_b d_nu z_c d_rho z_d       type II

Letters: s, s1, s2, s3 are the activation and its derivatives at z^l, G_p = W diag(s_p) and G = G_1, r = s s1,
Y = H G^T (the kernel with its second index carried to the next layer). Everything is batched over networks.

References:
    H. Day, Y. Kahn, D. A. Roberts (2023), Feature Learning and Generalization in Deep Networks with Orthogonal Weights
    (the recursions as in the code released with it). https://arxiv.org/abs/2310.07765
    D. A. Roberts, S. Yaida, B. Hanin (2022), The Principles of Deep Learning Theory, chapters 8 and 11, infinity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

__all__ = ["Order", "TangentState", "advance", "first_layer", "state_bytes"]

Order: TypeAlias = Literal[1, 2, 3]


@dataclass(frozen=True)
class TangentState:
    """One layer of some networks.

    Attributes:
        z: Pre-activations (networks, n).
        h: The kernel (networks, n, n).
        dh: From order 2 on, its first change (networks, n, n, n).
        hi: From order 3 on, its second change of type I (networks, n, n, n, n).
        hii: From order 3 on, that of type II (networks, n, n, n, n).
    """

    z: Tensor
    h: Tensor
    dh: Tensor | None = None
    hi: Tensor | None = None
    hii: Tensor | None = None

    def rows(self, first: int, last: int) -> TangentState:
        """Take some of the networks.

        Args:
            first: Number of the first one.
            last: One past the last.

        Returns:
            Views of their tensors.
        """
        return TangentState(*(None if t is None else t[first:last] for t in self.tensors()))  # type: ignore[arg-type]

    def overwrite_(self, first: int, new: TangentState) -> None:
        """Write the state of some networks into this one.

        Args:
            first: Number of the first one.
            new: Their state.
        """
        for mine, theirs in zip(self.tensors(), new.tensors(), strict=True):
            if mine is not None and theirs is not None:
                mine[first : first + len(theirs)] = theirs

    def tensors(self) -> tuple[Tensor | None, ...]:
        """List the tensors, None for those above the order.

        Returns:
            z, H, dH, HI, HII.
        """
        return self.z, self.h, self.dh, self.hi, self.hii


def state_bytes(width: int, order: int) -> int:
    """Count the bytes of one network's layer.

    Returns:
        float64 bytes of z, H and, by order, dH, HI and HII.
    """
    return 8 * (width + width**2 + (width**3 if order >= 2 else 0) + (2 * width**4 if order >= 3 else 0))


def first_layer(w: Tensor, x: Tensor, *, lambda_w: float, lambda_b: float, order: int) -> TangentState:
    """Start the recursion.

    Args:
        w: (networks, n, n0).
        x: One input (n0,).
        lambda_w: Learning rate of weights, times fan_in.
        lambda_b: Learning rate of biases.
        order: 1, 2 or 3.

    Returns:
        The first layer, which is linear in its parameters: only H is not zero.
    """
    networks, n, n0 = w.shape
    h = torch.eye(n, dtype=w.dtype, device=w.device) * (lambda_b + lambda_w / n0 * x.square().sum())
    zeros = [
        w.new_zeros(networks, *(n,) * legs) if order >= least else None for legs, least in ((3, 2), (4, 3), (4, 3))
    ]
    return TangentState(w @ x, h.repeat(networks, 1, 1), *zeros)


def advance(
    w: Tensor,
    state: TangentState,
    s: tuple[Tensor, ...],
    *,
    lambda_w: float,
    lambda_b: float,
) -> TangentState:
    """Carry the kernel and its changes one layer on.

    Args:
        w: The next layer's weights (networks, n', n).
        state: This layer.
        s: The activation and its derivatives up to the order, at this layer's pre-activations.
        lambda_w: Learning rate of weights, times fan_in.
        lambda_b: Learning rate of the next layer's biases.

    Returns:
        The next layer, up to the order that ``state`` has.
    """
    g = [w * slope.unsqueeze(-2) for slope in s[1:]]
    rate = lambda_w / w.shape[-1]
    y = state.h @ g[0].mT
    diagonal = torch.eye(w.shape[-2], dtype=w.dtype, device=w.device)
    z = (w @ s[0].unsqueeze(-1)).squeeze(-1)
    h = g[0] @ y + diagonal * (lambda_b + rate * s[0].square().sum(-1))[:, None, None]
    if state.dh is None:
        return TangentState(z, h)
    r = s[0] * s[1]
    legs = _carry(g[0], _carry(g[0], state.dh, 2), 3)  # dH with both legs carried
    yy = y.unsqueeze(-1) * y.unsqueeze(-2)  # (networks, k, b, c)
    v = (r.unsqueeze(-2) @ y).squeeze(-2)
    dh = _carry(g[0], legs, 1) + _carry(g[1], yy, 1)
    dh = dh + rate * (_deltas("nc,ab->nabc", v, diagonal) + _deltas("nb,ac->nabc", v, diagonal))
    if state.hi is None or state.hii is None:
        return TangentState(z, h, dh)
    hi = _second_change_i(state.hi, g, s, y, yy, legs, rate, diagonal)
    hii = _second_change_ii(state.hii, state.dh, state.h, g, s, y, rate, diagonal)
    return TangentState(z, h, dh, hi, hii)


def _second_change_i(
    hi: Tensor,
    g: list[Tensor],
    s: tuple[Tensor, ...],
    y: Tensor,
    yy: Tensor,
    legs: Tensor,
    rate: float,
    diagonal: Tensor,
) -> Tensor:
    q = torch.einsum("nk,nkcd->ncd", s[0] * s[2], yy) + torch.einsum("nk,nkcd->ncd", s[0] * s[1], legs)
    pairs = legs.unsqueeze(-1) * y[:, :, None, None, :]  # dH_jbc Y_jd; the other two place Y_j at c and at b
    pairs = pairs + pairs.transpose(-1, -2) + pairs.transpose(-1, -3)
    new = _carry(g[1], pairs, 1) + _carry(g[2], yy.unsqueeze(-1) * y[:, :, None, None, :], 1)
    for axis in (1, 2, 3, 4):
        hi = _carry(g[0], hi, axis)
    new += hi
    for places in ("ncd,ab->nabcd", "ndb,ac->nabcd", "nbc,ad->nabcd"):
        new += rate * _deltas(places, q, diagonal)
    return new


def _second_change_ii(
    hii: Tensor,
    dh: Tensor,
    h: Tensor,
    g: list[Tensor],
    s: tuple[Tensor, ...],
    y: Tensor,
    rate: float,
    diagonal: Tensor,
) -> Tensor:
    r = s[0] * s[1]
    hr = (h @ r.unsqueeze(-1)).squeeze(-1)
    whole = (r * hr).sum(-1)
    both = torch.einsum("nj,njc,njd->ncd", s[1].square(), y, y)
    # The leg that ends in the rectangle's weight sums against r, the other one goes on.
    one = torch.einsum("nkqm,nq->nkm", dh, r) @ g[0].mT
    cross = g[1] @ (hr.unsqueeze(-1) * y) + g[0] @ one  # (b, d)
    leg = _carry(g[0], dh, 3)  # dH_jkl with its last index carried, (j, k, c)
    hh = h[:, :, :, None, None] * y[:, :, None, :, None] * y[:, None, :, None, :]
    left = leg.unsqueeze(-1) * y[:, None, :, None, :]  # dH_jkc Y_kd
    right = y[:, :, None, :, None] * leg.transpose(1, 2).unsqueeze(-2)  # Y_jc dH_kjd
    new = _carry(g[1], _carry(g[1], hh, 2) + _carry(g[0], right, 2), 1) + _carry(g[0], _carry(g[1], left, 2), 1)
    for axis in (1, 2, 3, 4):
        hii = _carry(g[0], hii, axis)
    new += hii
    new += rate**2 * torch.einsum("n,ac,bd->nabcd", whole, diagonal, diagonal)
    for places, matrix in (("ncd,ab->nabcd", both), ("nbd,ac->nabcd", cross), ("nac,bd->nabcd", cross)):
        new += rate * _deltas(places, matrix, diagonal)
    return new


def _carry(matrix: Tensor, tensor: Tensor, axis: int) -> Tensor:
    """Carry one index to the next layer: SUM_k matrix_ak tensor_..k..

    Args:
        matrix: (networks, n', n).
        tensor: (networks, ..., n, ...).
        axis: Which of the tensor's axes.

    Returns:
        The tensor with n' in that place.
    """
    front = tensor.movedim(axis, 1)
    carried = matrix @ front.flatten(2)
    return carried.reshape(*carried.shape[:2], *front.shape[2:]).movedim(1, axis)


def _deltas(places: str, tensor: Tensor, diagonal: Tensor) -> Tensor:
    return torch.einsum(places, tensor, diagonal)
