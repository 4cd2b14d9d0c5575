"""Spectra of groups of parameters: by name pattern, by layer, by repeated block, by attention head.

The dual of a group's diagonal block is the sum of its parameters' contributions, so one forward and one backward sweep
serve all groups. A group's sum is made when its first parameter is reached and dissolved into its eigenvalues behind
its last, so that of a deep model's blocks only few are held at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from isometry._base import Cost, Result, Team, check_budget, format_bytes, progress, stopwatch, unknown_name
from isometry.measure._fisher_grouping import By, Groups, Patterns, grouped
from isometry.measure._fisher_layers import LayerSpectrum, spectrum_of
from isometry.measure._fisher_routes import Route
from isometry.measure._fisher_setup import Setup
from isometry.measure._fisher_slices import ManyGrams, SlicedGrams
from isometry.measure._gram import accumulate
from isometry.measure._gram_sums import AnyGram, FullGram
from isometry.roles import ParameterSlice

__all__ = ["GroupSpectra", "group_spectra"]


@dataclass(frozen=True, eq=False)
class GroupSpectra(Result):
    """The spectra of groups of parameters: of the Fisher matrix's blocks on its diagonal.

    Attributes:
        by: How the parameters were grouped: "pattern", "layer", "block" or "head".
        groups: One spectrum for each group; what is in none of them comes last, as "rest".
        trace: Of the whole matrix: the sum over groups where they do not overlap.
        overlapping: Whether parameters are in several groups.
        cost: What it took; its bytes are what was foreseen.
    """

    by: str
    groups: tuple[LayerSpectrum, ...]
    trace: float
    overlapping: bool
    cost: Cost

    def __iter__(self) -> Iterator[LayerSpectrum]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, name: str) -> LayerSpectrum:
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(str(unknown_name("group", name, [group.name for group in self.groups])))

    def __str__(self) -> str:
        width = max(len(g.name) for g in self.groups)
        head = ("parameters", 12), ("largest", 10), ("trace", 10), ("share", 6)
        lines = ["  ".join([f"{'group':{width}}", *(f"{word:>{room}}" for word, room in head), "effective rank"])]
        for g in self.groups:
            share = f"{g.trace / self.trace:6.1%}" if self.trace > 0 else "     -"
            numbers = f"{g.size:12,}  {g.lambda_max:10.4g}  {g.trace:10.4g}  {share}  {g.effective_rank:.3g}"
            lines.append(f"{g.name:{width}}  {numbers}")
        cost = f"{format_bytes(self.cost.bytes)} foreseen, {self.cost.seconds:.2f} s"
        twice = "; groups overlap, so shares may sum to more than 100 %" if self.overlapping else ""
        return "\n".join([*lines, f"trace of the whole matrix {self.trace:.4g}{twice}; {cost}"])


def group_spectra(
    setup: Setup,
    patterns: Patterns | None,
    by: By | None,
    heads: int | None,
    budget: int | None,
    whole: Callable[[], float],
) -> GroupSpectra:
    """Compute the spectrum of every group.

    Args:
        setup: The measurement.
        patterns: Names of groups to patterns of parameter names; None where ``by`` says how to group.
        by: How to group.
        heads: Attention heads in each block, for ``by="head"``.
        budget: Bytes that it may take.
        whole: Gives the whole matrix's trace; asked where groups overlap.

    Returns:
        The spectra.
    """
    with stopwatch() as watch:
        groups = grouped(setup, patterns, by, heads)
        route = Route.of(setup.plan, groups)
        needed = check_budget(
            _bytes(setup, route, groups),
            budget,
            what=f"spectra of {len(groups)} groups of parameters, {route.most_alive()} of them at a time,",
            instead="Take fewer samples, fewer groups at a time, or fisher(..., params=pattern, dense=False).top(k), "
            "which needs only products, for each group,",
        )
        spectra = _sweep(setup, route, groups)
        overlapping = sum(spectrum.size for spectrum in spectra) > setup.plan.size
        trace = whole() if overlapping else sum(spectrum.trace for spectrum in spectra)
    cost = Cost(forward_passes=1 + (by == "head"), backward_passes=setup.rows, bytes=needed, seconds=watch.seconds)
    return GroupSpectra("pattern" if by is None else by, spectra, trace, overlapping, cost)


def _bytes(setup: Setup, route: Route, groups: Groups) -> int:
    """Foresee the peak memory: that of one dual, and the others that are held beside it.

    Returns:
        A number of bytes, not counting the parameters.
    """
    n, size = setup.plan.samples, setup.plan.samples * setup.rows
    widths = [s.stop - s.start for slices in groups.values() for s in slices if s.dim is not None and not s.inputs]
    widest = max(widths, default=max((c.output_numel for c in setup.plan.calls.values()), default=0))
    beside = 8 * size * (size + min(size, max(n, 128)) + widest)  # matrix, a block of products, cotangents in float64
    return setup.dense_bytes() + max(0, route.most_alive() - 1) * beside


def _sweep(setup: Setup, route: Route, groups: Groups) -> tuple[LayerSpectrum, ...]:
    share = setup.share()
    plan = replace(route.plan, samples=share.plan.samples)
    sums = _Sums(setup, route, share.team)
    with setup.measuring():
        accumulate(
            setup.model,
            share.x,
            plan,
            lambda _out: setup.cotangents(share.part),
            sums.of,
            done=sums.done,
            restart=sums.restart,
            team=share.team,
        )
    return tuple(_spectrum(setup, group, slices, sums.values.get(group)) for group, slices in groups.items())


class _Sums:
    """The sums that are held, and the eigenvalues of those that are complete."""

    def __init__(self, setup: Setup, route: Route, team: Team) -> None:
        self.setup, self.route, self.team = setup, route, team
        self.restart()

    def restart(self) -> None:
        """Forget everything."""
        self.grams: dict[str, FullGram] = {}
        self.values: dict[str, Tensor] = {}
        self.handed: dict[str, AnyGram] = {}
        self.left: dict[str, set[str]] = {}
        for key, slices in self.route.slices.items():
            for _, group in slices:
                self.left.setdefault(group, set()).add(key)

    def of(self, key: str) -> AnyGram:
        """Give where the contributions of a key's parameters go.

        Returns:
            A sum.
        """
        if key not in self.handed:
            slices = [(one, self._gram(group)) for one, group in self.route.slices[key]]
            if any(one.dim is not None for one, _ in slices):
                self.handed[key] = SlicedGrams(slices, self.route.plan.parameters[key], self.team)
            else:
                self.handed[key] = slices[0][1] if len(slices) == 1 else ManyGrams([gram for _, gram in slices])
        return self.handed[key]

    def _gram(self, group: str) -> FullGram:
        if group not in self.grams:
            self.grams[group] = FullGram(self.setup.rows, self.setup.plan.samples, self.setup.out.device)
        return self.grams[group]

    def done(self, key: str) -> None:
        """Take the eigenvalues of the groups for which nothing more will come."""
        self.handed.pop(key, None)
        for group in dict.fromkeys(group for _, group in self.route.slices[key]):
            self.left[group].discard(key)
            if not self.left[group] and group in self.grams:
                total = self.grams.pop(group)
                self.team.total(total.matrix, f"the dual of {group}")
                self.values[group] = torch.linalg.eigvalsh(total.finish()).flip(0)
        progress("Fisher spectra of groups", len(self.values), len(self.left))


def _spectrum(setup: Setup, group: str, slices: tuple[ParameterSlice, ...], values: Tensor | None) -> LayerSpectrum:
    size = sum(one.numbers(tuple(setup.plan.parameters[one.name].shape)) for one in slices)
    return spectrum_of(group, tuple(map(str, slices)), size, values, setup.rows * setup.plan.samples)
