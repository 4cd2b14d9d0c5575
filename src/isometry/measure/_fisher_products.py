"""Products with a Fisher matrix and with its dual, without any matrix: a push forward and a pull back each.

Paper: P. A. Sokol, I. M. Park. "Information Geometry of Orthogonal Initializations and Training." ICLR 2020.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vjp

from isometry.measure._fisher_setup import Setup
from isometry.measure._gram_general import transformable

__all__ = ["Products"]

Values = dict[str, Tensor]


class Products:
    """G v and T u for G = root^T root and its dual T = root root^T.

    The graph of one forward pass is kept for all products.

    In a ``data_parallel`` block each process keeps the graph of its share of the batch.

    Args:
        setup: The measurement.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup, self.share = setup, setup.share()
        self.out = setup.out[self.share.part]
        self.values: Values = {name: p.detach() for name, p in setup.plan.parameters.items()}
        self._pulled: Any = None
        self._pushed: Any = None

    def matvec(self, vector: Tensor) -> Tensor:
        """Multiply the Fisher matrix by a vector over the parameters.

        Returns:
            Shape (size,), in the vector's dtype.
        """
        with self.setup.measuring():
            pushed = self._push(self._split(vector))
            pulled = self._pull_back(self._metric(pushed))
        return self._total(pulled).to(vector.dtype)

    def dual_size(self) -> int:
        """Give the dual's dimension.

        Returns:
            Outputs times samples for the true kind (the softmax's zeros among them), rows times samples else.
        """
        return self.setup.out.numel() if self.setup.fixed is None else self.setup.rows * self.setup.plan.samples

    def dual_matvec(self, vector: Tensor) -> Tensor:
        """Multiply the dual by a vector over samples and outputs (or rows): vectors are short, however big the model.

        Returns:
            Shape (dual_size,), in the vector's dtype.
        """
        with self.setup.measuring():
            pulled = self._pull_back(self._root(vector))
            if self.share.team.size > 1:
                pulled = self._split(self._total(pulled))
            pushed = self._push(pulled)
        rows = self._root_transposed(pushed)  # samples first
        rows = self.share.team.gather(rows, self.setup.plan.samples, "a product with the dual")
        return (rows if self.setup.fixed is None else rows.T).flatten().to(vector.dtype)

    def root_norm_squared(self, weights: Tensor) -> float:
        """Compute |root^T u|^2 by one ordinary backward pass, each parameter's gradient dropped as soon as it is known.

        Args:
            weights: u, shape (V, N).

        Returns:
            The squared norm.
        """
        setup, team = self.setup, self.share.team
        cotangents = setup.cotangents(self.share.part)
        back = torch.einsum("vn,vn...->n...", weights[:, self.share.part].to(cotangents), cotangents)
        total = 0.0

        def drop(parameter: Tensor) -> None:
            nonlocal total
            if parameter.grad is not None:
                total += float(torch.linalg.vector_norm(parameter.grad, dtype=torch.float64)) ** 2
                parameter.grad = None

        with setup.measuring():
            chosen = {id(p) for p in setup.plan.parameters.values()}
            for parameter in setup.model.parameters():
                parameter.requires_grad_(id(parameter) in chosen)
            handles = [
                p.register_post_accumulate_grad_hook(drop)  # type: ignore[no-untyped-call]
                for p in setup.plan.parameters.values()
                if team.size == 1  # else the other processes' gradients are added first
            ]
            try:
                out = self.share.x.clone().run(setup.model)
                if out.requires_grad:
                    (out * back).sum().backward()  # type: ignore[no-untyped-call]
            finally:
                for handle in handles:
                    handle.remove()
            for name, parameter in setup.plan.parameters.items() if team.size > 1 else ():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                team.total(parameter.grad, f"the gradient of {name}")
                drop(parameter)
        return total

    def _function(self, values: Values) -> Tensor:
        return self.share.x.clone().run_with(self.setup.model, values)

    def _push(self, tangent: Values) -> Tensor:
        """Multiply by the Jacobian: as the transpose of the pull-back, which is linear, so that both agree to the bit.

        Forward mode, which needs one more pass, is for models with operations that can be differentiated only once.

        Returns:
            The output's shape.
        """
        with transformable():
            if self._pushed is None:
                try:
                    pull = self._pull_back_graph()
                    self._pushed = vjp(lambda u: pull(u)[0], torch.zeros_like(self.out))[1]
                except (RuntimeError, NotImplementedError):
                    return self._push_forward(tangent)
            try:
                result: Tensor = self._pushed(tangent, retain_graph=True)[0]
            except NotImplementedError:  # torch notices it only when the graph is used
                return self._push_forward(tangent)
            return result

    def _push_forward(self, tangent: Values) -> Tensor:
        try:
            pushed: Tensor = jvp(self._function, (self.values,), (tangent,))[1]
        except NotImplementedError as error:
            raise ValueError(
                "the model has an operation whose derivative can neither be differentiated again nor taken in forward "
                f"mode ({str(error).strip().splitlines()[0]}); use its plain form, or measure.fisher with dense=True, "
                "which needs only the first derivative."
            ) from error
        return pushed

    def _pull_back(self, cotangent: Tensor) -> Values:
        with transformable():
            values: Values = self._pull_back_graph()(cotangent, retain_graph=True)[0]
            return values

    def _pull_back_graph(self) -> Any:
        if self._pulled is None:
            self._pulled = vjp(self._function, self.values)[1]
        return self._pulled

    def _metric(self, t: Tensor) -> Tensor:
        """Multiply by the outputs' Hessian, over the number of samples or positions.

        Returns:
            The output's shape.
        """
        setup, part = self.setup, self.share.part
        if setup.fixed is not None:
            rows = setup.fixed[:, part]
            weighted: Tensor = torch.einsum("vn,vn...->n...", torch.einsum("vn...,n...->vn", rows, t), rows)
            return weighted
        if setup.likelihood == "gaussian":
            return setup.masked(t / setup.count, part)
        p = self.out.double().softmax(-1)
        scaled = p * t
        return setup.masked((scaled - p * scaled.sum(-1, keepdim=True)) / setup.count, part).to(t.dtype)

    def _root(self, u: Tensor) -> Tensor:
        setup, part = self.setup, self.share.part
        if setup.fixed is not None:
            weights = u.reshape(setup.rows, -1)[:, part].to(setup.fixed)
            mixed: Tensor = torch.einsum("vn,vn...->n...", weights, setup.fixed[:, part])
            return mixed
        shaped: Tensor = u.reshape(setup.out.shape)[part].double() / setup.count**0.5
        if setup.likelihood == "categorical":
            s: Tensor = (0.5 * self.out.double().log_softmax(-1)).exp()
            shaped = s * (shaped - s * (s * shaped).sum(-1, keepdim=True))  # R = diag(sqrt p) - p sqrt(p)^T
        return setup.masked(shaped, part).to(self.out.dtype)

    def _root_transposed(self, t: Tensor) -> Tensor:
        setup, part = self.setup, self.share.part
        if setup.fixed is not None:
            products: Tensor = torch.einsum("vn...,n...->nv", setup.fixed[:, part], t)
            return products
        shaped: Tensor = setup.masked(t.double() / setup.count**0.5, part)
        if setup.likelihood == "categorical":
            s: Tensor = (0.5 * self.out.double().log_softmax(-1)).exp()
            shaped = s * shaped
            shaped = shaped - s * (s * shaped).sum(-1, keepdim=True)
        return shaped

    def _split(self, vector: Tensor) -> Values:
        parts: tuple[Tensor, ...] = torch.split(vector, [value.numel() for value in self.values.values()])
        return {
            name: part.reshape(value.shape).to(value)
            for (name, value), part in zip(self.values.items(), parts, strict=True)
        }

    def _total(self, values: Values) -> Tensor:
        joined = torch.cat([values[name].reshape(-1) for name in self.values])
        return self.share.team.total(joined, "a product with the Fisher matrix")
