"""The Fisher matrix's diagonal blocks: one spectrum per layer, and each sample's own share.

Paper: P. A. Sokol, I. M. Park. "Information Geometry of Orthogonal Initializations and Training." ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from isometry._base import Result, progress
from isometry.measure._fisher_setup import Setup
from isometry.measure._gram import accumulate
from isometry.measure._gram_sums import FullGram, SampleGrams

__all__ = ["LayerSpectrum", "layer_spectra", "sample_blocks", "spectrum_of"]


@dataclass(frozen=True, eq=False)
class LayerSpectrum(Result):
    """The spectrum of the Fisher matrix's diagonal block of one layer, or of another group of parameters.

    Attributes:
        name: The module that holds the parameters, "" for the model itself; or the group.
        parameters: Their names, with the range of a dimension where a group has only a slice.
        size: How many numbers they hold.
        lambda_max: Largest eigenvalue.
        trace: Sum of the eigenvalues.
        effective_rank: Trace over largest eigenvalue; NaN for a zero block.
        eigenvalues: The nonzero ones, descending, shape (min(N V, size),), float64.
    """

    name: str
    parameters: tuple[str, ...]
    size: int
    lambda_max: float
    trace: float
    effective_rank: float
    eigenvalues: Tensor = field(repr=False)


def layer_spectra(setup: Setup) -> tuple[LayerSpectrum, ...]:
    """Compute the spectrum of every layer's block.

    Args:
        setup: The measurement.

    Returns:
        One per module that holds chosen parameters, in the model's order.
    """
    share = setup.share()
    members: dict[str, list[str]] = {}
    for name in setup.plan.parameters:
        members.setdefault(setup.plan.group_of(name), []).append(name)
    sums: dict[str, FullGram] = {}
    values: dict[str, Tensor] = {}

    def of(group: str) -> FullGram:
        return sums.setdefault(group, FullGram(setup.rows, setup.plan.samples, setup.out.device))

    def done(group: str) -> None:
        if group in sums:
            total = sums.pop(group)
            share.team.total(total.matrix, f"the dual of {group}")
            values[group] = torch.linalg.eigvalsh(total.finish()).flip(0)
        progress("Fisher spectra of the layers", len(values), len(members))

    def restart() -> None:
        sums.clear()
        values.clear()

    with setup.measuring():
        accumulate(
            setup.model,
            share.x,
            share.plan,
            lambda _out: setup.cotangents(share.part),
            of,
            done=done,
            restart=restart,
            team=share.team,
        )
    return tuple(_spectrum(setup, group, tuple(names), values.get(group)) for group, names in members.items())


def _spectrum(setup: Setup, group: str, names: tuple[str, ...], values: Tensor | None) -> LayerSpectrum:
    size = sum(setup.plan.parameters[name].numel() for name in names)
    return spectrum_of(group, names, size, values, setup.rows * setup.plan.samples)


def spectrum_of(group: str, names: tuple[str, ...], size: int, values: Tensor | None, rows: int) -> LayerSpectrum:
    """Sum up the eigenvalues of one diagonal block.

    Args:
        group: Its name.
        names: Its parameters.
        size: How many numbers they hold.
        values: Eigenvalues of its dual, descending; None where nothing of it influences the output.
        rows: How many rows its dual has.

    Returns:
        The spectrum.
    """
    if values is None:
        values = torch.zeros(rows, dtype=torch.float64)
    kept = values[:size].clone()
    top, trace = float(kept[0]), float(kept.sum())
    return LayerSpectrum(group, names, size, top, trace, trace / top if top > 0 else float("nan"), kept)


def sample_blocks(setup: Setup, cotangents: Callable[[Tensor, slice], Tensor]) -> dict[str, Tensor]:
    """Compute what each layer contributes to each sample's own V x V block of the rows' Gram matrix.

    Args:
        setup: The measurement.
        cotangents: Turns the output of some samples, which a slice names, into V cotangents.

    Returns:
        Layers to blocks of shape (N, V, V), float64; layers that do not influence the output are absent.
    """
    share = setup.share()
    sums: dict[str, SampleGrams] = {}
    rows = 0

    def prepared(out: Tensor) -> Tensor:
        nonlocal rows
        back = cotangents(out, share.part)
        rows = back.shape[0]
        return back

    def of(group: str) -> SampleGrams:
        return sums.setdefault(group, SampleGrams(rows, share.plan.samples, setup.out.device))

    with setup.measuring():  # nothing is exchanged on the way: a sample's block is its process's own
        accumulate(setup.model, share.x, share.plan, prepared, of, restart=sums.clear)
    return {
        group: share.team.gather(total.blocks, setup.plan.samples, f"the samples' blocks of {group}")
        for group, total in sums.items()
    }
