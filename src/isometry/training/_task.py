"""What a training run takes its steps on: samples, some at a time, or one whole graph in one piece."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from isometry._base import IGNORED, stream
from isometry.tape import Inputs

__all__ = ["Task"]


class Task:
    """What is trained on: samples that are taken some at a time, or one whole graph, which is run in one piece.

    Args:
        inputs: The samples, or the graph.
        targets: Their targets, or those of the graph's nodes.
    """

    def __init__(self, inputs: Inputs, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets
        self.nodes = _counted_nodes(inputs, targets) if inputs.whole else None

    @property
    def known(self) -> Tensor:
        """The targets, without those of nodes that do not count."""
        return self.targets if self.nodes is None else self.targets[self.nodes]

    def __len__(self) -> int:
        return len(self.known)

    def size(self, batch_size: int) -> int:
        """Count the samples of a step.

        Returns:
            The batch size, at most all of them; of a graph always all nodes that count.
        """
        return min(batch_size, len(self)) if self.nodes is None else len(self)

    def first(self, count: int) -> Task:
        """Take the first samples.

        Returns:
            Some of them; a graph stays whole.
        """
        return self if self.nodes is not None else Task(self.inputs[:count], self.targets[:count])

    def batches(self, batch_size: int, steps: int, seed: int) -> Iterator[Tensor | slice]:
        """Draw minibatches without replacement, epoch after epoch; a last incomplete one is left out.

        Returns:
            What ``run`` takes, once for each step.
        """
        if self.nodes is not None:
            return iter([slice(None)] * steps)
        return _batches(len(self), batch_size, steps, seed)

    def run(self, model: nn.Module, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Run the model.

        Args:
            model: The model.
            index: Which samples; of a graph always all nodes that count.

        Returns:
            Outputs and their targets.

        Raises:
            ValueError: If the outputs of a graph are not one row for each target.
        """
        if self.nodes is None:
            return self.inputs[index].run(model), self.targets[index]
        outputs = self.inputs.run(model)[0]
        if outputs.ndim < 2 or len(outputs) != len(self.targets):
            raise ValueError(
                f"the model gives outputs of shape {tuple(outputs.shape)} for a graph with {len(self.targets)} "
                "targets; both must have one row per node."
            )
        return outputs[self.nodes.to(outputs.device)], self.known


def _batches(count: int, batch_size: int, steps: int, seed: int) -> Iterator[Tensor]:
    draw = stream(seed, "minibatches")
    size = min(batch_size, count)
    done = 0
    while done < steps:
        order = torch.randperm(count, generator=draw)
        for start in range(0, count - size + 1, size):
            if done == steps:
                return
            done += 1
            yield order[start : start + size]


def _counted_nodes(graph: Inputs, targets: Tensor) -> Tensor:
    """Find the nodes of one whole graph that a loss is averaged over: those of its mask, with a label.

    Args:
        graph: The graph; its mask has shape (nodes,).
        targets: (nodes,) class indices, -100 where there is none; or real values, (nodes, K).

    Returns:
        Their numbers, on the targets' device.

    Raises:
        ValueError: If the mask does not fit the targets, or no node counts.
    """
    counted = graph.counted((1, len(targets)))
    kept = torch.ones(len(targets), dtype=torch.bool) if counted is None else counted[0].cpu()
    if not targets.is_floating_point() and targets.ndim == 1:
        kept = kept & (targets != IGNORED).cpu()
    if not bool(kept.any()):
        raise ValueError(f"mask and targets leave no node that counts ({IGNORED} stands for no label); mark some.")
    return kept.nonzero().flatten().to(targets.device)
