"""The probe as a callback of the transformers library's Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isometry.training._probe import Probe

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError(
        "ProbeTrainerCallback needs transformers, which is not installed; pip install 'isometry[hf]'."
    ) from error

if TYPE_CHECKING:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

__all__ = ["ProbeTrainerCallback"]

# ruff: noqa: ARG002 - the signatures are the library's


class ProbeTrainerCallback(TrainerCallback):
    """Runs a probe beside a training of the transformers library's Trainer.

    Steps are the Trainer's ``global_step``. A callback is not told where the Trainer logs, so ``attach`` gives it the
    Trainer: the numbers then go through ``Trainer.log``, that is into ``log_history`` and to everything in
    ``report_to``. Without it they are in the probe's file alone. After ``train(resume_from_checkpoint=...)`` the file
    goes on from the checkpoint's step, later measurements dropped. The Trainer does not hand losses to callbacks, so
    NaN is looked for in the parameters. Only the first process measures, which asks for a model that is whole there.

    Args:
        probe: Made of the model that is trained.

    Raises:
        ImportError: On import, if transformers is not installed.

    Example:
        >>> from torch import nn, ones
        >>> callback = ProbeTrainerCallback(Probe(nn.Linear(3, 2), ones(4, 3), measures=["signal"]))
        >>> callback.probe.steps
        0
    """

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self._trainer: Trainer | None = None

    @classmethod
    def attach(cls, trainer: Trainer, probe: Probe) -> ProbeTrainerCallback:
        """Add a probe to a Trainer, through whose ``log`` the numbers go.

        Args:
            trainer: The Trainer.
            probe: The probe.

        Returns:
            The callback, which the Trainer has now.
        """
        callback = cls(probe)
        callback._trainer = trainer
        trainer.add_callback(callback)
        return callback

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the probe where the Trainer stands."""
        if not state.is_world_process_zero:
            return
        if self.probe.running:  # a training before this one ended in an exception
            self.on_train_end(args, state, control)
        self._end = self.probe.listen(self._log)
        self.probe.start(state.global_step or None)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count the step."""
        if state.is_world_process_zero:
            self.probe.step(step=state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the probe."""
        if self.probe.running:
            self.probe.close()
            self._end()

    def _log(self, metrics: dict[str, float], _step: int) -> None:
        if self._trainer is not None:
            self._trainer.log(dict(metrics))
