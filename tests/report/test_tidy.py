"""Whatever a caller has becomes complete, finite, rounded content."""

from __future__ import annotations

import copy
import json
import math
from typing import get_type_hints

import numpy as np
import pytest
import torch

from isometry import report
from isometry.report import tidy
from isometry.report._tidy import tidy_phase
from isometry.report._wording import number
from tests.report import samples


def test_nothing_becomes_a_whole_with_every_key():
    content = tidy({})
    assert set(content) == set(get_type_hints(report.Content))
    assert content["findings"] == []
    assert content["signal"] is None
    assert content["subject"]["model"] is None


@pytest.mark.parametrize("make", [samples.sick, samples.healthy, samples.empty, samples.hostile])
def test_tidying_twice_changes_nothing_and_leaves_the_argument(make):
    given = make()
    kept = copy.deepcopy(given)
    once = tidy(given)
    assert given == kept
    assert tidy(once) == once


def test_every_section_may_be_an_empty_mapping():
    sections = ("signal", "jacobian", "fisher", "phase", "prescription", "proof", "cost")
    content = tidy({key: {} for key in sections})
    assert content["signal"]["layers"] == []
    assert content["jacobian"]["law"] is None
    assert content["proof"]["before"] is None
    assert content["cost"]["seconds"] == {}
    json.dumps(content, allow_nan=False)


def test_numbers_become_finite_and_short():
    content = tidy({"fisher": {"eigenvalues": [math.pi, math.nan, math.inf, 1e-30 / 3], "lambda_max": -math.inf}})
    assert content["fisher"]["eigenvalues"] == [3.1416, None, None, 3.3333e-31]
    assert content["fisher"]["lambda_max"] is None


def test_single_numbers_are_rounded_once():
    value = 8.465044059189169e-24  # to five digits first, it would end in 46
    content = tidy({"jacobian": {"s_max": value}, "findings": [{"value": value, "severity": "info"}]})
    assert content["jacobian"]["s_max"] == value
    assert number(content["findings"][0]["value"]) == f"{value:.3g}" == "8.47e-24"


def test_arrays_and_tensors_are_taken():
    content = tidy({"fisher": {"eigenvalues": np.array([2.0, 1.0]), "lambda_max": torch.tensor(2.0)}})
    assert content["fisher"]["eigenvalues"] == [2.0, 1.0]
    assert content["fisher"]["lambda_max"] == 2.0


def test_unknown_keys_survive_into_the_raw_data():
    assert tidy({"extra": {"a": 1}})["extra"] == {"a": 1}


def test_a_phase_section_alone():
    assert tidy_phase({"sigma_w": [1.0]})["critical"] is None


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (None, TypeError, "content must be a mapping as in report.Content, got NoneType"),
        ([], TypeError, "pass what Diagnosis.to_dict"),
        ({"schema": 2}, ValueError, "content has schema 2, but this version draws schema 1"),
        ({"signal": [1]}, TypeError, r"content\['signal'\] must be a mapping or None, got list"),
        ({"findings": {}}, TypeError, r"content\['findings'\] must be a list, got dict"),
        ({"findings": ["x"]}, TypeError, r"content\['findings'\]\[0\] must be a mapping or None, got str"),
        ({"jacobian": {"law": 3}}, TypeError, r"content\['jacobian'\]\['law'\] must be a mapping"),
        (
            {"subject": {"model": object()}},
            TypeError,
            r"content\['subject'\]\['model'\] holds a object, which JSON cannot",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_its_place(content, error, words):
    with pytest.raises(error, match=words):
        tidy(content)
