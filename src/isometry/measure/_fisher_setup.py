"""What a Fisher measurement is about: the checked arguments, the model's output, and a watch on the model."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import Tensor, nn

from isometry import roles
from isometry._base import IGNORED, allowed_bytes, check_budget, check_tensor, current_team, team_for, unknown_name
from isometry.measure._coverage import Coverage, coverage_of, split_measurable
from isometry.measure._fisher_roots import (
    Kind,
    Likelihood,
    check_output,
    check_targets,
    normalizer,
    root_rows,
    row_count,
)
from isometry.measure._gram import CHUNK_BYTES
from isometry.measure._gram_plan import Plan, make_plan
from isometry.measure._guards import check_model, check_per_sample, known, open_inputs, run_model
from isometry.measure._share import Share, insist_on_same, outputs_of_all, share_of
from isometry.tape import Inputs, measuring

__all__ = ["Setup", "choose_parameters", "make_setup"]

FEW_DRAWS = 8  # labels per sample that are drawn by default: what drawing can save is the rows beyond them


@dataclass(frozen=True, eq=False)
class Setup:
    """Everything that later computations on the same Fisher matrix need.

    Attributes:
        model: The model itself, not a copy.
        x: A copy of the batch.
        plan: How each parameter's rows are had.
        coverage: The shares of the parameters by that, and those that cannot be measured.
        likelihood: The output's likelihood.
        kind: Which Fisher matrix.
        out: The model's output, detached.
        rows: V, the root's rows per sample.
        mask: Which positions of the output count, shape (N, *positions); None for all.
        fixed: For the empirical and Monte-Carlo kinds, the root's cotangents (V, *out.shape).
        budget: Bytes that dense matrices may take.
        what: What is measured, for messages.
    """

    model: nn.Module
    x: Inputs
    plan: Plan
    coverage: Coverage
    likelihood: Likelihood
    kind: Kind
    out: Tensor
    rows: int
    mask: Tensor | None
    fixed: Tensor | None
    budget: int | None
    what: str
    _fingerprint: tuple[tuple[int, float | None], ...] = field(repr=False)

    def cotangents(self, part: slice = slice(None)) -> Tensor:
        """Make the root's cotangents.

        Args:
            part: Of these samples; default: of all.

        Returns:
            Shape (V, samples, *output of one sample).
        """
        if self.fixed is not None:
            return self.fixed[:, part]
        return root_rows(
            self.out[part],
            likelihood=self.likelihood,
            kind=self.kind,
            targets=None,
            draws=1,
            mask=None if self.mask is None else self.mask[part],
            generator=None,
            count=self.count,
        )

    def share(self) -> Share:
        """Take this process's share of the batch.

        Returns:
            The share: the whole outside of a ``data_parallel`` block.
        """
        return share_of(self.x, self.plan)

    @property
    def count(self) -> int:
        """What the Fisher matrix is the mean over: positions for the categorical likelihood, samples else."""
        return normalizer(self.out, self.likelihood, self.mask)

    def masked(self, t: Tensor, part: slice = slice(None)) -> Tensor:
        """Clear the positions that do not count.

        Args:
            t: The output's shape.
            part: Which samples these are; default: all.

        Returns:
            The same shape.
        """
        if self.mask is None:
            return t
        mask = self.mask[part]
        return t * mask.reshape(*mask.shape, *[1] * (t.ndim - mask.ndim)).to(t)

    def live(self) -> Tensor | None:
        """Tell the root's rows apart from those that are zero because their position does not count.

        Returns:
            Shape (V N,), in the dual's order; None where no row is zero for that reason.
        """
        if self.mask is None or self.kind == "monte-carlo" or (self.kind, self.likelihood) == ("empirical", "gaussian"):
            return None
        flat = self.mask.flatten(1).T  # (P, N)
        each = self.rows // len(flat)
        return flat.unsqueeze(1).expand(-1, each, -1).flatten()

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Run something more on the model, which must be as it was when it was measured.

        Yields:
            Nothing.

        Raises:
            RuntimeError: If a parameter or buffer has changed since.
        """
        if _fingerprint(self.model) != self._fingerprint:
            raise RuntimeError(
                f"the model's parameters or buffers have changed since this {self.what} was measured; measure it "
                "again, or ask for everything before training goes on."
            )
        with measuring(self.model, training=None):
            for parameter in self.model.parameters():
                parameter.requires_grad_(False)
            yield

    def dense_bytes(self) -> int:
        """Foresee the peak memory of the dense dual, in bytes: matrix, its copy for the solver, rows and activations.

        Returns:
            A number of bytes, not counting the parameters.
        """
        n, item = self.plan.samples, self.out.element_size()
        size = n * self.rows
        calls = self.plan.calls.values()
        activations = team_for(n).shares(n)[0] * item * sum(c.input_numel + c.output_numel for c in calls)
        widest = max((c.output_numel for c in calls), default=0)
        again = sum(  # cotangents of reused modules wait for the last call
            self.plan.calls[o].output_numel for b in self.plan.bundles if len(b.calls) > 1 for o in b.calls
        )
        rows = size * (widest * (2 * item + 8) + again * (item + 8)) + self.rows * self.out.numel() * 2 * item
        formed = CHUNK_BYTES if self.plan.general or any(c.kind != "linear" for c in calls) else 0
        return 2 * 8 * size * size + 8 * size * min(size, max(n, 128)) + activations + rows + formed

    def check_dense(self, budget: int | None) -> int:
        """Refuse a dual that is over the budget.

        Returns:
            The bytes that it needs.
        """
        size = self.plan.samples * self.rows
        instead = "Take fewer samples, use fisher(..., dense=False).top(k), which needs only products with it,"
        if self.kind == "true" and self.rows > FEW_DRAWS:
            instead += ' take kind="monte-carlo", whose trace is unbiased and whose largest eigenvalue is too large,'
        return check_budget(
            self.dense_bytes(),
            budget,
            what=f"the dual Gram matrix of {size} x {size} (samples times rows per sample)",
            instead=instead,
        )


def make_setup(
    model: object,
    x: object,
    *,
    targets: object,
    likelihood: Likelihood,
    kind: Kind,
    params: str | Iterable[str],
    draws: int,
    mask: Tensor | None,
    class_dim: int | None,
    budget: int | None,
    generator: torch.Generator | None,
    what: str = "Fisher matrix",
) -> Setup:
    """Check every argument, run the model once and plan the measurement.

    Returns:
        The setup.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If the model or the batch cannot be measured; the message says why.
    """
    module = check_model(model)
    allowed_bytes(budget)  # a wrong one is refused now, not by the first dense question
    team = current_team()
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise ValueError(f"draws must be a whole number >= 1, got {draws!r}.")
    batch = open_inputs(module, x).clone()
    if class_dim is not None:
        batch = batch.changed(class_dim=class_dim)
    if mask is not None:
        batch = batch.changed(mask=check_tensor("mask", mask).to(batch.device))
    insist_on_same(module, batch, targets)
    parameters, unmeasured = split_measurable(choose_parameters(module, params, real=False))
    check_per_sample(module, f"The {what} at a batch is", "Call model.eval() first.")
    with measuring(module, training=None):
        with torch.no_grad():
            out = check_output(outputs_of_all(lambda part: _deterministic(module, part, what), batch), likelihood)
            _insist_on_class_dim(out, batch, likelihood)
        labels = check_targets(targets, out, likelihood, kind)
        plan = make_plan(module, batch, parameters)
    counted = _counted(batch, out, labels, likelihood)
    rows = row_count(likelihood, kind, out.shape, draws)
    fixed = None
    if kind != "true":
        check_budget(
            rows * out.numel() * (out.element_size() + 8),
            budget,
            what=f"the {rows} directions per sample in the space of the outputs, {tuple(out.shape)} in shape,",
            instead="Take fewer samples, shorter sequences or fewer draws,",
        )
        fixed = root_rows(
            out, likelihood=likelihood, kind=kind, targets=labels, draws=draws, mask=counted, generator=generator
        )
        fixed = team.first(fixed, "the drawn labels") if kind == "monte-carlo" else fixed
    coverage, seen = coverage_of(module, plan, unmeasured), _fingerprint(module)
    return Setup(
        module, batch, plan, coverage, likelihood, kind, out, rows, counted, fixed, budget, what, _fingerprint=seen
    )


def _insist_on_class_dim(out: Tensor, batch: Inputs, likelihood: Likelihood) -> None:
    if likelihood == "categorical" and out.ndim - batch.whole > 3 and batch.class_dim is None:
        raise ValueError(
            f"model returned outputs of shape {tuple(out.shape)}, and it is not clear along which dimension the "
            "classes lie; pass class_dim=1 for (N, classes, height, width), class_dim=-1 for classes last."
        )


def _counted(batch: Inputs, out: Tensor, labels: Tensor | None, likelihood: Likelihood) -> Tensor | None:
    """Say which positions count: the mask's, and for labels those that are known.

    Returns:
        Shape (N, *positions), or None for all.

    Raises:
        ValueError: If none count.
    """
    shape = tuple(out.shape[:-1])
    if batch.mask is not None and batch.mask.shape == shape[1:] and len(batch) == 1:  # of one whole graph
        batch = batch.changed(mask=batch.mask.unsqueeze(0))
    mask = batch.counted(shape)
    if labels is not None and likelihood == "categorical" and bool((labels == IGNORED).any()):
        known = (labels != IGNORED).to(out.device)
        mask = known if mask is None else mask.to(out.device) & known
    if mask is not None and not bool(mask.any()):
        raise ValueError("mask leaves no position that counts; mark at least one.")
    return None if mask is None or bool(mask.all()) else mask.to(out.device)


def choose_parameters(model: nn.Module, params: str | Iterable[str], *, real: bool = True) -> dict[str, nn.Parameter]:
    """Pick parameters by a word or by name patterns; tied ones once, under their first name.

    Args:
        model: The model.
        params: "all"; "hidden" (all but the output layer's, as in the paper; the input layer's belong to it); or one
            or several patterns of names, as in ``fnmatch``.
        real: Whether to refuse parameters without real gradients: integers and complex numbers.

    Returns:
        Parameters by name, whether they require a gradient or not.

    Raises:
        ValueError: If one has no real gradients.
    """
    chosen = _matching(model, params)
    odd = next((name for name, p in chosen.items() if not p.is_floating_point()), None)
    if real and odd is not None:
        raise ValueError(
            f"parameter {odd!r} is {chosen[odd].dtype} and has no real gradients; leave it out by params=."
        )
    return chosen


def _matching(model: nn.Module, params: str | Iterable[str]) -> dict[str, nn.Parameter]:
    """Find the parameters that a word or patterns mean.

    Returns:
        Parameters by name.

    Raises:
        TypeError: If ``params`` is neither.
        ValueError: If the model has no parameters.
        unknown_name: A ValueError with near matches, if a pattern matches nothing.
    """
    everything = {name: p for name, p in model.named_parameters() if p.numel()}
    if not everything:
        raise ValueError("model has no parameters, so there is nothing to measure; pass a model that has some.")
    if params == "all":
        return everything
    if params == "hidden":
        outputs = {row.module_name for row in roles.table(model) if row.role == "output"}
        chosen = {
            n: p for n, p in everything.items() if n.rpartition(".")[0].split(".parametrizations")[0] not in outputs
        }
        if not chosen:
            raise ValueError('params="hidden" leaves no parameters: the model has an output layer only; use "all".')
        return chosen
    patterns = [params] if isinstance(params, str) else list(params)
    if not patterns or not all(isinstance(p, str) for p in patterns):
        raise TypeError('params must be "all", "hidden" or patterns of parameter names; got none or not strings.')
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in everything):
            raise unknown_name("params pattern", pattern, ["all", "hidden", *everything])
    return {n: p for n, p in everything.items() if any(fnmatchcase(n, pattern) for pattern in patterns)}


def _deterministic(model: nn.Module, x: Inputs, what: str) -> Tensor:
    """Run a model and refuse it if it drew random numbers.

    Returns:
        Its output.

    Raises:
        ValueError: If the state of torch's or NumPy's generator moved.
    """
    cuda = torch.cuda.is_available() and x.device.type == "cuda"
    before = torch.get_rng_state(), torch.cuda.get_rng_state(x.device) if cuda else None, _numpy_state()
    out = run_model(model, x.clone())
    same = torch.equal(before[0], torch.get_rng_state()) and before[2] == _numpy_state()
    if before[1] is not None:
        same = same and torch.equal(before[1], torch.cuda.get_rng_state(x.device))
    if not same:
        raise ValueError(
            f"model draws random numbers in its forward pass, so its {what} at a batch is undefined; switch the "
            "randomness off (model.eval(), or a fixed noise)."
        )
    return out


def _numpy_state() -> bytes:
    return pickle.dumps(np.random.get_state(legacy=False))  # noqa: NPY002 - the global one is what a model would use


def _fingerprint(model: nn.Module) -> tuple[tuple[int, float | None], ...]:
    tensors = [*model.parameters(), *model.buffers()]
    with torch.no_grad():
        return tuple(
            (
                -1 if t.is_inference() else t._version,
                known(float(torch.linalg.vector_norm(t))) if t.is_floating_point() else 0.0,
            )
            for t in tensors
        )
