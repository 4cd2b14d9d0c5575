"""``claims.toml``: what is right is read, and every mistake is named."""

from __future__ import annotations

import re

import pytest

from isometry.papers import Rule, read_claims
from tests.papers.fake_paper import CLAIMS


def read(tmp_path, text):
    (tmp_path / "claims.toml").write_text(text)
    return read_claims(tmp_path / "claims.toml")


def test_a_sound_file(tmp_path):
    claims = read(tmp_path, CLAIMS)
    assert (claims.title, claims.year) == ("On Balls", 2020)
    assert [(s.name, s.seeds) for s in claims.scales] == [("smoke", 2), ("full", 5)]
    first, second = claims.claims
    assert first.rules == (Rule("ball/distance", ">", "mean", 1.0),)
    assert first.controls == (Rule("cube/distance", ">", "mean", 1.0),)
    assert (first.tolerance, second.tolerance) == (0.05, 0.2)
    assert second.rules == (Rule("speed", "increasing", "interval"),)


def test_a_list_of_quantities_stands_for_one_rule_each(tmp_path):
    text = CLAIMS.replace('quantity = "ball/distance"', 'quantity = ["digits/x", "fashion-mnist/x"]\nscales = ["full"]')
    rules = read(tmp_path, text).claims[0].rules
    assert [r.quantity for r in rules] == ["digits/x", "fashion-mnist/x"]
    assert all(r.scales == ("full",) for r in rules)


def test_a_third_scale_and_claims_that_are_asked_at_some(tmp_path):
    text = CLAIMS.replace("[scales.full]", '[scales.paper]\nseeds = 1\nabout = "huge"\n[scales.full]')
    claims = read(tmp_path, text.replace('id = "balls-roll"', 'id = "balls-roll"\nscales = ["smoke", "full"]'))
    assert [s.name for s in claims.scales] == ["smoke", "full", "paper"]
    assert [[c.id for c in claims.asked(s)] for s in ("smoke", "paper")] == [
        ["balls-roll", "steeper-is-faster"],
        ["steeper-is-faster"],
    ]


def test_a_range(tmp_path):
    text = CLAIMS.replace('comparison = ">"\nthreshold = 1', 'comparison = "within"\nthreshold = [0.5, 2]', 1)
    assert read(tmp_path, text).claims[0].rules[0].threshold == (0.5, 2.0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "On Balls"', "title = ", "claims.toml is not TOML:"),
        ('title = "On Balls"', 'titel = "On Balls"', "unknown key in claims.toml: 'titel'; did you mean 'title'?"),
        ('title = "On Balls"', "", "claims.toml lacks the key 'title'; add it."),
        ('title = "On Balls"', 'title = " "', "claims.toml: title is empty; write a sentence."),
        ("year = 2020", 'year = "2020"', "claims.toml: year must be a whole number, got '2020'."),
        ("year = 2020", "year = true", "claims.toml: year must be a whole number, got True."),
        ("[scales.full]", "[scales.huge]", "claims.toml, [scales] lacks the key 'full'"),
        ("seeds = 2", "seeds = 0", "claims.toml, [scales], [smoke]: seeds must be at least 1, got 0."),
        ('about = "small; 1 s"', 'about = "s"\ncost = "1"', "unknown key in claims.toml, [scales], [smoke]: 'cost'"),
        ('id = "balls-roll"', 'id = "Balls roll"', "id 'Balls roll' must be lower-case words with hyphens"),
        ('id = "steeper-is-faster"', 'id = "balls-roll"', "claims.toml: two claims are called 'balls-roll'"),
        (
            'cost = "1 s"',
            'kost = "1 s"',
            "unknown key in claims.toml, claim 'balls-roll': 'kost'; did you mean 'cost'?",
        ),
        ("tolerance = 0.2", "tolerance = -1", "claim 'steeper-is-faster': tolerance must be a finite number >= 0"),
        ('comparison = ">"', 'comparison = "=>"', "unknown comparison in claims.toml, claim 'balls-roll', pass 1 '=>'"),
        ('over = "mean"', 'over = "most"', "unknown over in claims.toml, claim 'balls-roll', pass 1 'most'"),
        ("threshold = 1", 'threshold = "1"', "pass 1: threshold must be a finite number, got '1'."),
        ("threshold = 1", "threshold = nan", "pass 1: threshold must be a finite number, got nan."),
        ("threshold = 1", "treshold = 1", "'treshold'; did you mean 'threshold'?"),
        ("threshold = 1", "", "claim 'balls-roll', pass 1 lacks the key 'threshold'"),
        ('comparison = ">"', 'comparison = "within"', "threshold must be [low, high] for 'within', got 1."),
        ('comparison = "increasing"', 'comparison = "increasing"\nthreshold = 1', "unknown key in claims.toml, claim"),
        (
            'quantity = "ball/distance"',
            "quantity = []",
            "pass 1: quantity must be a string or a list of strings, got []",
        ),
        ('quantity = "ball/distance"', 'quantity = "a"\nscales = ["smok"]', "'smok'; did you mean 'smoke'?"),
        ('id = "balls-roll"', 'id = "balls-roll"\nscales = ["papr"]', "'papr'; did you mean 'paper'?"),
    ],
)
def test_mistakes_are_named(tmp_path, old, new, message):
    assert old in CLAIMS
    with pytest.raises(ValueError, match=re.escape(message)):
        read(tmp_path, CLAIMS.replace(old, new, 1))


@pytest.mark.parametrize("key", ["pass", "control"])
def test_a_claim_without_rule_or_control_is_refused(tmp_path, key):
    text = re.sub(rf"(?s)\[\[claims\.{key}\]\].*?(?=\n\[\[|\Z)", "", CLAIMS)
    with pytest.raises(ValueError, match=f"claim 'balls-roll' lacks the key '{key}'"):
        read(tmp_path, text)
