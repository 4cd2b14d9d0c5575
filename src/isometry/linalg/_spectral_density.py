"""The density of a symmetric operator's eigenvalues by stochastic Lanczos quadrature.

References:
    S. Ubaru, J. Chen, Y. Saad, Fast estimation of tr(f(A)) via stochastic Lanczos quadrature, SIAM J. Matrix Anal.
    Appl. 38(4), 2017.
    B. Ghorbani, S. Krishnan, Y. Xiao, An investigation into neural net optimization via Hessian eigenvalue density,
    ICML 2019. arXiv:1901.10159

Departures: (1) the kernel's width is by default the range over the number of steps, not a fixed part of the range;
(2) probes are random signs; (3) the density's mass and first two moments are compared with those of the probes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from isometry._base import Cost, Result, check_budget, check_finite, check_positive, check_tensor, progress, stopwatch
from isometry.linalg._precision import check_size
from isometry.linalg._probes import ProbedOperator, check_probes, mean_and_stderr

__all__ = ["SpectralDensity", "spectral_density"]

_MARGIN = 5  # widths of grid beyond the outermost nodes; a Gaussian has 3e-7 of its mass further out
_AGREEMENT = 1e-2  # what mass and moments of the curve may be off


@dataclass(frozen=True)
class SpectralDensity(Result):
    """The density of eigenvalues, smoothed by a Gaussian, with its error over the probes.

    Attributes:
        grid: Where the density is given, ascending, shape ``(points,)``, float64.
        density: Fraction of eigenvalues per unit of the axis, shape ``(points,)``.
        stderr: Its standard error over the probes, shape ``(points,)``.
        width: Standard deviation of the smoothing Gaussian: nothing finer is resolved.
        mass: The density's integral over the grid.
        mean: Mean eigenvalue tr(A) / size, from the probes' products themselves.
        mean_stderr: Its standard error.
        mean_square: Mean squared eigenvalue tr(A^2) / size, from the same products.
        mean_square_stderr: Its standard error.
        residual: The largest of three deviations of the curve: its mass from 1, its first moment from ``mean`` and its
            second, less the kernel's, from ``mean_square``, the moments relative to ``mean_square``.
        converged: Whether the residual is at most 1e-2: the grid holds the whole spectrum and resolves the kernel.
        lowest: The smallest node seen, a bound from inside on the smallest eigenvalue.
        highest: The largest node seen.
        steps: Lanczos steps, and nodes, per probe.
        probes: Random vectors drawn.
        size: The operator's dimension.
        dtype: The dtype of vectors and products.
        seed: All probes followed from it; drawn from the caller's generator.
        cost: What it took.
        nodes: The quadrature's nodes, shape ``(probes, steps)``, float64.
        weights: Their weights, of sum 1 for each probe.
    """

    grid: Tensor
    density: Tensor
    stderr: Tensor
    width: float
    mass: float
    mean: float
    mean_stderr: float
    mean_square: float
    mean_square_stderr: float
    residual: float
    converged: bool
    lowest: float
    highest: float
    steps: int
    probes: int
    size: int
    dtype: torch.dtype
    seed: int
    cost: Cost
    nodes: Tensor = field(repr=False)
    weights: Tensor = field(repr=False)

    def fraction(self, low: float = -math.inf, high: float = math.inf) -> tuple[float, float]:
        """Estimate which fraction of the eigenvalues lies in an interval, unsmoothed.

        Args:
            low: The interval's lower end, included.
            high: Its upper end, excluded.

        Returns:
            The fraction and its standard error over the probes. An end that cuts through a dense part of the spectrum
            adds an error of up to the weight of the nodes beside it.
        """
        inside = (self.nodes >= low) & (self.nodes < high)
        return mean_and_stderr((self.weights * inside).sum(1))

    def __str__(self) -> str:
        state = "agrees" if self.converged else "does NOT agree"
        return (
            f"density of {self.size} eigenvalues from {self.lowest:.4g} to {self.highest:.4g}, smoothed over "
            f"{self.width:.2g}\n"
            f"  mean {self.mean:.4g} +- {self.mean_stderr:.2g}, mean square {self.mean_square:.4g} +- "
            f"{self.mean_square_stderr:.2g}\n"
            f"  the curve {state} with its moments ({self.residual:.1e}), mass {self.mass:.4f}\n"
            f"  {self.probes} probes of {self.steps} steps, {self.cost.matvecs} products; {self.cost.seconds:.2g} s"
        )


def spectral_density(
    matvec: Callable[[Tensor], Tensor],
    size: int,
    *,
    steps: int = 50,
    probes: int = 8,
    grid: int | Tensor = 1024,
    width: float | None = None,
    block: int = 1,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    budget: int | None = None,
    generator: torch.Generator | None = None,
) -> SpectralDensity:
    """Estimate the density of the eigenvalues of a symmetric operator.

    Each probe v gives, by Lanczos with full reorthogonalization, the nodes and weights of the Gauss quadrature for its
    spectral measure, which integrates polynomials up to degree 2 steps - 1 exactly; the mean over random v is that of
    the eigenvalues. Isolated eigenvalues get nodes of their own, the bulk gets as many as are left.

    Args:
        matvec: The product with the operator: takes and returns shape ``(size,)``, or ``(size, block)`` if
            ``block > 1``.
        size: The operator's dimension.
        steps: Lanczos steps per probe; at most ``size`` are made.
        probes: Random vectors; the error falls with one over the root of their number times ``size``.
        grid: Where to give the density: a number of points, spread over the nodes' range and 5 widths beyond, or the
            points themselves, ascending.
        width: Standard deviation of the Gaussian that smooths the nodes; default: the nodes' range over ``steps``, at
            which a uniform bulk shows ripples below 0.1% (the mid-range distance of nodes is pi / 2 of that).
        block: Probes that go on together, one product with ``block`` vectors for each step.
        dtype: float32 or float64.
        device: Device of the vectors.
        budget: Bytes that the bases may take; default: the package's.
        generator: Source of randomness; torch's global one by default.

    Returns:
        The density with error bars, and its own check against the moments.

    Raises:
        TypeError: If ``grid`` is neither a number nor a tensor.
        ValueError: If a number is out of range, the grid is not ascending, or the operator is visibly not symmetric.

    Example:
        >>> a = torch.diag(torch.tensor([1.0, 1.0, 1.0, 5.0], dtype=torch.float64))
        >>> result = spectral_density(lambda v: a @ v, 4)
        >>> round(result.fraction(4, 6)[0], 6), result.converged
        (0.25, True)
    """
    check_size("steps", steps)
    check_probes(probes)
    check_size("block", block)
    if width is not None:
        check_positive("width", width)
    if isinstance(grid, Tensor):
        points = check_finite("grid", check_tensor("grid", grid, ndim=1)).double().cpu()
        if len(points) < 2 or not bool((points.diff() > 0).all()):
            raise ValueError("grid must hold at least two ascending points; sort it and drop what occurs twice.")
    elif isinstance(grid, bool) or not isinstance(grid, int):
        raise TypeError(f"grid must be a number of points or a tensor of them, got {type(grid).__name__}.")
    elif grid < 2:
        raise ValueError(f"grid must have at least 2 points, got {grid}.")
    operator = ProbedOperator(matvec, size, block=block, dtype=dtype, device=device, generator=generator)
    steps = min(steps, operator.size)
    needed = check_budget(
        min(block, probes) * (steps + 4) * size * dtype.itemsize,
        budget,
        what=f"a Lanczos basis of {steps} vectors of {size} entries for {min(block, probes)} probes at a time",
        instead="Pass fewer steps= or a smaller block=,",
    )
    with torch.no_grad(), stopwatch() as watch:
        parts = []
        for done in range(0, probes, block):
            progress("spectral density", done, probes)
            parts.append(_quadrature(operator, operator.signs(min(block, probes - done)), steps))
        progress("spectral density", probes, probes)
        nodes, weights, first, second = (torch.cat(column) for column in zip(*parts, strict=True))
    mean, mean_stderr = mean_and_stderr(first)
    square, square_stderr = mean_and_stderr(second)
    seen = nodes[weights > 0]  # where a Krylov space closed early, the remaining nodes have no weight
    lowest, highest = float(seen.min()), float(seen.max())
    scale = max(abs(lowest), abs(highest))
    if width is None:
        # All eigenvalues alike: any narrow kernel will do.
        width = max((highest - lowest) / steps, 1e-3 * scale) or 1.0
    if not isinstance(grid, Tensor):
        points = torch.linspace(lowest - _MARGIN * width, highest + _MARGIN * width, grid, dtype=torch.float64)
    curves = _smoothed(nodes, weights, points, width)
    density = curves.mean(0)
    mass = float(torch.trapezoid(density, points))
    # The kernel adds width^2 to the second moment.
    off_mean = abs(float(torch.trapezoid(density * points, points)) - mean)
    off_square = abs(float(torch.trapezoid(density * points**2, points)) - width**2 - square)
    unit = square or 1.0
    residual = max(abs(mass - 1), off_mean / math.sqrt(unit), off_square / unit)
    return SpectralDensity(
        grid=points,
        density=density,
        stderr=curves.std(0) / math.sqrt(probes),
        width=width,
        mass=mass,
        mean=mean,
        mean_stderr=mean_stderr,
        mean_square=square,
        mean_square_stderr=square_stderr,
        residual=residual,
        converged=residual <= _AGREEMENT,
        lowest=lowest,
        highest=highest,
        steps=steps,
        probes=probes,
        size=size,
        dtype=dtype,
        seed=operator.seed,
        cost=Cost(matvecs=operator.matvecs, bytes=needed, seconds=watch.seconds),
        nodes=nodes,
        weights=weights,
    )


def _quadrature(operator: ProbedOperator, rows: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run Lanczos from every row.

    Returns:
        Nodes and weights, shape ``(b, steps)``, and v^T A v and |A v|^2 of the unit probes, shape ``(b,)``; on the CPU.

    Raises:
        ValueError: If the operator is visibly not symmetric.
    """
    count = len(rows)
    basis = torch.zeros(count, steps, operator.size, dtype=operator.dtype, device=operator.device)
    T = torch.zeros(count, steps, steps, dtype=torch.float64)
    q = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    norms = torch.zeros(count, dtype=torch.float64)
    beta = torch.zeros(count, dtype=torch.float64)
    first, second = torch.zeros(0), torch.zeros(0)
    for step in range(steps):
        basis[:, step] = q
        products = operator.times(q)
        lengths = products.square().sum(1, dtype=torch.float64).cpu()
        norms = torch.maximum(norms, lengths.sqrt())
        if step == 0:
            first, second = (q * products).sum(1, dtype=torch.float64).cpu(), lengths
        held = basis[:, : step + 1]
        coefficients = torch.zeros(count, step + 1, 1, dtype=operator.dtype, device=operator.device)
        rest = products.unsqueeze(2)
        for _ in range(2):  # twice is enough
            part = held @ rest
            rest = rest - held.mT @ part
            coefficients += part
        h = coefficients.squeeze(2).double().cpu()
        if step and bool(((h[:, -2] - beta).abs() > 1e-2 * norms).any()):
            raise ValueError(
                "matvec is not a symmetric operator: products with two vectors contradict each other by more than 1% "
                "of its norm; pass the product with (A + A^T) / 2."
            )
        T[:, step, step] = h[:, -1]
        if step == steps - 1:
            break
        beta = torch.linalg.vector_norm(rest, dim=1).squeeze(1).double().cpu()
        # A probe whose Krylov space has closed goes on with zeros: nodes of no weight.
        beta = torch.where(beta <= 50 * torch.finfo(operator.dtype).eps * norms, 0.0, beta)
        if not bool(beta.any()):
            break
        T[:, step, step + 1] = T[:, step + 1, step] = beta
        inverse = torch.where(beta > 0, 1 / beta, 0.0).to(rest)
        q = rest.squeeze(2) * inverse[:, None]
    nodes, vectors = torch.linalg.eigh(T)
    return nodes, vectors[:, 0].square(), first, second


def _smoothed(nodes: Tensor, weights: Tensor, points: Tensor, width: float) -> Tensor:
    """Put a Gaussian of each node's weight at the node.

    Returns:
        One curve per probe, shape ``(probes, points)``.
    """
    curves = []
    for its_nodes, its_weights in zip(nodes, weights, strict=True):
        shift = (points[:, None] - its_nodes) / width
        curves.append((-0.5 * shift**2).exp() @ its_weights / (width * math.sqrt(2 * math.pi)))
    return torch.stack(curves)
