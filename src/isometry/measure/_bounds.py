"""Upper bounds on the Fisher matrix's largest eigenvalue from the spectral radii of Jacobians.

Two of them. The **theorem** is the paper's: block Gershgorin over layers, with the expectations of activations and of
Jacobians taken apart as mean-field theory does. It speaks of the average network, of hidden layers in a chain, and
single networks far from small q* can break it. The **rigorous** certificate holds for every network at its batch:

    G = mean_x J(x)^T H(x) J(x), so by Weyl's inequality and submultiplicativity
    lambda_max(G) <= mean_x lambda_max(H(x)) ||J(x)||_2^2, and, with J J^T = sum_l J_l J_l^T over layers l,
                  <= mean_x lambda_max(H(x)) sum_l ||J_l(x)||_2^2.

J_l is the Jacobian of the outputs in layer l's parameters. For a linear layer called once per sample,
J_l J_l^T = (|x^{l-1}|^2 + 1) J_h J_h^T with J_h the Jacobian in its pre-activations, so that
||J_l||_2^2 = (|x^{l-1}|^2 + 1) sigma_max(J_h)^2: the certificate of the chain. For any other layer (convolutions,
reused modules, normalizations, recurrent cells, raw parameters) the C x C matrix J_l J_l^T of each sample is computed
exactly, as the Fisher matrix's own blocks are, and its largest eigenvalue taken; nothing in the derivation needs a
chain. For the empirical and Monte-Carlo kinds H(x) is the average of r r^T over the labels' residuals r.

Paper: P. A. Sokol, I. M. Park. "Information Geometry of Orthogonal Initializations and Training." ICLR 2020.

Departures: (1) in the (W1, b_beta) term the factor |E x^0| of the block formula replaces the printed |E phi(h)|;
(2) sqrt(N) |E phi(h)| takes the layer's fan-in for N, which is the same for equal widths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from isometry._base import Result
from isometry.measure._chain import Chain, find_chain
from isometry.measure._fisher_layers import sample_blocks
from isometry.measure._fisher_setup import Setup
from isometry.tape import Call, record

__all__ = ["Bound", "Form", "rigorous_bound", "theorem_bound"]

Form = Literal["theorem", "rigorous"]


@dataclass(frozen=True)
class Bound(Result):
    """An upper bound on the largest eigenvalue; ``float(bound)`` is its value.

    Attributes:
        form: "theorem" or "rigorous".
        value: The bound.
        terms: What it is the sum of: blocks of the theorem, layers of the certificate.
        case: Of the theorem: "|E x0| <= 1" or "|E x0| > 1"; of the certificate: "per layer".
        hessian: E lambda_max(H), the mean largest eigenvalue of the outputs' Hessian.
        radii: Of the theorem: S_l, the mean spectral radius of the Jacobian from pre-activations l to the outputs.
        input_mean: Of the theorem: |E x^0|.
    """

    form: Form
    value: float
    terms: dict[str, float]
    case: str
    hessian: float
    radii: tuple[float, ...] = ()
    input_mean: float | None = None

    def __float__(self) -> float:
        return self.value


def rigorous_bound(setup: Setup) -> Bound:
    """Certify the largest eigenvalue of this network at this batch.

    Args:
        setup: The measurement.

    Returns:
        mean_x[ lambda_max(H(x)) sum_l ||J_l(x)||_2^2 ] and each layer's share.
    """
    hessian = _hessian_tops(setup)  # (N,)
    blocks = sample_blocks(setup, lambda out, _part: _identity(out))
    terms = {
        name: float((hessian * torch.linalg.eigvalsh(block)[:, -1].clamp_min(0)).mean())
        for name, block in blocks.items()
    }
    return Bound("rigorous", sum(terms.values()), terms, "per layer", float(hessian.mean()))


def theorem_bound(setup: Setup, activation: Callable[[Tensor], Tensor] | None = None) -> Bound:
    """Evaluate the paper's mean-field bound for a chain of linear layers and elementwise activations.

    Args:
        setup: The measurement, of hidden layers' parameters only.
        activation: The activation, for models that apply it outside of a module.

    Returns:
        The bound of the case that |E x^0| decides.

    Raises:
        ValueError: If the model is no such chain, or other parameters than its hidden layers' were measured.
    """
    with setup.measuring(), torch.no_grad():
        chain = find_chain(setup.model, setup.x, activation)
    _check_parameters(setup, chain)
    eta = float(_hessian_tops(setup).mean())
    radii = _radii(setup, chain)
    first = radii[0]
    x0 = chain.inputs.double()
    m0 = float(x0.mean(0).norm())
    around = eta * first * m0 * first  # Sigma_max(b1, W1)
    small = m0 <= 1
    terms = {"(b1,b1)" if small else "(W1,W1)": eta * first**2, "(b1,W1)": around}
    if not small:
        second_moment = torch.linalg.matrix_norm(x0, 2) ** 2 / len(x0)  # lambda_max(E x0 x0^T)
        terms["(W1,W1)"] *= float(second_moment)
    row, scale = ("b1", 1.0) if small else ("W1", m0)
    for beta, radius in enumerate(radii[1:], start=2):
        mean = chain.fan_ins[beta - 1] ** 0.5 * abs(chain.means[beta - 2])  # sqrt(N) |E phi(h)|
        terms[f"({row},b{beta})"] = scale * first * eta * radius
        terms[f"({row},W{beta})"] = scale * mean * first * eta * radius
    return Bound(
        form="theorem",
        value=sum(terms.values()),
        terms=terms,
        case="|E x0| <= 1" if small else "|E x0| > 1",
        hessian=eta,
        radii=tuple(radii),
        input_mean=m0,
    )


def _identity(out: Tensor) -> Tensor:
    outputs = out[0].numel()
    eye = torch.eye(outputs, dtype=out.dtype, device=out.device)
    return eye.unsqueeze(1).expand(-1, len(out), -1).reshape(outputs, *out.shape)


def _hessian_tops(setup: Setup) -> Tensor:
    """Compute each sample's lambda_max(H).

    Returns:
        Shape (N,), float64.
    """
    if setup.kind == "true" and setup.likelihood == "gaussian":
        return torch.ones(setup.plan.samples, dtype=torch.float64, device=setup.out.device)
    rows = setup.cotangents().flatten(2).double().transpose(0, 1)  # (N, V, C)
    tops: Tensor = torch.linalg.svdvals(rows)[:, 0] ** 2 * setup.plan.samples
    return tops


def _check_parameters(setup: Setup, chain: Chain) -> None:
    strangers = [n for n in setup.plan.parameters if setup.plan.group_of(n) not in chain.names[:-1]]
    if strangers:
        raise ValueError(
            f"the theorem bounds the Fisher matrix of the hidden layers' parameters, but {strangers[0]!r} is among the "
            'measured ones; measure with params="hidden", or ask for bound(form="rigorous").'
        )


def _radii(setup: Setup, chain: Chain) -> list[float]:
    """Compute S_l, the mean over samples of the largest singular value from pre-activations l to the outputs.

    Returns:
        One number per hidden layer.
    """
    found: dict[str, float] = {}

    def hear(call: Call, back: Tensor) -> None:
        a = back.double().transpose(0, 1)  # (N, C, width)
        squared = torch.linalg.eigvalsh(torch.bmm(a, a.transpose(1, 2)))[:, -1]
        found[call.name] = float(squared.clamp_min(0).sqrt().mean())

    hidden = set(chain.names[:-1])
    with setup.measuring(), record(setup.model, lambda n, _m: n in hidden, keep=False, cotangents=True) as tape:
        out = setup.x.clone().run(setup.model)
        tape.pull_back(out, _identity(out.detach()), hear)
    return [found[name] for name in chain.names[:-1]]
