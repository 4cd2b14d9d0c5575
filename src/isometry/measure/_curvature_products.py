"""Products with the Hessian or the Gauss-Newton matrix of a batch's loss, chunk of samples by chunk of samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from isometry._base import fingerprint
from isometry.measure._curvature_graph import ChunkGraph, LossHessian
from isometry.measure._curvature_setup import CurvatureSetup

__all__ = ["CurvatureKind", "CurvatureProducts"]

CurvatureKind = Literal["hessian", "gauss-newton"]


class CurvatureProducts:
    """H v for H the Hessian, or G v for G = J^T H_L J, with J the outputs' Jacobian and H_L the loss's Hessian in them.

    A mean over samples is summed over chunks. Any other loss ties the samples together through H_L alone, so the
    chunks are run twice: J v of all of them, then H_L at the whole batch, then back.

    Args:
        setup: The measurement.
        kind: Which matrix.
    """

    def __init__(self, setup: CurvatureSetup, kind: CurvatureKind) -> None:
        self._setup, self._kind = setup, kind
        self._parameters = list(setup.parameters.values())
        self._kept: tuple[slice, ChunkGraph, LossHessian | None] | None = None
        self._samples_run = 0

    def rows(self, rows: Tensor, *, keep_graph: bool = False) -> Tensor:
        """Multiply rows by the matrix.

        Args:
            rows: Shape ``(k, size)``.
            keep_graph: Keep the graph for the next call, if the batch is one chunk.

        Returns:
            Shape ``(k, size)``, in the rows' dtype.
        """
        setup, team = self._setup, self._setup.team
        if team.size > 1:
            team.agree(f"vectors with checksum {fingerprint([rows])}")
        with setup.measuring():
            vectors = self._split(rows.detach())
            total = torch.zeros_like(rows)
            if setup.criterion.separable or setup.chunk == setup.samples:
                for part in setup.parts:
                    graph, loss = self._graph(part)
                    if loss is not None:
                        total += graph.pull(loss.times(graph.push(vectors)))
                    else:
                        total += graph.hessian(self._share(part), vectors)
                    if keep_graph and len(setup.parts) == 1:
                        self._kept = part, graph, loss
            else:
                self._whole_batch(vectors, total)
        return team.total(total, "a product with the curvature")

    @property
    def passes(self) -> int:
        """Forward passes over the whole batch so far, each with the backward pass of its gradient."""
        setup = self._setup
        return self._samples_run // setup.team.shares(setup.samples)[setup.team.rank]

    @property
    def keeps(self) -> bool:
        """Whether a graph is being kept."""
        return self._kept is not None

    def release(self) -> None:
        """Drop the kept graph, if there is one."""
        self._kept = None

    def gradient(self) -> tuple[float, float, tuple[str, ...]]:
        """Compute the loss and the length of its gradient.

        Returns:
            Both, and the names of parameters that the outputs do not depend on.

        Raises:
            ValueError: If the loss is random, or does not depend on the outputs.
        """
        setup = self._setup
        with setup.measuring():
            leaf = setup.out.detach().clone().requires_grad_()
            value = setup.criterion(leaf, setup.y)
            if not value.requires_grad:
                raise ValueError(
                    f"loss {setup.criterion.name} does not depend on the model's outputs through differentiable "
                    "operations; look for .detach(), argmax or .item() in it."
                )
            if float(setup.criterion(leaf, setup.y).detach()) != float(value.detach()):
                raise ValueError(f"loss {setup.criterion.name} is random: two calls differ. Fix its randomness.")
            (back,) = torch.autograd.grad(value, leaf)
            total = [torch.zeros_like(p) for p in self._parameters]
            reached = [False] * len(total)
            for part in setup.parts:
                found = torch.autograd.grad(setup.run(part), self._parameters, back[part], allow_unused=True)
                for index, grad in enumerate(found):
                    if grad is not None:
                        reached[index] = True
                        total[index] += grad
            hits = setup.team.total(torch.tensor(reached, dtype=torch.int64), "which parameters have a gradient")
            reached = (hits > 0).tolist()
            for name, grad in zip(setup.parameters, total, strict=True):
                setup.team.total(grad, f"the gradient of {name}")
        squares = sum(float(torch.linalg.vector_norm(t, dtype=torch.float64)) ** 2 for t in total)
        unused = tuple(name for name, hit in zip(setup.parameters, reached, strict=True) if not hit)
        return float(value.detach()), squares**0.5, unused

    def asymmetry(self) -> float:
        """Compare u^T H v with v^T H u for random u and v: a check on every second derivative on the way.

        Returns:
            The difference, relative to what either is expected to be: |u| |H v| / sqrt(size).
        """
        setup = self._setup
        # A fixed draw: the check must not touch anybody's random numbers.
        draw = torch.randn(2, setup.size, dtype=setup.vector_dtype, generator=torch.Generator().manual_seed(0))
        rows = draw.to(setup.out.device)
        products = self.rows(rows)
        sides = torch.linalg.vecdot(rows, products.flip(0))
        lengths = torch.linalg.vector_norm(rows, dim=1) * torch.linalg.vector_norm(products.flip(0), dim=1)
        scale = float(lengths.max()) / setup.size**0.5
        return abs(float(sides[0] - sides[1])) / scale if scale > 0 else 0.0

    def _graph(self, part: slice) -> tuple[ChunkGraph, LossHessian | None]:
        if self._kept is not None and self._kept[0] == part:
            return self._kept[1:]
        graph = self._fresh(part)
        loss = LossHessian(self._share(part), graph.out) if self._kind == "gauss-newton" else None
        return graph, loss

    def _fresh(self, part: slice) -> ChunkGraph:
        self._samples_run += part.stop - part.start
        return ChunkGraph(self._setup.run(part), self._parameters, self._setup.graph_bytes)

    def _share(self, part: slice) -> Callable[[Tensor], Tensor]:
        """Give what a chunk contributes to the loss of the batch, as a function of its outputs.

        Returns:
            The function.
        """
        setup = self._setup
        if setup.chunk == setup.samples:
            return lambda out: setup.criterion(out, setup.y)
        targets = setup.y[part]
        return lambda out: setup.criterion(out, targets, setup.y)

    def _whole_batch(self, vectors: list[Tensor], total: Tensor) -> None:
        setup = self._setup
        loss = LossHessian(lambda out: setup.criterion(out, setup.y), setup.out)
        own = torch.cat([self._fresh(part).push(vectors) for part in setup.parts], 1)
        pushed = setup.team.gather(own.transpose(0, 1), setup.samples, "products with the Jacobian").transpose(0, 1)
        back = loss.times(pushed)
        for part in setup.parts:
            graph = self._fresh(part)
            total += graph.pull(back[:, part])
            if self._kind == "hessian":
                fixed = loss.gradient[part]
                total += graph.hessian(_weighted_sum(fixed), vectors)

    def _split(self, rows: Tensor) -> list[Tensor]:
        parts = torch.split(rows, [p.numel() for p in self._parameters], 1)
        return [r.reshape(len(rows), *p.shape).to(p.dtype) for r, p in zip(parts, self._parameters, strict=True)]


def _weighted_sum(weights: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda out: (out * weights).sum()
