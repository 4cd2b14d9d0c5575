"""The probe as a callback of Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from isometry.training._probe import Probe

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise ImportError(
        "ProbeCallback needs lightning, which is not installed; pip install 'isometry[train]'."
    ) from error

__all__ = ["ProbeCallback"]

# ruff: noqa: ARG002 - the signatures are the library's


class ProbeCallback(Callback):
    """Runs a probe beside a training of Lightning's Trainer.

    Steps are the Trainer's ``global_step``, so batches that only accumulate gradients are not counted. The numbers go
    to all of the Trainer's loggers at their step, whatever ``log_every_n_steps`` is. Checkpoints carry the probe's
    state, and ``fit(..., ckpt_path=...)`` goes on from it. Of several processes only the first one measures, which asks
    for a model that is whole there: data-parallel strategies, not sharded ones.

    Args:
        probe: Made of the LightningModule, or of the network in it.

    Raises:
        ImportError: On import, if lightning is not installed.

    Example:
        >>> from torch import nn, randn
        >>> net = nn.Linear(3, 2)
        >>> callback = ProbeCallback(Probe(net, randn(4, 3), measures=["signal"]))
        >>> callback.state_dict()["step"]
        0
    """

    def __init__(self, probe: Probe) -> None:
        self.probe = probe

    @property
    def state_key(self) -> str:
        """Tells the states of several probes in one checkpoint apart."""
        about = self.probe.history.header
        return self._generate_state_key(
            measures=about["measures"], parameters=about["parameters"], batch=about["batch"]
        )

    def state_dict(self) -> dict[str, Any]:
        """Give the probe's state to a checkpoint.

        Returns:
            Plain data.
        """
        return self.probe.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the probe's state from a checkpoint."""
        self.probe.load_state_dict(state_dict)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the probe where the Trainer stands, and connect it with the loggers."""
        if not trainer.is_global_zero:
            return

        def log(metrics: dict[str, float], step: int) -> None:
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=step)

        self._end = self.probe.listen(log)
        self.probe.start(trainer.global_step or None)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the step, if the optimizer made one."""
        if trainer.is_global_zero and trainer.global_step > self.probe.steps:
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
            self.probe.step(loss, step=trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the probe."""
        if self.probe.running:
            self.probe.close()
            self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the probe when the training does, also by Ctrl-C."""
        self.on_train_end(trainer, pl_module)
