"""Experiment files of seconds, and models that do what models should not."""

from __future__ import annotations

from pathlib import Path

from isometry.training.compare import Experiment, read_experiment

SMALL = """
name = "Small"
seeds = [0, 3]
epochs = 3
batch_size = 50

[data]
name = "digits"
samples = 250

[[model]]
name = "mlp:depth=3,width=16,activation=tanh"

[[optimizer]]
name = "sgd"
lr = [0.01, 0.1]
"""

# Ends its process in the training step whose number stands in the file "die_at", once for each line of it.
DYING = """
import os
import signal
from pathlib import Path

from torch import nn


class Dying(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.2), nn.Tanh(), nn.Linear(16, 10))
        self.steps = 0

    def forward(self, x):
        self.steps += self.training
        file = Path("die_at")
        waiting = file.read_text().split() if file.exists() else []
        if self.training and waiting and self.steps == int(waiting[0]):
            file.write_text(" ".join(waiting[1:]))
            os.kill(os.getpid(), signal.SIGKILL)
        return self.net(x)
"""


def write(folder: Path, text: str = SMALL, **changes: str) -> Path:
    """Write an experiment file; changes replace whole lines that begin with a key."""
    lines = text.splitlines()
    for key, value in changes.items():
        places = [i for i, line in enumerate(lines) if line.split("=")[0].strip() == key]
        assert places, f"the text has no {key}"
        lines[places[-1] if key == "lr" else places[0]] = f"{key} = {value}"
    file = folder / "small.toml"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def small(folder: Path, text: str = SMALL, **changes: str) -> Experiment:
    return read_experiment(write(folder, text, **changes))


def dying(folder: Path, *steps: int, **changes: str) -> Experiment:
    """An experiment whose model kills its process at some steps."""
    (folder / "dying.py").write_text(DYING, encoding="utf-8")
    (folder / "die_at").write_text(" ".join(map(str, steps)), encoding="utf-8")
    text = SMALL.replace("mlp:depth=3,width=16,activation=tanh", "dying.py:Dying")
    return small(folder, text, **changes)


def tables(folder: Path) -> dict[str, bytes]:
    """The results as bytes."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.csv"))}
