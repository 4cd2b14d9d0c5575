"""The curvature of a loss, known through its products: what can be asked of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from isometry._base import (
    Cost,
    Result,
    allowed_bytes,
    check_budget,
    check_tensor,
    current_team,
    progress,
    together,
)
from isometry.linalg import (
    DiagonalEstimate,
    LanczosResult,
    SpectralDensity,
    TraceEstimate,
    TraceMethod,
    estimate_diagonal,
    estimate_trace,
    lanczos,
    spectral_density,
)
from isometry.measure._curvature_products import CurvatureKind, CurvatureProducts
from isometry.measure._curvature_setup import CurvatureSetup
from isometry.measure._guards import outside_inference

__all__ = ["Curvature"]

_BLOCK = 16  # vectors that are multiplied together, where memory allows
_BLOCK_BYTES = 256 * 1024**2


@dataclass(frozen=True, eq=False)
class Curvature(Result):
    """The Hessian or the Gauss-Newton matrix of a loss in the parameters; nothing is formed unless ``dense`` asks.

    Each method runs the model and leaves no trace on it; if its parameters have changed since, it refuses.

    Attributes:
        kind: "hessian" or "gauss-newton".
        loss: The loss's name.
        params: Which parameters.
        samples: N.
        size: How many numbers the parameters hold: the matrix's dimension.
        value: The loss at the batch.
        gradient_norm: Length of its gradient; far from zero, a Hessian's negative eigenvalues do not speak of a saddle.
        chunk: Samples whose graph is held at a time.
        mixing: Why the batch could not be divided (batch statistics, say); empty where samples are independent.
        unused: Parameters that the outputs do not depend on; their rows are zero.
        asymmetry: What u^T H v and v^T H u differ by for random u and v, relative to their expected size: a check on
            all second derivatives.
        dtype: In which the model ran.
        budget: Bytes that dense results and bases may take; None for the package's default.
        cost: What it took so far.
    """

    kind: CurvatureKind
    loss: str
    params: str
    samples: int
    size: int
    value: float
    gradient_norm: float
    chunk: int
    mixing: tuple[str, ...]
    unused: tuple[str, ...]
    asymmetry: float
    dtype: torch.dtype
    budget: int | None
    cost: Cost
    _setup: CurvatureSetup = field(repr=False)
    _products: CurvatureProducts = field(repr=False)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The parameters' names in the order in which ``matvec`` takes them, each flattened; tied ones once."""
        return tuple(self._setup.parameters)

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Cut a vector over all parameters, an eigenvector or a diagonal say, into the parameters' shapes.

        Args:
            vector: Shape (size,).

        Returns:
            Tensors by parameter name.
        """
        self._check("vector", vector)
        shapes = {name: p.shape for name, p in self._setup.parameters.items()}
        pieces = torch.split(vector, [shape.numel() for shape in shapes.values()])
        return {name: piece.reshape(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}

    @outside_inference
    def matvec(self, vector: Tensor, *, keep_graph: bool = False) -> Tensor:
        """Multiply the matrix, which is symmetric, by one or several vectors.

        Args:
            vector: Shape (size,), or (size, k) for k vectors, which share the passes of the model.
            keep_graph: Keep the model's graph, and so its activations, in this result for the next product, which
                then takes about half the time; only where the batch is one chunk.

        Returns:
            The same shape and dtype, computed in the model's.
        """
        self._check("vector", vector, columns=True)
        if vector.ndim == 1:
            return self._products.rows(vector[None], keep_graph=keep_graph)[0]
        return self._products.rows(vector.mT.contiguous(), keep_graph=keep_graph).mT

    @outside_inference
    def top(
        self,
        k: int = 1,
        *,
        tolerance: float | None = None,
        max_steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> LanczosResult:
        """Compute the largest eigenvalues by Lanczos.

        Args:
            k: How many.
            tolerance: Residual relative to the largest absolute eigenvalue; default: the square root of the model's
                epsilon.
            max_steps: Most products.
            generator: For the starting vector; by default always the same one.

        Returns:
            Eigenvalues, vectors and residuals.
        """
        return self._extremes("largest", k, tolerance, max_steps, generator)

    @outside_inference
    def bottom(
        self,
        k: int = 1,
        *,
        tolerance: float | None = None,
        max_steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> LanczosResult:
        """Compute the smallest (most negative) eigenvalues by Lanczos.

        Those of a Gauss-Newton matrix of a convex loss are zero, and of a Hessian often crowded near zero.

        Args:
            k: How many.
            tolerance: As for ``top``.
            max_steps: Most products.
            generator: For the starting vector; by default always the same one.

        Returns:
            Eigenvalues (descending), vectors and residuals.
        """
        return self._extremes("smallest", k, tolerance, max_steps, generator)

    @outside_inference
    def trace(
        self,
        method: TraceMethod = "hutchinson",
        *,
        tolerance: float = 0.05,
        max_probes: int = 200,
        generator: torch.Generator | None = None,
    ) -> TraceEstimate:
        """Estimate the sum of all eigenvalues, until its standard error is small enough.

        Args:
            method: "hutchinson" keeps no vectors; "xtrace" and "hutch++" need fewer products for a small error where
                few eigenvalues dominate, and keep some vectors a probe.
            tolerance: Wanted standard error, relative to the estimate.
            max_probes: Most random vectors.
            generator: Source of the probes; torch's global one by default.

        Returns:
            The estimate with its standard error; ``converged`` is False where the probes ran out.
        """
        with self._session() as (product, block):
            return estimate_trace(
                product,
                self.size,
                method=method,
                tolerance=tolerance,
                max_probes=max_probes,
                block=block,
                **self._vectors(generator),
            )

    @outside_inference
    def diagonal(
        self, *, tolerance: float = 0.1, max_probes: int = 200, generator: torch.Generator | None = None
    ) -> DiagonalEstimate:
        """Estimate the diagonal, until the errors of all entries together are small enough.

        Args:
            tolerance: Wanted length of the standard errors, relative to the diagonal's.
            max_probes: Most random vectors.
            generator: Source of the probes; torch's global one by default.

        Returns:
            The estimates with a standard error per entry; ``split`` cuts them into the parameters' shapes.
        """
        with self._session() as (product, block):
            return estimate_diagonal(
                product,
                self.size,
                tolerance=tolerance,
                max_probes=max_probes,
                block=block,
                **self._vectors(generator),
            )

    @outside_inference
    def spectral_density(
        self,
        *,
        steps: int = 50,
        probes: int = 8,
        grid: int | Tensor = 1024,
        width: float | None = None,
        generator: torch.Generator | None = None,
    ) -> SpectralDensity:
        """Estimate the density of all eigenvalues by stochastic Lanczos quadrature.

        Args:
            steps: Lanczos steps per probe.
            probes: Random vectors; they give the error bars.
            grid: A number of points, or the points themselves.
            width: Standard deviation of the smoothing Gaussian; default: the spectrum's range over ``steps``.
            generator: Source of the probes; torch's global one by default.

        Returns:
            The density with error bars, checked against its mass and two moments.
        """
        basis = (steps + 4) * self.size * self._setup.vector_dtype.itemsize
        allowed = allowed_bytes(self.budget)
        with self._session(most=max(1, min(probes, allowed // max(1, basis)))) as (product, block):
            return spectral_density(
                product,
                self.size,
                steps=steps,
                probes=probes,
                grid=grid,
                width=width,
                block=block,
                **self._vectors(generator),
            )

    @outside_inference
    def dense(self, budget: int | None = None) -> Tensor:
        """Form the whole matrix, for small models.

        Args:
            budget: Bytes that it may take; default: that of the measurement.

        Returns:
            Shape (size, size), exactly symmetric.

        Raises:
            MemoryBudgetError: If it is over the budget.
            RuntimeError: If rounding has spoilt its symmetry by more than the square root of the dtype's epsilon.
        """
        dtype = self._setup.vector_dtype
        check_budget(
            (2 * self.size + 2 * _BLOCK) * self.size * dtype.itemsize + self._setup.graph_bytes,
            self.budget if budget is None else budget,
            what=f"the dense matrix of {self.size} x {self.size}",
            instead="Use .top(k), .bottom(k), .trace(), .diagonal() or .spectral_density(), which form no matrix, "
            "fewer parameters by params=,",
        )
        matrix = torch.empty(self.size, self.size, dtype=dtype, device=self._setup.out.device)
        with self._session():
            for begin in range(0, self.size, _BLOCK):
                progress("dense curvature", begin, self.size)
                rows = torch.zeros_like(matrix[begin : begin + _BLOCK])
                rows[:, begin:].fill_diagonal_(1)
                matrix[begin : begin + _BLOCK] = self._products.rows(rows, keep_graph=True)
        progress("dense curvature", self.size, self.size)
        scale = float(matrix.abs().max())
        skew = float((matrix - matrix.mT).abs().max())
        if skew > _precision(self.dtype, dtype) * scale:
            raise RuntimeError(
                f"the matrix came out unsymmetric by {skew / scale:.1e} of its largest entry: the model's derivatives "
                "are wrong or too coarse; check custom backward passes, or measure model.double()."
            )
        return matrix.add_(matrix.mT.clone()).div_(2)

    def __str__(self) -> str:
        name = "Hessian" if self.kind == "hessian" else "Gauss-Newton matrix"
        parts = -(-self.samples // self.chunk)
        held = "the whole batch at once" if parts == 1 else f"in {parts} chunks of up to {self.chunk} samples"
        lines = [
            f"{name} of the {self.loss} loss in {self.size} parameters ({self.params}) at {self.samples} samples",
            f"  loss {self.value:.5g}, gradient norm {self.gradient_norm:.4g}; {held}; self-check {self.asymmetry:.1e}",
        ]
        if self.mixing:
            lines.append(f"  samples influence each other: {self.mixing[0]}")
        if self.unused:
            lines.append(f"  without influence on the output: {', '.join(self.unused)}")
        return "\n".join(lines)

    @contextmanager
    def _session(self, most: int = _BLOCK) -> Iterator[tuple[Callable[[Tensor], Tensor], int]]:
        """Keep the graph of the batch for all products of one method.

        Yields:
            The product, and how many vectors to give it at once.
        """
        held = self._products.keeps
        row = self.size * self._setup.vector_dtype.itemsize
        block = max(1, min(_BLOCK, most, _BLOCK_BYTES // (4 * row)))
        try:
            with together("a method of the curvature"):
                yield lambda v: self.matvec(v, keep_graph=True), block
        finally:
            if not held:
                self._products.release()

    def _vectors(self, generator: torch.Generator | None) -> dict[str, Any]:
        """Say what the probes of an estimate are: how the vectors are stored, and where they come from.

        Returns:
            Keyword arguments that every estimate of ``linalg`` takes.
        """
        return {
            "dtype": self._setup.vector_dtype,
            "device": self._setup.out.device,
            "budget": self.budget,
            "generator": self._common(generator),
        }

    def _common(self, generator: torch.Generator | None) -> torch.Generator | None:
        return current_team().seeded(generator, self._setup.out.device)

    def _extremes(
        self, which: str, k: int, tolerance: float | None, max_steps: int | None, generator: torch.Generator | None
    ) -> LanczosResult:
        device, dtype = self._setup.out.device, self._setup.vector_dtype
        with self._session() as (product, _):
            return lanczos(
                product,
                self.size,
                count=k,
                which="largest" if which == "largest" else "smallest",
                tolerance=_precision(self.dtype, dtype) if tolerance is None else tolerance,
                max_steps=max_steps,
                dtype=dtype,
                device=device,
                budget=self.budget,
                generator=torch.Generator(device).manual_seed(0) if generator is None else self._common(generator),
            )

    def _check(self, argument: str, vector: Tensor, *, columns: bool = False) -> None:
        check_tensor(argument, vector)
        if vector.ndim not in ((1, 2) if columns else (1,)) or vector.shape[0] != self.size:
            several = f" or ({self.size}, k)" if columns else ""
            raise ValueError(
                f"{argument} must have shape ({self.size},){several}, got {tuple(vector.shape)}; flatten the "
                "parameters in the order of .parameter_names."
            )
        if not vector.is_floating_point():
            raise TypeError(f"{argument} must be real floating point, got {vector.dtype}; pass {argument}.float().")


def _precision(model: torch.dtype, vectors: torch.dtype) -> float:
    return float(max(torch.finfo(model).eps, torch.finfo(vectors).eps) ** 0.5)
