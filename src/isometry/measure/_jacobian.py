"""Input-output Jacobians of a model, or of the part of it between two modules: whole spectra, extremes, products.

References:
    J. Pennington, S. S. Schoenholz, S. Ganguli. Resurrecting the sigmoid in deep learning through dynamical isometry,
    2017. https://arxiv.org/abs/1711.04735
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from isometry import linalg
from isometry._base import DEFAULT_BUDGET, Cost, check_budget, check_tensor, progress, stopwatch
from isometry.measure._guards import check_inputs, check_model, check_per_sample
from isometry.measure._jacobian_dense import dense_blocks, sweep_bytes
from isometry.measure._jacobian_path import Path, opened
from isometry.measure._jacobian_result import JacobianExtremes, JacobianSpectrum
from isometry.tape import untouched

__all__ = ["Jacobian", "jacobian"]

_REMEDY = "Pass training=False to measure in evaluation mode, or call model.eval()."


@dataclass(frozen=True, eq=False)
class Jacobian:
    """The Jacobians of a model at a batch of inputs; nothing is computed before a method asks for it.

    Each method runs the model once and leaves no trace on it. If the model's parameters have changed since the
    Jacobian was asked for, the methods refuse; a spectrum that is already computed stays.

    Attributes:
        start: The module at whose output the path starts; None for the model's input.
        stop: The module at whose output it ends; None for the model's output.
        inputs: Number of inputs, N.
        in_shape: Shape of what enters the path, for one input.
        out_shape: Shape of what leaves it.
        is_chain: Whether the path is a chain of linear layers and elementwise functions, which takes the fast route.
        dtype: The dtype of the products.
        budget: Bytes that dense results may take; None for the package's default.
    """

    start: str | None
    stop: str | None
    inputs: int
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    is_chain: bool
    dtype: torch.dtype
    budget: int | None
    _model: nn.Module = field(repr=False)
    _x: Tensor = field(repr=False)
    _training: bool | None = field(repr=False)
    _widest: int = field(repr=False)
    _versions: tuple[tuple[int, int], ...] = field(repr=False)
    _kept: dict[str, JacobianSpectrum] = field(default_factory=dict, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of one Jacobian, all dimensions but the batch flattened."""
        return math.prod(self.out_shape), math.prod(self.in_shape)

    def matrix(self) -> Tensor:
        """Form the Jacobians.

        Returns:
            Shape ``(N, out, in)``.

        Raises:
            MemoryBudgetError: If they do not fit the budget.
        """
        out, inp = self.shape
        check_budget(
            2 * self.inputs * out * inp * self.dtype.itemsize + self._sweep(self.inputs),
            self.budget,
            what=f"The {self.inputs} dense Jacobians of {out} x {inp}",
            instead="Use .extremes(), .matvec() and .rmatvec(), which form no matrix, pass fewer inputs,",
        )
        with self._open(self._x) as path:
            return torch.cat([block for _, block in dense_blocks(path, self.dtype)])

    def singular_values(self) -> Tensor:
        """Compute all singular values at every input, exactly.

        Returns:
            Shape ``(N, min(out, in))``, descending, float64: the ``values`` of ``spectrum()``.
        """
        return self.spectrum().values

    def spectrum(self) -> JacobianSpectrum:
        """Compute all singular values at every input, with what is to know about them.

        The Jacobians are formed for as many inputs at a time as the budget allows, from the narrower side (in or
        out), and decomposed in float64.

        Returns:
            The values and their check; kept for the next call.

        Raises:
            ValueError: If a Jacobian is not finite.
            MemoryBudgetError: If not even one Jacobian fits the budget.
        """
        if "spectrum" not in self._kept:
            self._kept["spectrum"] = self._spectrum()
        return self._kept["spectrum"]

    def extremes(
        self,
        *,
        which: Literal["largest", "smallest", "both"] = "both",
        count: int = 1,
        tolerance: float | None = None,
        max_steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> JacobianExtremes:
        """Compute extreme singular values at every input without forming a Jacobian.

        Largest values converge in a few steps; smallest ones may take as many as the narrower side has units.

        Args:
            which: ``"largest"``, ``"smallest"`` or ``"both"``.
            count: How many at each wanted end.
            tolerance: Residual that is small enough, relative to the largest singular value; default: square root of
                the products' epsilon.
            max_steps: Most steps per input, of two products each.
            generator: Source of the starting vectors.

        Returns:
            The values with residuals; ``converged`` is False where the steps ran out.
        """
        found = []
        dtype = self.dtype if self.dtype == torch.float64 else torch.float32
        with stopwatch() as watch:
            for index in range(self.inputs):
                with self._open(self._x[index : index + 1]) as path:
                    found.append(
                        linalg.golub_kahan(
                            self._product(path, "push", dtype),
                            self._product(path, "pull", dtype),
                            self.shape,
                            count=count,
                            which=which,
                            tolerance=tolerance,
                            max_steps=max_steps,
                            dtype=dtype,
                            device=self._x.device,
                            generator=generator,
                        )
                    )
                progress("Jacobian's extremes", index + 1, self.inputs)
        return JacobianExtremes(
            values=torch.stack([f.values for f in found]),
            residuals=torch.stack([f.residuals for f in found]),
            which=which,
            shape=self.shape,
            start=self.start,
            stop=self.stop,
            converged=all(f.converged for f in found),
            dtype=self.dtype,
            cost=Cost(forward_passes=1, matvecs=sum(f.cost.matvecs for f in found), seconds=watch.seconds),
        )

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply the Jacobian at each input by its own vector.

        Args:
            v: Shape ``(N, *in_shape)``, or ``(N, in)`` flattened.

        Returns:
            Shape ``(N, *out_shape)``.
        """
        rows = self._vectors("v", v, self.in_shape)
        with self._open(self._x) as path:
            return self._times(path, rows, "push").reshape(self.inputs, *self.out_shape)

    def rmatvec(self, u: Tensor) -> Tensor:
        """Multiply the transposed Jacobian at each input by its own vector.

        Args:
            u: Shape ``(N, *out_shape)``, or ``(N, out)`` flattened.

        Returns:
            Shape ``(N, *in_shape)``.
        """
        rows = self._vectors("u", u, self.out_shape)
        with self._open(self._x) as path:
            return self._times(path, rows, "pull").reshape(self.inputs, *self.in_shape)

    def __str__(self) -> str:
        if "spectrum" in self._kept:
            return str(self._kept["spectrum"])
        here = "the input" if self.start is None else self.start
        there = "the output" if self.stop is None else self.stop
        out, inp = self.shape
        return f"Jacobian from {here} to {there}, {out} x {inp}, at {self.inputs} inputs (not computed yet)"

    def _spectrum(self) -> JacobianSpectrum:
        out, inp = self.shape
        # A Jacobian with its product's buffer, and in float64 with the scaled and LAPACK's own copy.
        one = check_budget(
            out * inp * (2 * self.dtype.itemsize + 3 * 8) + self._sweep(1),
            self.budget,
            what=f"The singular values of one {out} x {inp} Jacobian",
            instead="Use .extremes(), which forms no matrix,",
        )
        at_once = min(self.inputs, (DEFAULT_BUDGET if self.budget is None else self.budget) // one)
        parts: list[linalg.SingularValues] = []
        route, done = "", 0
        with stopwatch() as watch:
            for begin in range(0, self.inputs, at_once):
                with self._open(self._x[begin : begin + at_once]) as path:
                    for route, block in dense_blocks(path, self.dtype):  # noqa: B007 - the last one is reported
                        _insist_on_finite(block, done)
                        parts.append(linalg.svdvals(block.double()))
                        done += len(block)
                        progress("Jacobian", done, self.inputs)
        values = torch.cat([part.values for part in parts])
        return JacobianSpectrum(
            values=values,
            shape=self.shape,
            start=self.start,
            stop=self.stop,
            route=route,
            resolution=values[:, 0] * torch.finfo(self.dtype).eps * math.sqrt(max(out, inp)),
            residual=max(part.residual for part in parts),
            converged=all(part.converged for part in parts),
            dtype=self.dtype,
            cost=Cost(
                forward_passes=1,
                backward_passes=inp if route.endswith("forward") else out,
                bytes=one * at_once,
                seconds=watch.seconds,
            ),
        )

    @contextmanager
    def _open(self, x: Tensor) -> Iterator[Path]:
        if _versions(self._model) != self._versions:
            raise RuntimeError(
                "the model's parameters have changed since this Jacobian was asked for; call measure.jacobian again."
            )
        with opened(self._model, x, self.start, self.stop, training=self._training) as path:
            yield path

    def _product(self, path: Path, way: Literal["push", "pull"], dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        return lambda vector: self._times(path, vector[None, None], way)[0, 0].to(dtype)

    def _times(self, path: Path, rows: Tensor, way: Literal["push", "pull"]) -> Tensor:
        if path.chain is not None:
            chain = path.chain.to(self.dtype)
            return (chain.push if way == "push" else chain.pull)(rows.to(self.dtype))
        return (path.push if way == "push" else path.pull)(rows.to(path.leaf.dtype))

    def _vectors(self, argument: str, given: Tensor, shape: tuple[int, ...]) -> Tensor:
        tensor = check_tensor(argument, given)
        if tensor.shape not in ((self.inputs, *shape), (self.inputs, math.prod(shape))):
            raise ValueError(
                f"{argument} must have shape {(self.inputs, *shape)}, one vector per input, got {tuple(tensor.shape)}."
            )
        return tensor.detach().to(self._x.device).reshape(self.inputs, 1, -1)

    def _sweep(self, inputs: int) -> int:
        return sweep_bytes(self.shape, self._widest, inputs, self.dtype.itemsize)


def jacobian(
    model: nn.Module,
    x: Tensor,
    start: str | None = None,
    stop: str | None = None,
    *,
    training: bool | None = None,
    dtype: torch.dtype | None = None,
    budget: int | None = None,
) -> Jacobian:
    """Prepare the Jacobians of a model, or of a part of it, at each input of a batch.

    The path runs from the *output* of ``start`` to the *output* of ``stop``. With ``h^l = W^l x^(l-1) + b^l`` and
    ``x^l = phi(h^l)``, a path between two linear layers is ``W^m D^(m-1) W^(m-1) ... W^(l+1) D^l``: the slopes at the
    start are in it, the weights of the start are not. Between two activations it is ``D^m W^m ... D^(l+1) W^(l+1)``.
    If the stop also depends on the input around the start, that other way is held fixed.

    Args:
        model: Any module that returns one tensor.
        x: Inputs, the batch as the first dimension. Samples must not influence each other.
        start: Qualified name of the module at whose output the path starts; None for the model's input.
        stop: Qualified name of the module at whose output it ends; None for the model's output.
        training: Measure in training mode, in evaluation mode, or (None) in the modes that the model is in. Batch
            normalization and dropout in training mode have no Jacobian per input and are refused.
        dtype: The dtype of the products, for chains of linear layers and elementwise functions; default: the model's,
            at least float32. float64 resolves singular values down to 1e-16 of the largest at double the cost.
        budget: Bytes that dense results may take; None for the package's default.

    Returns:
        An object with ``singular_values()``, ``spectrum()``, ``extremes()``, ``matrix()``, ``matvec()`` and
        ``rmatvec()``.

    Raises:
        TypeError: If the model is no module, a name no string, the input no tensor, or a module on the path's ends
            returns no single real-valued tensor.
        ValueError: If the inputs are empty, not finite or do not fit the model; if a name is unknown (near matches
            are listed) or its module is not called exactly once; if the stop does not depend on the start; or if
            samples influence each other or chance influences them.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2, bias=False))
        >>> path = jacobian(model, torch.zeros(1, 3), start="1")
        >>> bool(torch.allclose(path.matrix()[0], model[2].weight))
        True
    """
    check_model(model)
    inputs = check_inputs(model, x)
    if start is None and not inputs.is_floating_point():
        raise ValueError(
            f"x has dtype {inputs.dtype}, so nothing can be differentiated with respect to it; name the module after "
            "whose output to start (start=), an embedding for example."
        )
    if start is not None and start == stop:
        raise ValueError(f"start and stop are both {start!r}; name two modules, or leave one of them out.")
    with untouched(model, training=training):
        check_per_sample(model, "the Jacobian of one input is", _REMEDY)
    with opened(model, inputs, start, stop, training=training, twice=True) as path:
        _insist_on_independence(path)
        return Jacobian(
            start=start,
            stop=stop,
            inputs=len(inputs),
            in_shape=path.in_shape,
            out_shape=path.out_shape,
            is_chain=path.chain is not None,
            dtype=_dtype(path, dtype),
            budget=budget,
            _model=model,
            _x=inputs.clone(),
            _training=training,
            _widest=path.widest,
            _versions=_versions(model),
        )


def _dtype(path: Path, wanted: torch.dtype | None) -> torch.dtype:
    own = path.leaf.dtype
    if wanted is None:
        return torch.promote_types(own, torch.float32) if path.chain is not None else own
    if wanted not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {wanted}.")
    if path.chain is None and wanted != own:
        raise ValueError(
            f"dtype {wanted} was asked for, but this path is no chain of linear layers and elementwise functions, so "
            f"its products are made in the model's {own}; convert the model and the inputs instead."
        )
    return wanted


def _insist_on_independence(path: Path) -> None:
    """See that a cotangent of the first input reaches no other.

    Raises:
        ValueError: If it does.
    """
    if len(path.leaf) < 2:
        return
    cotangent = torch.zeros_like(path.output)
    cotangent[0] = torch.randn(path.output.shape[1:], generator=torch.Generator().manual_seed(1)).to(cotangent)
    (image,) = torch.autograd.grad(path.output, path.leaf, cotangent, retain_graph=True)
    if bool((image[1:] != 0).any()) and bool(image.isfinite().all()):
        raise ValueError(
            f"samples influence each other: the first one's output depends on the others' inputs, so there is no "
            f"Jacobian per input. {_REMEDY}"
        )


def _insist_on_finite(block: Tensor, before: int) -> None:
    bad = (~block.isfinite()).flatten(1).any(1).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"the Jacobian at input {before + int(bad[0])} is not finite; measure.signal says in which layer values or "
            "gradients overflow."
        )


def _versions(model: nn.Module) -> tuple[tuple[int, int], ...]:
    return tuple((id(p), -1 if p.is_inference() else p._version) for p in model.parameters())
