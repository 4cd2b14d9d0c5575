"""Results turn into plain data that JSON accepts; costs add up."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import torch

from isometry._base import Cost, Result, stopwatch


@dataclass(frozen=True)
class Inner(Result):
    value: float
    hidden: torch.Tensor = field(repr=False, default_factory=lambda: torch.ones(2))


@dataclass(frozen=True)
class Outer(Result):
    tensor: torch.Tensor
    array: np.ndarray
    scalar: np.float64
    inner: Inner
    many: tuple[Inner, ...]
    table: dict
    dtype: torch.dtype
    nothing: None = None
    cost: Cost = field(default_factory=lambda: Cost(matvecs=3))


def test_everything_becomes_plain():
    outer = Outer(
        torch.tensor([[1.0, float("nan")], [float("inf"), 2.0]]),
        np.arange(2),
        np.float64("nan"),
        Inner(float("-inf")),
        (Inner(1.0), Inner(2.0)),
        {1: {2.5}},
        torch.float32,
    )
    plain = outer.to_dict()
    assert plain == {
        "tensor": [[1.0, None], [None, 2.0]],
        "array": [0, 1],
        "scalar": None,
        "inner": {"value": None},
        "many": [{"value": 1.0}, {"value": 2.0}],
        "table": {"1": [2.5]},
        "dtype": "torch.float32",
        "nothing": None,
        "cost": {"forward_passes": 0, "backward_passes": 0, "matvecs": 3, "bytes": 0, "seconds": 0.0},
    }
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_costs_add_but_bytes_take_the_peak():
    total = Cost(1, 2, 3, 100, 0.5) + Cost(10, 20, 30, 50, 0.25)
    assert total == Cost(11, 22, 33, 100, 0.75)


def test_a_stopwatch_is_final_after_its_block():
    with stopwatch() as watch:
        sum(range(1000))
        assert watch.seconds == 0.0
    assert 0 < watch.seconds < 10
