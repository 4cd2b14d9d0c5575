"""Gradients of the nodes of one whole graph: each node's own loss, differentiated through the forward pass they share.

Nodes exchange messages, so none has a forward pass of its own; its loss has a gradient all the same. One forward pass
serves all of them, and one backward pass each.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from isometry._base import IGNORED
from isometry.measure._confusion_loss import Loss, SampleLoss, loss_and_cotangents, nonfinite_samples, resolve_loss
from isometry.measure._guards import run_model
from isometry.tape import Inputs, untouched

__all__ = ["node_gradients", "resolve_nodes"]


def resolve_nodes(model: nn.Module, x: Inputs, loss: Loss, y: object) -> tuple[SampleLoss, Tensor, Tensor]:
    """Check the loss and the targets of a whole graph, and find the nodes that count.

    Args:
        model: Maps the graph to one row of outputs per node.
        x: One whole graph, perhaps with a mask of shape (nodes,).
        loss: A name, a callable of one node's outputs and target, or None.
        y: Targets, (nodes,) or (nodes, K).

    Returns:
        The loss, the targets, and the numbers of the nodes that count: those of the mask, with a label.

    Raises:
        ValueError: If the outputs have no row per node, the targets or the mask do not fit them, or no node counts.
    """
    with untouched(model), torch.no_grad():
        shape = tuple(run_model(model, x.clone()).shape)
    if len(shape) < 3:
        raise ValueError(
            f"model returned shape {shape[1:]} for the whole graph; gradients of nodes need one row of outputs per "
            "node, (nodes, outputs). Of several graphs with one row each, pass the graphs as samples."
        )
    if isinstance(y, Tensor) and tuple(y.shape[:2]) == shape[:2]:
        y = y[0]  # with the dimension of the one sample in front, as the measured outputs have it
    if isinstance(y, Tensor) and (y.ndim == 0 or len(y) != shape[1]):
        raise ValueError(
            f"y has shape {tuple(y.shape)} but the graph has {shape[1]} nodes; pass one target per node (a mask of the "
            f"inputs, or the label {IGNORED}, leaves nodes out)."
        )
    chosen, targets = resolve_loss(loss, y, shape[1])
    mask = x.counted(shape[:2])
    counted = torch.ones(shape[1], dtype=torch.bool) if mask is None else mask[0].cpu()
    if chosen.name == "cross-entropy" and targets.ndim == 1:
        counted = counted & (targets != IGNORED).cpu()
    if not bool(counted.any()):
        raise ValueError(f"mask and y leave no node that counts ({IGNORED} stands for no label); mark at least two.")
    return chosen, targets, counted.nonzero().flatten()


def node_gradients(
    model: nn.Module, x: Inputs, y: Tensor, loss: SampleLoss, parameters: dict[str, nn.Parameter], nodes: Tensor
) -> Callable[[Tensor], tuple[float, torch.dtype, dict[str, Tensor]]]:
    """Run the graph once; for use where gradients are recorded for the chosen parameters.

    Args:
        model: The model, in the modes that are measured.
        x: The whole graph.
        y: Targets of all nodes.
        loss: Losses of nodes.
        parameters: The chosen parameters by name.
        nodes: Numbers of the nodes that are compared.

    Returns:
        A function of some of these numbers, which gives the nodes' mean loss, the outputs' dtype and the gradient.
    """
    out = run_model(model, x.clone())[0]  # (nodes, K)
    at = nodes.to(out.device)
    nonfinite_samples("the model's output is", out.detach()[at])
    losses, back = loss_and_cotangents(loss, out[at], y[nodes.to(y.device)])
    cotangents = torch.zeros_like(out, requires_grad=False)
    cotangents[at] = back
    each = losses.new_zeros(len(out))
    each[at] = losses
    chosen = list(parameters.values())

    def gradient(batch: Tensor) -> tuple[float, torch.dtype, dict[str, Tensor]]:
        rows = batch.to(out.device)
        sent = torch.zeros_like(cotangents)
        sent[rows] = cotangents[rows] / len(rows)
        grads = tuple(torch.zeros_like(p) for p in chosen)
        if out.requires_grad:
            grads = torch.autograd.grad(out, chosen, sent, retain_graph=True, allow_unused=True, materialize_grads=True)
        if not all(bool(torch.isfinite(g).all()) for g in grads):
            raise ValueError(
                f"the gradient of node {int(batch[0])} is not finite (NaN or infinity) although its outputs are: it "
                f"overflows on its way back in {out.dtype}. measure.signal says in which layers; model.double() may "
                "have the range."
            )
        return float(each[rows].mean()), out.dtype, dict(zip(parameters, grads, strict=True))

    return gradient
