"""How a batch is divided into chunks of samples whose graphs fit into memory, and whether it can be."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from isometry._base import allowed_bytes, check_budget
from isometry.measure._guards import ModelCallError, sample_mixing

__all__ = ["GRAPH_BYTES", "Division", "divide", "insist_on_repetition"]

# A chunk of samples whose twice differentiable graph takes more than this is divided further.
GRAPH_BYTES = 512 * 1024**2

Run = Callable[[slice], Tensor]  # the model's outputs for some of the samples


class Division(NamedTuple):
    """How a batch is divided: why it cannot be (or nothing), samples per chunk, foreseen bytes of a chunk's graph."""

    mixing: tuple[str, ...]
    chunk: int
    graph_bytes: int


def divide(
    run: Run, model: nn.Module, parameters: Sequence[Tensor], samples: int, most: int, budget: int | None
) -> Division:
    """Choose the chunk: as many samples as keep the graph of two derivatives within 512 MiB and the budget.

    The graph's bytes per sample are taken from a trial with two samples (they include what does not grow with them, so
    they are an upper bound). A batch whose samples influence each other is not divided.

    Args:
        run: Runs the model.
        model: The model.
        parameters: What is differentiated in.
        samples: N.
        most: Samples of a chunk at most: all, or the share of one of several processes.
        budget: Bytes that the smallest possible graph may take; default: the package's.

    Returns:
        The division.

    Raises:
        ModelCallError: If the model raises on the whole batch too.
    """
    allowed = min(GRAPH_BYTES, allowed_bytes(budget))
    mixing = tuple(f"{m.name or 'the model'} ({m.kind}) {m.why}" for m in sample_mixing(model))
    trial = samples if mixing else min(2, samples)
    try:
        counted = _graph_bytes(run, parameters, trial)
    except ModelCallError:
        if trial == samples:
            raise
        # The whole batch has been seen to pass.
        mixing, trial = ("the model takes no smaller batch",), samples
        counted = _graph_bytes(run, parameters, trial)
    per_sample = max(1, -(-counted // trial))
    chunk = samples if mixing else max(1, min(most, allowed // per_sample))
    if chunk < samples and _influence_each_other(run, samples, chunk):
        mixing, chunk = ("outputs depend on which samples are in the batch",), samples
    if chunk == 1 or mixing:
        check_budget(
            per_sample * chunk,
            budget,
            what=f"the graph of {chunk} sample{'s, which influence each other,' if mixing and chunk > 1 else ''}",
            instead="Pass fewer samples, or smaller ones," if mixing and samples > 1 else "Pass smaller samples,",
        )
    return Division(mixing, chunk, per_sample * chunk)


def insist_on_repetition(run: Run, samples: int, whole: bool, device: torch.device) -> None:
    """Run the model twice on a few samples and refuse it if chance decides what it returns.

    Args:
        run: Runs the model.
        samples: N.
        whole: Take the whole batch.
        device: The device whose random state is watched, beside the CPU's.

    Raises:
        ValueError: If two passes differ.
    """
    few = slice(0, samples if whole else min(samples, 8))
    with torch.no_grad():
        before = _random_state(device)
        try:
            first = run(few)
        except ModelCallError:  # it may insist on the whole batch, which raises again if that is not the reason
            few = slice(0, samples)
            first = run(few)
        drew = _random_state(device) != before
        second = run(few)
    # Kernels may differ between runs by rounding; where random numbers were drawn, nothing may.
    allowed = 0.0 if drew else 1e-2 * float(first.abs().max())
    if bool(((first - second).abs() > allowed).any()):
        raise ValueError(
            "model is random: two passes over the same inputs differ, so its loss has no curvature. Switch the "
            "randomness off (model.eval(), or a fixed noise)."
        )


def _graph_bytes(run: Run, parameters: Sequence[Tensor], count: int) -> int:
    """Count what a forward and a differentiable backward pass save, storages once, without the parameters'.

    Returns:
        Bytes.

    Raises:
        ValueError: If the outputs do not depend on the parameters.
    """
    own = {p.untyped_storage().data_ptr() for p in parameters}
    kept: dict[int, int] = {}
    held: list[Tensor] = []  # no storage may be freed and its address used again while we count

    def pack(tensor: Tensor) -> Tensor:
        if tensor.layout != torch.strided:  # a sparse adjacency, say, which has no storage of its own
            kept[id(tensor)] = tensor._nnz() * tensor.element_size()
            held.append(tensor)
            return tensor
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run(slice(0, count))
        if not out.requires_grad:
            raise ValueError(
                "the model's output does not depend on the chosen parameters through differentiable operations; look "
                "for .detach(), no_grad or argmax in its forward pass, or choose others by params=."
            )
        total = out.float().square().sum() if out.dtype != torch.float64 else out.square().sum()
        torch.autograd.grad(total, list(parameters), create_graph=True, allow_unused=True)
    return sum(kept.values())


def _influence_each_other(run: Run, samples: int, chunk: int) -> bool:
    """Compare the outputs of a chunk with those of its halves.

    Returns:
        Whether they differ by more than rounding, or the model takes no other batch size.
    """
    count = min(samples, max(2, chunk))
    with torch.no_grad():
        whole = run(slice(0, count))
        try:
            halves = torch.cat([run(slice(0, count // 2)), run(slice(count // 2, count))])
        except ModelCallError:
            return True
    if halves.shape != whole.shape:
        return True
    allowed = torch.finfo(whole.dtype).eps ** 0.5 * float(whole.abs().max())
    return bool(((whole - halves).abs() > allowed).any())


def _random_state(device: torch.device) -> bytes:
    cuda = torch.cuda.get_rng_state(device).numpy().tobytes() if device.type == "cuda" else b""
    others = pickle.dumps((random.getstate(), np.random.get_state(legacy=False)))  # noqa: NPY002 - what a model would use
    return torch.get_rng_state().numpy().tobytes() + cuda + others
