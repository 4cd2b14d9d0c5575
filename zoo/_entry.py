"""One inhabitant of the zoo, and the registry that they enter by decoration."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

Group = Literal["tuned", "held-out", "borderline"]
Build = Callable[[], nn.Module]


@dataclass(frozen=True)
class Entry:
    """A network of the zoo.

    Attributes:
        name: Unique name, family first.
        build: Makes the network; draws from torch's global generator, which `model` seeds.
        group: "tuned" if the rules were developed on it, "held-out" if they were not; "borderline" if its label turns
            with the seed, or with a third more or less depth: neither theory nor training settles such nets.
        code: Whether the sickness lies in the model's code or in frozen values, where no initialization reaches it.
        data: Which variant of digits it is fed: "standard" or "raw" (0 to 255).
    """

    name: str
    build: Build
    group: Group = "tuned"
    data: str = "standard"
    code: bool = False

    @property
    def family(self) -> str:
        return self.name.split("-")[0]

    def model(self, seed: int = 0) -> nn.Module:
        """Build the network from a seed; the global random state is left alone.

        Returns:
            A fresh network.
        """
        digest = hashlib.blake2b(f"{seed} {self.name}".encode(), digest_size=7).digest()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(digest, "little"))
            return self.build()


ZOO: dict[str, Entry] = {}


def enter(name: str, build: Build, *, group: Group = "tuned", data: str = "standard", code: bool = False) -> None:
    """Add a network to the zoo."""
    if name in ZOO:
        raise ValueError(f"the zoo has a {name!r} already; choose another name.")
    ZOO[name] = Entry(name, build, group, data, code)
