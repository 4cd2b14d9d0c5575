"""A small paper in a temporary folder, for the tests of the framework."""

from __future__ import annotations

import textwrap
from pathlib import Path

CLAIMS = """
title = "On Balls"
authors = "A. Author and B. Author"
year = 2020
venue = "ICLR"
link = "https://example.org/balls"
summary = "Balls roll."

[scales.smoke]
seeds = 2
about = "small; 1 s"
[scales.full]
seeds = 5
about = "large; 2 s"

[[claims]]
id = "balls-roll"
statement = "Balls roll, cubes do not."
where = "Section 3 | Fig. 2"
quantity = "distance rolled"
predicted = "more than 1"
cost = "1 s"
control_note = "cubes"

[[claims.pass]]
quantity = "ball/distance"
comparison = ">"
threshold = 1
over = "mean"

[[claims.control]]
quantity = "cube/distance"
comparison = ">"
threshold = 1
over = "mean"

[[claims]]
id = "steeper-is-faster"
statement = "Steeper is faster."
where = "Table 1"
quantity = "speed by slope"
predicted = "increasing"
cost = "1 s"
control_note = "slopes in reverse"
tolerance = 0.2

[[claims.pass]]
quantity = "speed"
comparison = "increasing"
over = "interval"

[[claims.control]]
quantity = "reversed/speed"
comparison = "increasing"
"""

STUDY = '''
"""Balls on a slope."""

import torch

from isometry.papers import Evidence, collect

FACTOR = {"smoke": 1.0, "full": 10.0}


def run(scale, seeds):
    return collect(scale, seeds, lambda seed: roll(seed, FACTOR[scale]), axes={"speed": ("low", "mid", "high")},
                   datasets=["slopes"], notes=["dry"]).with_pooled(all__balls=2.5)


def roll(seed, factor):
    noise = float(torch.rand((), generator=torch.Generator().manual_seed(seed)))
    speed = [1 + 0.01 * noise, 2 + 0.01 * noise, 3 + 0.02 * noise]
    return {
        "ball/distance": factor * (2 + noise),
        "cube/distance": 0.1 * noise,
        "speed": speed,
        "reversed/speed": speed[::-1],
    }
'''


def write_paper(home: Path, *, claims: str = CLAIMS, study: str = STUDY, name: str = "on_balls") -> Path:
    folder = home / name
    folder.mkdir(exist_ok=True)
    (folder / "claims.toml").write_text(textwrap.dedent(claims))
    (folder / "study.py").write_text(textwrap.dedent(study).lstrip())
    return folder
