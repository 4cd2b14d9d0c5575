"""Evidence checks its own shape; ``collect`` keeps the books."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from isometry._base import reporting
from isometry.papers import Evidence, collect


def test_numbers_series_and_pooled_numbers():
    evidence = collect("smoke", (3, 5), lambda s: {"a": s, "b/c": [s, s + 1]}, axes={"b/c": ("x", "y")})
    evidence = evidence.with_pooled(digits__pearson=0.9)
    assert evidence.quantities == {"a": (3.0, 5.0), "b/c": ((3.0, 4.0), (5.0, 6.0)), "digits/pearson": 0.9}
    assert evidence.array("a").shape == (2,)
    assert evidence.array("b/c").shape == (2, 2)
    assert evidence.array("digits/pearson").tolist() == [0.9]


def test_tensors_and_arrays_become_numbers():
    evidence = collect("smoke", (1, 2), lambda s: {"a": torch.tensor(s), "b": torch.ones(2), "c": np.ones(3)})
    assert evidence.quantities == {"a": (1.0, 2.0), "b": ((1.0, 1.0),) * 2, "c": ((1.0,) * 3,) * 2}


def test_progress_is_told():
    heard = []
    with reporting(lambda *a: heard.append(a)):
        collect("smoke", (1, 2), lambda s: {"a": s})
    assert heard == [("Seeds of the study", i, 2) for i in range(3)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": ()}, "seeds is empty"),
        ({"quantities": {"A b": (1.0, 2.0)}}, "quantity 'A b' is not a good name; use lower-case letters"),
        ({"quantities": {"a": (1.0,)}}, "quantity 'a' has shape (1,) for 2 seeds; give one value a seed"),
        (
            {"quantities": {"a": ((1.0,), (1.0, 2.0))}},
            "quantity 'a' must hold one number, or one series of equal length",
        ),
        ({"quantities": {"a": ("x", "y")}}, "quantity 'a' must hold one number"),
        ({"skipped": {"a": "no data"}}, "quantities a are both measured and skipped"),
        ({"axes": {"b": (1, 2)}}, "axes name 'b', which is no quantity; measured: a."),
        ({"axes": {"a": (1, 2)}}, "axes['a'] has 2 entries but the values have shape (2,)"),
    ],
)
def test_misshapen_evidence_is_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Evidence(**{"scale": "smoke", "seeds": (0, 1), "quantities": {"a": (1.0, 2.0)}, **change})


def test_seeds_must_measure_the_same():
    with pytest.raises(ValueError, match="seed 1 measured other quantities than seed 0: a, b"):
        collect("smoke", (0, 1), lambda s: {"ab"[s]: 1.0})
