"""A short training run whose curve says whether a network learns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from isometry._base import (
    IGNORED,
    Cost,
    Result,
    base_seed,
    check_positive,
    preserved_rng,
    progress,
    stopwatch,
    unknown_name,
)
from isometry.tape import Inputs, as_inputs
from isometry.training._objective import Likelihood, chance_loss, infer_likelihood, objective
from isometry.training._task import Task
from isometry.training._threads import suitable_threads

__all__ = ["Curve", "fit"]

Optimizer = Literal["sgd", "adam"]
MOMENTUM = 0.9  # of "sgd": the setting that people reach for first
WINDOW = 10  # steps over which a minibatch loss is averaged before it is believed
EVALUATED = 2048  # training samples, at most, for the final loss and accuracy
AT_ONCE = 512  # samples of one forward pass there


@dataclass(frozen=True)
class Curve(Result):
    """What a short training run did.

    Attributes:
        loss: Minibatch loss before each step, in nats.
        final_loss: Loss over the training set after the last step, in evaluation mode; NaN if diverged.
        accuracy: Share of the training set classified rightly after the last step; NaN for real-valued targets.
        test_accuracy: The same on the test set; NaN without one.
        chance: Loss of a network that knows nothing of its inputs.
        diverged: A loss was not finite; the run ended there.
        stopped: ``stop_when`` ended the run before its last step.
        optimizer: ``"sgd"`` (momentum 0.9) or ``"adam"``.
        lr: Step size.
        batch_size: Samples per step.
        steps: Steps that were asked for; ``len(loss)`` were done.
        cost: Passes and seconds.
    """

    loss: tuple[float, ...]
    final_loss: float
    accuracy: float
    test_accuracy: float
    chance: float
    diverged: bool
    stopped: bool
    optimizer: str
    lr: float
    batch_size: int
    steps: int
    cost: Cost = field(default_factory=Cost)

    @property
    def smoothed(self) -> tuple[float, ...]:
        """Running mean of the loss over the last ten steps (fewer at the start)."""
        out, total = [], 0.0
        for i, value in enumerate(self.loss):
            total += value - (self.loss[i - WINDOW] if i >= WINDOW else 0.0)
            out.append(total / min(i + 1, WINDOW))
        return tuple(out)

    @property
    def best(self) -> float:
        """The lowest mean loss over ten consecutive steps; infinite if there were not ten finite ones."""
        full = [v for v in self.smoothed[WINDOW - 1 :] if math.isfinite(v)]
        return min(full, default=math.inf)

    @property
    def learned(self) -> bool:
        """Whether the training loss came below half of chance."""
        return self.best < 0.5 * self.chance

    def __str__(self) -> str:
        end = "diverged" if self.diverged else f"loss {self.final_loss:.3g}"
        accuracy = "" if math.isnan(self.accuracy) else f", accuracy {self.accuracy:.1%}"
        return (
            f"{self.optimizer} at {self.lr:g}: {end}{accuracy} after {len(self.loss)} steps (chance {self.chance:.3g})"
        )


def fit(
    model: nn.Module,
    dataset: Any,
    *,
    steps: int,
    optimizer: Optimizer = "adam",
    lr: float = 1e-3,
    batch_size: int = 100,
    stop_when: Callable[[Sequence[float]], bool] | None = None,
    likelihood: Likelihood | None = None,
    generator: torch.Generator | None = None,
) -> Curve:
    """Train a model in place for some steps.

    Minibatches are drawn without replacement, epoch after epoch. Dropout draws from the generator, too: the global
    random state stays as it was. The model's modes are put back at the end; a loss that is not finite ends the run.
    Of one whole graph every step takes all nodes that count; accuracy and final loss are those of the same nodes.

    Args:
        model: Trained in place; its parameters that require a gradient move.
        dataset: Anything with ``inputs`` (a tensor (N, ...), or ``Inputs``, which may be one whole graph), ``targets``
            and perhaps ``classes``, ``test_inputs``, ``test_targets``; or a pair (inputs, targets).
        steps: How many optimizer steps.
        optimizer: ``"sgd"`` with momentum 0.9, or ``"adam"`` with PyTorch's defaults.
        lr: Step size.
        batch_size: Samples per step; at most N are used, and of a whole graph always all nodes that count.
        stop_when: Called with the losses so far after every step; True ends the run.
        likelihood: ``"categorical"`` or ``"gaussian"``; default: from the targets' dtype.
        generator: Draws the minibatches and the dropout masks; default: torch's global one.

    Returns:
        The curve.

    Example:
        >>> import torch
        >>> x = torch.linspace(-1, 1, 64).reshape(-1, 1)
        >>> net = torch.nn.Linear(1, 1)
        >>> curve = fit(net, (x, 3 * x), steps=200, lr=0.1, generator=torch.Generator().manual_seed(0))
        >>> curve.learned
        True
    """
    inputs, targets, classes, test = _tensors(dataset)
    task = Task(inputs, targets)
    trained = _checked(model, optimizer, lr, steps, batch_size)
    kind = likelihood if likelihood is not None else infer_likelihood(targets)
    seed = base_seed(generator)
    modes = [(module, module.training) for module in model.modules()]
    losses: list[float] = []
    stopped = False
    try:
        with stopwatch() as watch, preserved_rng(), torch.enable_grad(), suitable_threads(model, batch_size):
            torch.manual_seed(seed)  # dropout has no generator of its own
            model.train()
            stepper = _stepper(trained, optimizer, lr)
            for index in task.batches(batch_size, steps, seed):
                outputs, wanted = task.run(model, index)
                if not losses:
                    _check_classes(outputs, task.known, kind)
                value = _step(stepper, outputs, wanted, kind)
                losses.append(value)
                progress("Training", len(losses), steps)
                if not math.isfinite(value):
                    break
                if stop_when is not None and stop_when(losses):
                    stopped = len(losses) < steps
                    break
            model.eval()
            final, accuracy = _evaluate(model, task.first(EVALUATED), kind)
            tested = math.nan if test is None else _evaluate(model, Task(*test), kind)[1]
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter in trained:
            parameter.grad = None
    return Curve(
        loss=tuple(losses),
        final_loss=final,
        accuracy=accuracy,
        test_accuracy=tested,
        chance=chance_loss(task.known, kind, classes),
        diverged=not (math.isfinite(losses[-1]) and math.isfinite(final)),
        stopped=stopped,
        optimizer=optimizer,
        lr=float(lr),
        batch_size=task.size(batch_size),
        steps=steps,
        cost=Cost(forward_passes=len(losses) + 1, backward_passes=len(losses), seconds=watch.seconds),
    )


def _checked(model: nn.Module, optimizer: str, lr: float, steps: int, batch_size: int) -> list[nn.Parameter]:
    """Check the options of a run.

    Returns:
        The parameters that will be trained.

    Raises:
        ValueError: If an option is out of range, or the model has nothing to train.
    """
    if optimizer not in get_args(Optimizer):
        raise ValueError(str(unknown_name("optimizer", optimizer, get_args(Optimizer))))
    check_positive("lr", lr)
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size must be at least 1, got {steps} and {batch_size}; pass larger ones.")
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("model has no parameter that requires a gradient; unfreeze some, there is nothing to train.")
    return trained


def _stepper(trained: list[nn.Parameter], optimizer: str, lr: float) -> torch.optim.Optimizer:
    if optimizer == "sgd":
        return torch.optim.SGD(trained, lr=lr, momentum=MOMENTUM, foreach=True)
    return torch.optim.Adam(trained, lr=lr, foreach=True)


def _check_classes(outputs: Tensor, targets: Tensor, kind: Likelihood) -> None:
    """Insist on labels that the model has outputs for.

    Raises:
        ValueError: If one is out of range.
    """
    known = targets[targets != IGNORED]
    if kind != "categorical" or not known.numel():
        return
    low, high, outputs_of_one = int(known.min()), int(known.max()), outputs.shape[-1]
    if low < 0 or high >= outputs_of_one:
        raise ValueError(
            f"targets are labels from {low} to {high}, but the model has {outputs_of_one} outputs; labels must be "
            f"0..{outputs_of_one - 1} (or {IGNORED}, which is left out)."
        )


def _step(stepper: torch.optim.Optimizer, outputs: Tensor, y: Tensor, kind: Likelihood) -> float:
    loss = objective(outputs, y, kind)
    value = float(loss.detach())
    if math.isfinite(value) and loss.requires_grad:
        stepper.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        stepper.step()
    return value


@torch.no_grad()
def _evaluate(model: nn.Module, task: Task, kind: Likelihood) -> tuple[float, float]:
    total, right, counted = 0.0, 0, 0
    for start in range(0, len(task) if task.nodes is None else 1, AT_ONCE):
        outputs, y = task.run(model, slice(start, start + AT_ONCE))
        known = y != IGNORED
        weight = int(known.sum()) if kind == "categorical" else len(outputs)
        if weight:
            total += float(objective(outputs, y, kind)) * weight
        counted += weight
        if kind == "categorical":
            right += int(((outputs.argmax(-1) == y) & known).sum())
    loss = total / counted
    accuracy = right / counted if kind == "categorical" else math.nan
    return (loss if math.isfinite(loss) else math.nan), accuracy


def _tensors(dataset: Any) -> tuple[Inputs, Tensor, int | None, tuple[Inputs, Tensor] | None]:
    """Take the tensors out of a data set or a pair.

    Returns:
        Inputs, targets, number of classes if known, and the test pair if there is one.

    Raises:
        TypeError: If the data set has no tensors of inputs and targets.
        ValueError: If their lengths differ or are zero.
    """
    classes: int | None = None
    test: tuple[Inputs, Tensor] | None = None
    if isinstance(dataset, tuple | list) and len(dataset) == 2:
        inputs, targets = dataset
    else:
        inputs, targets = getattr(dataset, "inputs", None), getattr(dataset, "targets", None)
        classes = getattr(dataset, "classes", None)
        held = (getattr(dataset, "test_inputs", None), getattr(dataset, "test_targets", None))
        if isinstance(held[0], Tensor | Inputs) and isinstance(held[1], Tensor) and len(held[0]):
            test = (as_inputs(held[0]), held[1])
    if not isinstance(inputs, Tensor | Inputs) or not isinstance(targets, Tensor):
        raise TypeError(
            f"dataset must hold tensors of inputs and targets, got {type(dataset).__name__}; pass a pair "
            "(inputs, targets) or isometry.data.as_dataset(...)."
        )
    if len(inputs) == 0 or (len(inputs) != targets.shape[0] and not as_inputs(inputs).whole):
        raise ValueError(
            f"dataset has {len(inputs)} inputs and {targets.shape[0]} targets; give one target for each input."
        )
    return as_inputs(inputs), targets, classes, test
