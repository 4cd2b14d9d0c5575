"""A small training for the probe's tests, and a clock that they move by hand."""

import torch
from torch import nn

STEP = 1.0  # seconds of a step, on the clock that is moved by hand


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def pass_by(self, seconds):
        self.now += seconds


class Training:
    """A net with dropout and batch normalization, whose training depends on the global random state at every step."""

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        self.model = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(8, 3)
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-2)
        self.x, self.y = torch.randn(64, 6), torch.randint(3, (64,))

    def step(self):
        index = torch.randint(64, (16,))
        loss = nn.functional.cross_entropy(self.model(self.x[index]), self.y[index])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss

    def state(self):
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }

    def load(self, state):
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
