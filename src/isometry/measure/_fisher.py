"""The whole Fisher spectrum of a network, exactly, by its dual.

G = (1/N) sum_n J_n^T H_n J_n has as many columns as the model has parameters, but its nonzero eigenvalues are those of
an (N V) x (N V) matrix, which is a sum over layers.

Paper: P. A. Sokol, I. M. Park. "Information Geometry of Orthogonal Initializations and Training." ICLR 2020.

Departures: (1) the softmax's zero eigenvalue is left out by construction (V = C - 1 rows per sample instead of C);
(2) beside the paper's hidden-layer parameters all parameters can be measured, which is the default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isometry._base import Cost, progress, stopwatch, together
from isometry.measure._fisher_products import Products
from isometry.measure._fisher_result import Fisher
from isometry.measure._fisher_roots import Kind, Likelihood, check_choice
from isometry.measure._fisher_setup import Setup, make_setup
from isometry.measure._gram import accumulate
from isometry.measure._gram_sums import FullGram
from isometry.measure._guards import allowed_residual, outside_inference
from isometry.tape import Inputs

__all__ = ["fisher"]


@outside_inference
def fisher(
    model: nn.Module,
    x: Tensor | Inputs | Mapping[str, Any] | Sequence[Any],
    *,
    targets: Tensor | None = None,
    likelihood: Likelihood = "categorical",
    kind: Kind = "true",
    params: str | Iterable[str] = "all",
    draws: int = 8,
    mask: Tensor | None = None,
    class_dim: int | None = None,
    dense: bool = True,
    budget: int | None = None,
    generator: torch.Generator | None = None,
) -> Fisher:
    """Measure the Fisher information matrix of a model at a batch, and its whole spectrum exactly.

    G = (1/N) sum_n J_n^T H_n J_n with J_n the Jacobian of the outputs in the parameters at sample n, and H_n the
    Hessian of the negative log-likelihood in the outputs: diag(p) - p p^T for "categorical" (softmax), the identity for
    "gaussian" (unit variance). Where each position of a sample has a label of its own (outputs of shape (N, T, C): the
    tokens of a sequence), G is the mean over all positions that count, as the usual loss is. With H_n = B_n B_n^T the
    nonzero spectrum of G is that of the dual T, whose entry ((v, n), (w, m)) is B_n[:, v]^T J_n J_m^T B_m[:, w] / N. T
    is a sum over parameters; Linear, convolution, embedding and normalization parameters contribute by closed forms,
    all others by their Jacobian rows, formed sample by sample. Reused modules and tied parameters count once, with all
    their uses. Memory grows as (N V)^2, time as (N V)^2 times the number of units; V is C - 1, C or 1, times the
    positions, or ``draws``.

    The model is measured in the modes that it is in, with its parameters as they are, whether they require a gradient
    or not (a frozen layer shapes the function as much as any other); narrow the choice by ``params``.

    Args:
        model: Maps x to outputs of shape (N, C); for "gaussian" any shape (N, ...) will do.
        x: The batch, samples first: a tensor, a tuple of positional or a dict of keyword arguments, or ``Inputs``,
            which says as well which of several outputs is meant and whether the batch is one whole graph.
        targets: Integer labels (N,), or (N, T) with -100 where there is none; for "gaussian", values of the outputs'
            shape; for the empirical kind.
        likelihood: "categorical" or "gaussian".
        kind: "true" takes the expectation over the model's own labels exactly (it equals the Gauss-Newton matrix);
            "monte-carlo" draws labels from the model: its trace is unbiased, but its extreme eigenvalues are biased
            upwards, many times where outputs are vocabulary-sized and draws few, and its effective rank downwards
            (kind="true" with ``dense=False`` has the largest exactly, by ``.top``); "empirical" takes gradients at
            ``targets``, as the paper's measurements do: it is not an estimate of the true one.
        params: "all"; "hidden" (all but the output layer's, as in the paper: W^1 belongs to them); or one or several
            name patterns, as in ``fnmatch``.
        draws: Labels per sample of the Monte-Carlo kind; each draw has a label for every position. Vocabulary-sized
            outputs need this kind for a spectrum, since the exact one takes T (C - 1) rows per sample.
        mask: Which positions count, shape (N, T); default: an ``attention_mask`` among the inputs, else all.
        class_dim: Where the classes lie in outputs of more than two dimensions; default: last.
        dense: False computes nothing yet: ``.top``, ``.matvec``, ``.trace`` and ``.bound`` are there, matrix-free.
        budget: Bytes that the dual may take; default: the package's.
        generator: For the draws.

    Returns:
        The measurement, frozen; later questions (``per_layer``, ``bound``, ``top``) run the model again, and refuse
        if its parameters have changed.

    Raises:
        TypeError: If an argument has a wrong type, or the model returns something else than one tensor.
        ValueError: If per-sample quantities are undefined (train-mode dropout or batch norm, randomness, samples that
            influence each other), values are not finite, targets do not fit, or the likelihood does not fit the output.
        MemoryBudgetError: If the dual is over the budget.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        >>> f = fisher(model, torch.ones(5, 4))
        >>> tuple(f.eigenvalues().shape), f.lambda_max <= float(f.bound(form="rigorous"))
        ((10,), True)
    """
    check_choice("likelihood", likelihood, Likelihood)
    check_choice("kind", kind, Kind)
    patterns = params if isinstance(params, str) else tuple(params)
    with stopwatch() as watch, together(f"measure.fisher of {likelihood}, {kind}, {patterns}"):
        setup = make_setup(
            model,
            x,
            targets=targets,
            likelihood=likelihood,
            kind=kind,
            params=patterns,
            draws=draws,
            mask=mask,
            class_dim=class_dim,
            budget=budget,
            generator=generator,
        )
        gram, values, needed, residual = None, None, 0, float("nan")
        if dense:
            needed = setup.check_dense(budget)
            progress("Fisher spectrum", 0, 3)
            gram = _dual(setup)
            progress("Fisher spectrum", 1, 3)
            residual = _self_check(setup, gram)
            progress("Fisher spectrum", 2, 3)
            live = setup.live()
            values = torch.linalg.eigvalsh(gram if live is None else gram[live][:, live]).flip(0)[: setup.plan.size]
            progress("Fisher spectrum", 3, 3)
    return Fisher(
        kind=kind,
        likelihood=likelihood,
        params=patterns if isinstance(patterns, str) else ", ".join(patterns),
        samples=setup.plan.samples,
        outputs=setup.out.shape[-1] if likelihood == "categorical" else setup.out[0].numel(),
        positions=setup.count,
        rows=setup.rows,
        size=setup.plan.size,
        dtype=setup.out.dtype,
        residual=residual,
        general=setup.plan.general,
        unused=setup.plan.unused,
        cost=Cost(
            forward_passes=3 if dense else 1,
            backward_passes=setup.rows + 1 if dense else 0,
            bytes=needed,
            seconds=watch.seconds,
        ),
        gram=gram,
        _values=values,
        _setup=setup,
    )


def _dual(setup: Setup) -> Tensor:
    share = setup.share()
    total = FullGram(setup.rows, setup.plan.samples, setup.out.device)
    with setup.measuring():
        accumulate(
            setup.model,
            share.x,
            share.plan,
            lambda _out: setup.cotangents(share.part),
            lambda _group: total,
            restart=total.restart,
            team=share.team,
        )
    share.team.total(total.matrix, "the dual")
    gram = total.finish()
    if not bool(torch.isfinite(gram).all()):
        raise ValueError(
            "the model's gradients overflow on this batch (the outputs are finite): the Fisher matrix has no finite "
            f"value in {setup.out.dtype}. measure.signal says which layers explode; model.double() may have the range."
        )
    return gram


def _self_check(setup: Setup, gram: Tensor) -> float:
    """Compare the dual with an ordinary backward pass in one random direction.

    Returns:
        The relative difference.

    Raises:
        RuntimeError: If it is too large for rounding.
    """
    # A fixed direction: the check must not touch anybody's random numbers.
    u = torch.randn(len(gram), dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(gram.device)
    by_dual = float(u @ (gram @ u))
    try:
        by_pass = Products(setup).root_norm_squared(u.view(setup.rows, setup.plan.samples))
    except RuntimeError as error:
        if "inplace operation" in str(error):  # the model overwrites what its own training would need
            return float("nan")
        raise
    scale = max(by_dual, by_pass)
    residual = abs(by_dual - by_pass) / scale if scale > 0 else 0.0
    if residual > allowed_residual(setup.out.dtype):
        raise RuntimeError(
            f"the dual and an ordinary backward pass disagree by {residual:.1e} of their value: the model is probably "
            "not a function of each sample alone (its output for one depends on the others, or on how many there are), "
            "so its Fisher matrix at a batch is undefined; make it one."
        )
    return residual
