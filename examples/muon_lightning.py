"""Muon in a training of Lightning's Trainer, stopped half-way and resumed; needs isometry[train]."""

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import isometry as iso

STEPS = 120

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
        """Hidden matrices by Muon and the rest by AdamW; a schedule multiplies both learning rates."""
        routing = iso.roles.route(self.net, options={"*.bias": {"weight_decay": 0.0}})
        optimizer = iso.optim.Muon(routing, lr=0.02, weight_decay=0.01, adamw={"lr": 3e-3})
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def trainer(steps):
    """A Trainer that accumulates the gradients of two batches and says nothing."""
    return Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", accumulate_grad_batches=2, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


torch.manual_seed(0)
loader = DataLoader(TensorDataset(data.inputs, data.targets), batch_size=50, shuffle=True)
first = trainer(STEPS // 2)
first.fit(Digits(), loader)
first.save_checkpoint("muon_lightning.ckpt")  # the routing table is in it

module = Digits()
second = trainer(STEPS)
second.fit(module, loader, ckpt_path="muon_lightning.ckpt")
optimizer = second.optimizers[0]
print([(group["rule"], len(group["params"])) for group in optimizer.param_groups])
accuracy = (module.net(data.test_inputs).argmax(1) == data.test_targets).double().mean()
print(f"step {second.global_step}: accuracy {accuracy:.3f} on the test set")
