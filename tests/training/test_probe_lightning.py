"""The probe in Lightning's Trainer: rows in its loggers, steps of the optimizer, checkpoints, the same weights.

Seen to fail: with the state left out of the checkpoint the resumed rows begin at its step; with steps counted by
batches accumulation doubles them.
"""

import csv
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from isometry.training import Probe, read_probe

lightning = pytest.importorskip("lightning.pytorch")
loggers = pytest.importorskip("lightning.pytorch.loggers")

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own advice about workers and intervals


class Small(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 3))

    def training_step(self, batch, _index):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, *, steps=6, probed=True, log=False, resume=None, path=None, **options):
    from isometry.training import ProbeCallback

    torch.manual_seed(0)
    module = Small()
    x, y = torch.randn(48, 4), torch.randint(3, (48,))
    probe = Probe(module.net, x[:8], y[:8], every=2, max_overhead=1e9, path=path)
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=log,
        callbacks=[ProbeCallback(probe)] if probed else [],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        log_every_n_steps=1000,
        **options,
    )
    loader = DataLoader(TensorDataset(x, y), batch_size=8, generator=torch.Generator().manual_seed(1), shuffle=True)
    torch.manual_seed(2)
    trainer.fit(module, loader, ckpt_path=resume)
    return probe, module, trainer


def taken(probe_or_log):
    records = getattr(probe_or_log, "history", probe_or_log).records
    return [(r["step"], r["measure"], r["values"]) for r in records if r["measure"] in {"signal", "fisher"}]


def test_rows_reach_csv_and_tensorboard_and_the_weights_are_the_same(tmp_path):
    logs = [loggers.CSVLogger(tmp_path, name="csv"), loggers.TensorBoardLogger(tmp_path, name="board")]
    probe, module, _ = fit(tmp_path, log=logs)
    _, plain, _ = fit(tmp_path, probed=False)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), plain.parameters(), strict=True))
    assert [step for step, measure, _ in taken(probe) if measure == "fisher"] == [0, 2, 4, 6]
    loss = [r["value"] for r in probe.rows() if (r["measure"], r["quantity"]) == ("training", "loss")]
    assert len(loss) == 3
    wanted = [(step, values["q_max"]) for step, measure, values in taken(probe) if measure == "signal"]
    with open(tmp_path / "csv" / "version_0" / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["probe/signal/q_max"]]
    assert [(int(row["step"]), float(row["probe/signal/q_max"])) for row in rows] == wanted
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = events.EventAccumulator(str(tmp_path / "board" / "version_0"))
    board.Reload()
    shown = [(e.step, e.value) for e in board.Scalars("probe/signal/q_max")]
    assert [s for s, _ in shown] == [s for s, _ in wanted]
    assert [v for _, v in shown] == pytest.approx([v for _, v in wanted], rel=1e-6)  # TensorBoard keeps float32


def test_a_checkpoint_carries_the_probe(tmp_path):
    path = tmp_path / "probe.jsonl"
    whole, _, _ = fit(tmp_path, steps=6)
    _, _, trainer = fit(tmp_path, steps=3, path=path)
    trainer.save_checkpoint(tmp_path / "three.ckpt")
    later, _, _ = fit(tmp_path, steps=5, resume=tmp_path / "three.ckpt", path=path)
    assert later.steps == 5
    again, _, _ = fit(tmp_path, steps=6, resume=tmp_path / "three.ckpt", path=path)
    assert [entry[:2] for entry in taken(read_probe(path))] == [entry[:2] for entry in taken(whole)]
    assert taken(again)[:4] == taken(whole)[:4]  # up to the checkpoint; its random state is not Lightning's to restore
    assert taken(read_probe(path)) == taken(again)


def test_a_probe_without_a_file_goes_on_from_the_checkpoint_alone(tmp_path):
    _, _, trainer = fit(tmp_path, steps=3)
    trainer.save_checkpoint(tmp_path / "three.ckpt")
    again, _, _ = fit(tmp_path, steps=6, resume=tmp_path / "three.ckpt")
    assert [step for step, measure, _ in taken(again) if measure == "signal"] == [0, 2, 4, 6]


def test_steps_are_those_of_the_optimizer(tmp_path):
    probe, _, _ = fit(tmp_path, steps=2, accumulate_grad_batches=3)
    assert probe.steps == 2
    assert [step for step, measure, _ in taken(probe) if measure == "signal"] == [0, 2]


def test_after_an_exception_the_probe_is_closed(tmp_path):
    class Stop(lightning.Callback):
        def on_train_batch_end(self, trainer, *args):
            raise RuntimeError("enough")

    from isometry.training import ProbeCallback

    module = Small()
    probe = Probe(module.net, torch.randn(4, 4), measures=["signal"])
    trainer = lightning.Trainer(
        max_steps=2, accelerator="cpu", logger=False, callbacks=[ProbeCallback(probe), Stop()],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loader = DataLoader(TensorDataset(torch.randn(8, 4), torch.randint(3, (8,))), batch_size=4)
    with pytest.raises(RuntimeError, match="enough"):
        trainer.fit(module, loader)
    assert not probe.running


def test_without_lightning_it_says_what_to_install(monkeypatch):
    import isometry.training

    for name in [n for n in sys.modules if n == "lightning" or n.startswith("lightning.")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "isometry.training._lightning", raising=False)
    with pytest.raises(
        ImportError, match=r"ProbeCallback needs lightning, which is not installed; pip install 'isometry"
    ):
        isometry.training.ProbeCallback  # noqa: B018
