"""The published figures of the zoo, and a spot check that today's rules still give them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from zoo import ZOO
from zoo._data import variants
from zoo.run import rates

from isometry.diagnosis import diagnose

FOLDER = Path(__file__).parents[2] / "zoo"
LABELS = json.loads((FOLDER / "labels.json").read_text())


def test_every_network_is_labelled_and_there_are_enough_of_both_kinds():
    assert set(LABELS) == set(ZOO)
    counted = [n for n, e in ZOO.items() if e.group != "borderline"]
    sick = [n for n in counted if LABELS[n]["sick"]]
    assert len(counted) >= 36
    assert len(sick) >= 15
    assert len(counted) - len(sick) >= 15


def test_published_results_have_no_miss_and_no_false_alarm_in_the_tuned_group():
    results = json.loads((FOLDER / "results.json").read_text())["networks"]
    assert set(results) == set(ZOO)
    assert all(results[n]["sick"] == LABELS[n]["sick"] for n in ZOO)
    tuned = rates(results, "tuned")
    assert tuned["missed"] == tuned["false_alarms"] == []


@pytest.mark.parametrize(
    "name",
    ["plain-tanh-8-default", "plain-sigmoid-10-default", "bug-zero-layer-tanh", "bug-zero-layer-relu", "recurrent-rnn"],
)
def test_verdicts_are_reproduced(name):
    found = diagnose(ZOO[name].model(), variants()[ZOO[name].data], samples=50)
    assert (found.verdict == "error") == LABELS[name]["sick"]
