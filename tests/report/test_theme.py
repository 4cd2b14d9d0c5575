"""Colours: contrast by the web's own measure (WCAG 2), on both pages, and for colour-blind readers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from isometry.report._theme import DARK, LIGHT, SERIES, stylesheet_variables, template


def linear(colour: str) -> np.ndarray:
    s = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    a, b = (float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other))
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)


# Viénot, Brettel & Mollon (1999): how a dichromat sees linear RGB.
PROTAN = np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]])
DEUTAN = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_text_is_readable(palette):
    for ground in ("page", "card", "sunken"):
        for ink in ("text", "muted", "link"):
            assert contrast(palette[ink], palette[ground]) >= 4.5, (ink, ground)
    for tone in ("error", "warning", "info", "healthy"):
        assert contrast(palette[tone], palette["card"]) >= 4.5, tone
        assert contrast(palette[tone], palette[f"{tone}-soft"]) >= 4.5, tone


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_lines_stand_out_on_the_card(palette):
    for name, colour in SERIES.items():
        assert contrast(colour, palette["card"]) >= 3, name


@pytest.mark.parametrize("vision", [np.eye(3), PROTAN, DEUTAN], ids=["usual", "protan", "deutan"])
def test_curves_that_share_a_plot_differ_for_colour_blind_readers(vision):
    shared = [
        ("measured", "theory"),
        ("before", "after"),
        ("before", "chance"),
        ("measured", "limit"),
        ("dead", "saturated"),
    ]
    for pair in shared:
        a, b = (np.clip(vision @ linear(SERIES[name]), 0, 1) ** (1 / 2.2) for name in pair)
        assert np.linalg.norm(a - b) > 0.12, pair


def test_both_palettes_name_the_same_things():
    assert set(LIGHT) == set(DARK)
    assert template(LIGHT).keys() == template(DARK).keys()
    sheet = stylesheet_variables()
    for name, palette in itertools.product(LIGHT, (LIGHT, DARK)):
        assert f"--{name}:{palette[name]};" in sheet
