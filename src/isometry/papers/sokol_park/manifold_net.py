"""A net of claim 4 in training, with three groups of parameters as in the paper.

Biases and readout by Adam; the scales s_l of W^l = s_l Q^l by Adam; Q^l by Riemannian Adam, its steps multiplied by
sqrt(numel / columns). On the oblique manifold the loss gains rho sum_l |Q^T Q - I|_F^2. Float32.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

import isometry as iso
from isometry.papers.sokol_park.manifold_task import SETTINGS, Choice, Kind, device, hidden_matrix, start, task

PROBE, SEEN = 60, 10**4  # images for the Fisher information and the Jacobian; for losses, at most
STATISTICS = ("train_loss", "held_out_loss", "test_accuracy", "lambda_max", "s_max")


class Net:
    """A net in training, with its optimizer."""

    def __init__(self, scale: str, kind: Kind, q: str, seed: int, choice: Choice) -> None:
        self.setting, self.rho, self.diverged = SETTINGS[scale], choice.rho, False
        self.inputs, self.labels = task(scale).inputs[q], task(scale).labels
        self.model = copy.deepcopy(start(scale, kind, q, seed)).to(device(scale))
        self.order = torch.Generator().manual_seed(seed)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.constraints = list(iso.manifolds.constraints(self.model).values())
        matrices = [p for name, p in self.model.named_parameters() if hidden_matrix(name)]
        others = [p for name, p in self.model.named_parameters() if not hidden_matrix(name)]
        on = {"params": [p for p in matrices if p.requires_grad], "lr": choice.rate}
        off = {"params": others, "lr": choice.others}
        if self.constraints:
            on |= {"step_scale": "rows", "scale_lr": self.setting.share * choice.others}
            self.optimizer: torch.optim.Optimizer = iso.optim.RiemannianAdam([on, off])
        else:
            self.optimizer = torch.optim.Adam([on, off])

    def train(self, epochs: int) -> None:
        """Take steps on whole batches, until a gradient is no longer finite."""
        x, y, size = self.inputs[0], self.labels[0], self.setting.batch
        for _ in range(epochs):
            order = torch.randperm(len(x), generator=self.order).to(x.device)
            for rows in order[: len(x) // size * size].view(-1, size):
                if self.diverged:
                    return
                loss = nn.functional.cross_entropy(self.model(x[rows]), y[rows])
                if self.rho:
                    loss = loss + self.rho * self.penalty()
                self.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
                self.diverged = not bool(norm.isfinite())
                if not self.diverged:
                    self.optimizer.step()

    def penalty(self) -> Tensor:
        """Sum |Q^T Q - I|_F^2 over the layers; Q is W over its scale, upright, so that s feels nothing of it.

        Returns:
            A scalar.
        """
        stacks: dict[tuple[int, ...], list[Tensor]] = {}
        for constraint in self.constraints:
            matrix = constraint.matrix(constraint.parameter)
            stacks.setdefault(tuple(matrix.shape), []).append(matrix)
        terms = []
        for matrices in stacks.values():
            w = torch.cat(matrices)
            q = w * math.sqrt(w.shape[-1]) / w.norm(dim=(-2, -1), keepdim=True)
            terms.append(iso.nn.orthogonality_penalty(q, batch_dims=1))
        return torch.stack(terms).sum()

    @torch.no_grad()
    def loss(self, part: int) -> float:
        """Evaluate the loss on at most SEEN images.

        Returns:
            The mean cross-entropy.
        """
        x, y = self.inputs[part][:SEEN], self.labels[part][:SEEN]
        return float(nn.functional.cross_entropy(self.model(x), y))

    def lambda_max(self, rows: slice) -> float:
        """Measure the empirical Fisher information of the hidden layers, as the paper does.

        Returns:
            Its largest eigenvalue.
        """
        x, y = self.inputs[0][rows], self.labels[0][rows]
        return iso.measure.fisher(self.model, x, targets=y, kind="empirical", params="hidden").lambda_max

    def statistics(self) -> dict[str, float]:
        """Measure the net as it is.

        Returns:
            Losses and the rest by name; NaN after divergence.
        """
        if self.diverged:
            return dict.fromkeys(STATISTICS, math.nan)
        with torch.no_grad():
            right = self.model(self.inputs[2]).argmax(1) == self.labels[2]
        radius = iso.measure.jacobian(self.model, self.inputs[0][:PROBE]).spectrum().s_max
        return {
            "train_loss": self.loss(0),
            "held_out_loss": self.loss(1),
            "test_accuracy": float(right.double().mean()),
            "lambda_max": self.lambda_max(slice(0, PROBE)),
            "s_max": float(radius.mean()),
        }
