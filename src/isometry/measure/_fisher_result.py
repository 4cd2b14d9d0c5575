"""A Fisher matrix, known through its dual: what can be asked of it.

Paper: P. A. Sokol, I. M. Park. "Information Geometry of Orthogonal Initializations and Training." ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from isometry._base import Cost, Result, fingerprint, together
from isometry.linalg import LanczosResult, lanczos
from isometry.measure._bounds import Bound, Form, rigorous_bound, theorem_bound
from isometry.measure._coverage import Coverage
from isometry.measure._fisher_grouping import By
from isometry.measure._fisher_groups import GroupSpectra, group_spectra
from isometry.measure._fisher_layers import LayerSpectrum, layer_spectra, sample_blocks
from isometry.measure._fisher_products import Products
from isometry.measure._fisher_roots import Kind, Likelihood, check_choice
from isometry.measure._fisher_setup import Setup
from isometry.measure._guards import outside_inference

__all__ = ["Condition", "Fisher", "FisherError"]

_JACKKNIFE = 16  # most groups of draws to leave out in turn


@dataclass(frozen=True)
class Condition(Result):
    """Condition numbers of the nonzero dual spectrum; the softmax's structural zeros are not in it.

    Attributes:
        median: lambda_max over the median eigenvalue.
        smallest: lambda_max over the smallest eigenvalue above the cut-off.
        cutoff: The cut-off, as a fraction of lambda_max; eigenvalues below it count as zero.
        below: How many eigenvalues lie below it.
    """

    median: float
    smallest: float
    cutoff: float
    below: int


@dataclass(frozen=True)
class FisherError(Result):
    """Standard errors of a Monte-Carlo Fisher matrix over its draws of labels.

    Attributes:
        lambda_max: Of the largest eigenvalue, by the jackknife over draws: its spread, which says nothing of its bias.
            The largest eigenvalue of a mean of draws lies above that of the expectation on average (it is convex).
        trace: Of the trace.
        draws: Draws per sample; with one draw there is no error to be had (NaN).
    """

    lambda_max: float
    trace: float
    draws: int


@dataclass(frozen=True, eq=False)
class Fisher(Result):
    """A Fisher matrix, known through its dual.

    Attributes:
        kind: "true", "empirical" or "monte-carlo".
        likelihood: "categorical" or "gaussian".
        params: Which parameters.
        samples: N.
        outputs: C.
        positions: What the matrix is the mean over: the positions that count, for one label per sample the samples.
        rows: V, rows of the root per sample: the dual has N V rows.
        size: How many numbers the parameters hold.
        dtype: In which the model ran; sums and eigenvalues are in float64.
        residual: Relative difference between u^T T u and |root^T u|^2 for a random u, the first from the dual T, the
            second from one ordinary backward pass of the model: a check on everything in between. NaN without a
            dual, and where the model overwrites in place what its own backward pass would need.
        general: Parameters whose rows had to be formed sample by sample, for want of a closed form.
        unused: Parameters that the forward pass does not read; their block is zero.
        cost: What it took.
        gram: The dual, shape (N V, N V), row v N + n for direction v of sample n; None if matrix-free.
    """

    kind: Kind
    likelihood: Likelihood
    params: str
    samples: int
    outputs: int
    positions: int
    rows: int
    size: int
    dtype: torch.dtype
    residual: float
    general: tuple[str, ...]
    unused: tuple[str, ...]
    cost: Cost
    gram: Tensor | None = field(repr=False)
    _values: Tensor | None = field(repr=False)
    _setup: Setup = field(repr=False)
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)

    def eigenvalues(self) -> Tensor:
        """Give all nonzero eigenvalues of the Fisher matrix, largest first.

        The softmax's N structural zeros are not among them. Rounding may leave others, down to about 1e-16 of the
        largest, slightly negative: they are zero to working precision.

        Returns:
            Shape (min(N V, size),), float64.

        Raises:
            RuntimeError: If the measurement is matrix-free.
        """
        if self._values is None:
            raise RuntimeError(
                "this Fisher matrix is matrix-free (dense=False): use .top(k) for its largest eigenvalues."
            )
        return self._values

    @property
    def lambda_max(self) -> float:
        """The largest eigenvalue: plain gradient descent on the local quadratic is stable for steps below 2 over it."""
        values = self._values if self._values is not None else self.top(1).eigenvalues
        return float(values[0])

    @property
    @outside_inference
    def trace(self) -> float:
        """The sum of all eigenvalues; exact for the matrix-free one too."""
        if self._values is not None:
            return float(self._values.sum())
        if "trace" not in self._cache:
            with together("Fisher.trace"):
                blocks = sample_blocks(self._setup, lambda _out, part: self._setup.cotangents(part))
            self._cache["trace"] = sum(float(b.diagonal(dim1=1, dim2=2).sum()) for b in blocks.values())
        return cast("float", self._cache["trace"])

    @property
    def effective_rank(self) -> float:
        """Trace over largest eigenvalue: how many directions share the curvature; NaN for a zero matrix."""
        top = self.lambda_max
        return self.trace / top if top > 0 else float("nan")

    @property
    def stderr(self) -> FisherError | None:
        """Standard errors over the Monte-Carlo draws; None for the other kinds, which have none."""
        if self.kind != "monte-carlo" or self.gram is None:
            return None
        if "stderr" not in self._cache:
            self._cache["stderr"] = _over_draws(self.gram, self.rows)
        return cast("FisherError", self._cache["stderr"])

    @property
    def coverage(self) -> Coverage:
        """How the parameters' contributions were had, as shares of their numbers, and which were not in closed form."""
        return self._setup.coverage

    def condition(self, cutoff: float = 1e-12) -> Condition:
        """Compare the largest eigenvalue with the median and with the smallest one above a cut-off.

        Args:
            cutoff: Eigenvalues below this fraction of the largest count as zero.

        Returns:
            Both ratios; infinite where there is nothing to divide by.
        """
        values = self.eigenvalues()
        top, half = float(values[0]), len(values) // 2
        median = float(values[half]) if len(values) % 2 else float(values[half - 1 : half + 1].mean())
        above = values[values > cutoff * top]
        return Condition(
            median=top / median if median > 0 else float("inf"),
            smallest=top / float(above[-1]) if len(above) else float("inf"),
            cutoff=cutoff,
            below=len(values) - len(above),
        )

    @outside_inference
    def per_layer(self) -> tuple[LayerSpectrum, ...]:
        """Compute the spectrum of every layer's diagonal block; runs the model again.

        Returns:
            One result per module that holds chosen parameters, in the model's order.
        """
        if "layers" not in self._cache:
            self._setup.check_dense(self._setup.budget)
            with together("Fisher.per_layer"):
                self._cache["layers"] = layer_spectra(self._setup)
        return cast("tuple[LayerSpectrum, ...]", self._cache["layers"])

    @outside_inference
    def per_group(
        self,
        groups: Mapping[str, str | Iterable[str]] | None = None,
        *,
        by: By | None = None,
        heads: int | None = None,
        budget: int | None = None,
    ) -> GroupSpectra:
        """Compute the spectrum of every group of parameters; runs the model again, once for all groups.

        Args:
            groups: Names of groups to one or several patterns of parameter names, as in ``fnmatch``, for example
                {"attention": "*.attn.*", "mlp": "*.mlp.*"}. They may overlap.
            by: Instead: "layer" (modules); "block", the blocks that the model repeats: the children of one class in an
                outermost ``ModuleList``, ``Sequential`` or ``ModuleDict``; "head", the attention heads: rows of the
                query, key and value projections and columns of the output projection. Where heads of queries share
                keys and values, these are groups of their own.
            heads: Heads in each attention block, where the blocks do not say.
            budget: Bytes that it may take; default: the measurement's.

        Returns:
            One spectrum per group; what is in no group is "rest", the last.

        Raises:
            TypeError: If ``groups`` is not a mapping.
            ValueError: If not exactly one of ``groups`` and ``by`` is given, a pattern matches nothing, or there are no
                blocks or heads to be found.
            MemoryBudgetError: If the groups' duals are over the budget.
        """
        if (groups is None) == (by is None):
            raise ValueError('pass either groups={name: pattern} or by="layer", "block" or "head".')
        if by is not None:
            check_choice("by", by, By)
        if heads is not None and by != "head":
            raise ValueError(f'heads={heads!r} is for by="head"; leave it out.')
        with together(f"Fisher.per_group({groups}, {by}, {heads})"):
            allowed = self._setup.budget if budget is None else budget
            return group_spectra(self._setup, groups, by, heads, allowed, lambda: self.trace)

    @outside_inference
    def bound(self, form: Form = "rigorous", *, activation: Callable[[Tensor], Tensor] | None = None) -> Bound:
        """Bound the largest eigenvalue from above by spectral radii of Jacobians; runs the model again.

        Args:
            form: "rigorous" holds for every network at its batch; "theorem" is the paper's mean-field bound, for
                chains, with ``params="hidden"``.
            activation: For the theorem, if the model applies its activation outside of a module.

        Returns:
            The bound with its terms; ``float()`` gives its value.
        """
        check_choice("form", form, Form)
        key = form, id(activation)
        if key not in self._cache.setdefault("bounds", {}):
            with together(f"Fisher.bound({form})"):
                bound = rigorous_bound(self._setup) if form == "rigorous" else theorem_bound(self._setup, activation)
            self._cache["bounds"][key] = bound
        return cast("Bound", self._cache["bounds"][key])

    @outside_inference
    def matvec(self, vector: Tensor, *, keep_graph: bool = False) -> Tensor:
        """Multiply the Fisher matrix by a vector, matrix-free: one push forward and one pull back.

        Args:
            vector: Shape (size,): the parameters in the order of ``parameter_names``, each flattened.
            keep_graph: Keep the model's graph, and so its activations, in this result for the next product, which
                then takes about half the time.

        Returns:
            Shape (size,), in the vector's dtype, computed in the model's.

        Raises:
            ValueError: If the shape does not fit.
        """
        if tuple(vector.shape) != (self.size,):
            raise ValueError(
                f"vector must have shape ({self.size},), got {tuple(vector.shape)}; flatten the parameters."
            )
        with together("Fisher.matvec") as team:
            if team.size > 1:
                team.agree(f"vector with checksum {fingerprint([vector])}")
            return self._products(keep_graph).matvec(vector)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The parameters' names in the order in which ``matvec`` takes them; tied ones once."""
        return tuple(self._setup.plan.parameters)

    @outside_inference
    def top(
        self,
        k: int = 1,
        *,
        tolerance: float | None = None,
        max_steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> LanczosResult:
        """Compute the largest eigenvalues by Lanczos on the dual, matrix-free: memory does not grow with N V squared.

        Args:
            k: How many.
            tolerance: Residual relative to the largest eigenvalue; default: the square root of the dtype's epsilon.
            max_steps: Most products.
            generator: For the starting vector.

        Returns:
            Eigenvalues with residuals; the vectors are the dual's, over outputs and samples.
        """
        key = f"top {k} {tolerance} {max_steps}"
        if key not in self._cache or generator is not None:
            device = self._setup.out.device
            with together(f"Fisher.top({k})") as team:
                products = self._products(keep=False)
                self._cache[key] = lanczos(
                    products.dual_matvec,
                    products.dual_size(),
                    count=k,
                    tolerance=tolerance,
                    max_steps=max_steps,
                    dtype=torch.float64 if self.dtype == torch.float64 else torch.float32,
                    device=device,
                    generator=torch.Generator(device).manual_seed(0)
                    if generator is None
                    else team.seeded(generator, device),
                )
        return cast("LanczosResult", self._cache[key])

    def to_dict(self) -> dict[str, Any]:
        """Give the measurement as plain data that ``json.dumps`` accepts.

        Returns:
            The fields, and what the spectrum says unless it is matrix-free.
        """
        plain = super().to_dict() | {"coverage": self.coverage.to_dict()}
        if self._values is not None:
            plain |= {
                "lambda_max": self.lambda_max,
                "trace": self.trace,
                "effective_rank": self.effective_rank if self.lambda_max > 0 else None,
                "condition": self.condition().to_dict(),
                "eigenvalues": self._values.tolist(),
            }
        if self.stderr is not None:
            plain["stderr"] = self.stderr.to_dict()
        return plain

    def __str__(self) -> str:
        head = (
            f"Fisher matrix ({self.kind}, {self.likelihood}) of {self.size} parameters ({self.params}) at "
            f"{self.samples} samples with {self.outputs} outputs"
        )
        if self._values is None:
            return f"{head}: matrix-free; .top(k) gives its largest eigenvalues{self._covered()}"
        condition, error = self.condition(), self.stderr
        known = error is not None and error.lambda_max == error.lambda_max  # of a single draw there is none
        spread = f" +- {error.lambda_max:.2g}" if error is not None and known else ""
        biased = (
            f"  drawn labels        {self.rows} a sample: extreme eigenvalues are biased upwards, the effective rank "
            'downwards; kind="true" with dense=False has the largest exactly, by .top(1)\n'
            if self.kind == "monte-carlo"
            else ""
        )
        return (
            f"{head}\n"
            f"  largest eigenvalue  {self.lambda_max:.4g}{spread} (steps of gradient descent below "
            f"{2 / self.lambda_max if self.lambda_max > 0 else float('inf'):.3g})\n"
            f"{biased}"
            f"  trace               {self.trace:.4g}, effective rank {self.effective_rank:.3g} of {len(self._values)}\n"
            f"  condition           {condition.median:.3g} to the median, {condition.smallest:.3g} to the smallest "
            f"({condition.below} below {condition.cutoff:g} of the largest left out)\n"
            f"  self-check          {self.residual:.1e}; {self.cost.seconds:.2f} s{self._covered()}"
        )

    def _covered(self) -> str:
        return f"\n  coverage            {self.coverage}" if self.coverage.uncovered else ""

    def _products(self, keep: bool) -> Products:
        products = self._cache.get("products")
        if products is None or products.share.team is not self._setup.share().team:
            products = Products(self._setup)
        if keep:
            self._cache["products"] = products
        return cast("Products", products)


def _over_draws(gram: Tensor, draws: int) -> FisherError:
    if draws < 2:
        return FisherError(float("nan"), float("nan"), draws)
    samples = len(gram) // draws
    traces = gram.diagonal().view(draws, samples).sum(1) * draws  # each an unbiased estimate
    groups = min(draws, _JACKKNIFE)
    group = torch.arange(draws, device=gram.device) * groups // draws
    tops = []
    for left_out in range(groups):
        keep = (group != left_out).repeat_interleave(samples)
        rest = gram[keep][:, keep]
        tops.append(torch.linalg.eigvalsh(rest)[-1] * draws * samples / len(rest))
    spread = torch.stack(tops).var(correction=0) * (groups - 1)
    return FisherError(float(spread.sqrt()), float(traces.std() / draws**0.5), draws)
