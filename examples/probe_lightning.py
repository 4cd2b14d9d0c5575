"""Follow measurements in a training of Lightning's Trainer; needs isometry[train]."""

from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import isometry as iso
from isometry.training import Probe, ProbeCallback

data = iso.data.load("digits")


class Digits(LightningModule):
    """A perceptron on the digits."""

    def __init__(self):
        super().__init__()
        self.net = iso.nn.reference_model("mlp:depth=4,width=64,activation=relu", in_shape=data.shape, classes=10)

    def training_step(self, batch, _index):
        """The loss of a batch."""
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


torch.manual_seed(0)
module = Digits()
path = Path("probe_lightning.jsonl")
path.unlink(missing_ok=True)  # a training anew; without this line the probe would ask where the old one goes on
# None: measure whenever it is due. A training of hours keeps the default, at most 5 % of its time.
probe = Probe(module.net, data.inputs[:64], data.targets[:64], max_overhead=None, path=path)
trainer = Trainer(
    max_steps=100,
    accelerator="cpu",
    logger=CSVLogger("logs", name="digits", version=0),  # the probe's numbers go to every logger of the Trainer
    callbacks=[ProbeCallback(probe)],
    enable_progress_bar=False,
    enable_model_summary=False,
)
loader = DataLoader(TensorDataset(data.inputs, data.targets), batch_size=100, shuffle=True)
trainer.fit(module, loader)
print(probe.history)
