"""A paper in a temporary folder: listed, shown, run, written down, verified."""

from __future__ import annotations

import json
import re
import subprocess

import numpy as np
import pytest

from isometry import papers
from isometry._base import BadReferenceError
from isometry.papers._run import _compact
from tests.papers.fake_paper import CLAIMS, STUDY, write_paper


@pytest.fixture
def home(tmp_path):
    write_paper(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "not_a_paper").mkdir()
    (tmp_path / "_file.py").write_text("")
    return tmp_path


def run_both(home):
    for scale in ("smoke", "full"):
        papers.write_evidence(papers.run("on-balls", scale=scale, folder=home), folder=home)


def test_listed_and_shown(home):
    assert [p.slug for p in papers.list(home)] == ["on-balls"]
    paper = papers.show("on_balls", folder=home)
    text = str(paper)
    assert text.startswith("on-balls: On Balls\nA. Author and B. Author, ICLR 2020, https://example.org/balls")
    assert "balls-roll: not run" in text
    assert "control, must not pass (cubes): cube/distance > 1 on average" in text
    with pytest.raises(ValueError, match="unknown paper 'on-bals'; did you mean 'on-balls'"):
        papers.show("on-bals", folder=home)


def test_a_mistake_in_claims_names_the_paper(home):
    write_paper(home, claims=CLAIMS.replace("title", "titel", 1))
    with pytest.raises(ValueError, match=r"paper on-balls: unknown key in claims\.toml: 'titel'"):
        papers.list(home)


def test_a_run_is_judged(home):
    result = papers.run("on-balls", folder=home)
    assert result.evidence.seeds == (0, 1)
    assert [c.verdict for c in result.claims] == ["holds", "holds"]
    assert str(result).startswith("on-balls at scale smoke, 2 seeds")
    full = papers.run("on-balls", scale="full", folder=home)
    assert full.evidence.seeds == (0, 1, 2, 3, 4)
    assert [c.verdict for c in full.claims] == ["holds", "holds"]
    assert papers.run("on-balls", seeds=3, folder=home).evidence.seeds == (0, 1, 2)
    assert papers.run("on-balls", seeds=(7, 9), folder=home).evidence.seeds == (7, 9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "ful"}, "unknown scale 'ful'; did you mean 'full'"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"seeds": (1, 1)}, "seeds must be a count or distinct whole numbers >= 0, got (1, 1)"),
        ({"seeds": (-1,)}, "seeds must be a count or distinct"),
        ({"seeds": "12"}, "seeds must be a count or distinct"),
        ({"seeds": ()}, "seeds must be a count or distinct"),
    ],
)
def test_bad_scales_and_seeds(home, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        papers.run("on-balls", folder=home, **options)


@pytest.mark.parametrize(
    ("study", "error", "message"),
    [
        ("def run(scale, seeds):\n    return 1\n", TypeError, "run returned int; return papers.Evidence"),
        ("def runn(scale, seeds):\n    return 1\n", BadReferenceError, "has no 'run'"),
        ("run = 3\n", BadReferenceError, "study of on-balls: run is a int; make it a function"),
        ("1 / 0\n", BadReferenceError, "raised while it was imported"),
        (
            STUDY.replace("return collect(scale", 'return collect("full"'),
            ValueError,
            "the evidence is for scale 'full'",
        ),
        (STUDY.replace('"ball/distance"', '"bal/distance"'), ValueError, "asks for a quantity that the evidence lacks"),
    ],
)
def test_bad_studies(home, study, error, message):
    write_paper(home, study=study)
    with pytest.raises(error, match=re.escape(message)):
        papers.run("on-balls", folder=home)


def test_evidence_keeps_all_that_the_numbers_depend_on(home):
    run_both(home)
    text = (home / "on_balls" / "evidence.json").read_text()
    content = json.loads(text)
    assert (content["schema"], content["paper"], list(content["scales"])) == (1, "on-balls", ["smoke", "full"])
    full = content["scales"]["full"]
    assert full["seeds"] == [0, 1, 2, 3, 4]
    assert (full["datasets"], full["notes"], full["skipped"]) == (["slopes"], ["dry"], {})
    assert set(full["versions"]) == {"isometry", "python", "torch", "numpy", "scipy", "platform"}
    assert full["commit"] is None
    distance = full["quantities"]["ball/distance"]
    assert len(distance["values"]) == 5
    assert distance["mean"] == pytest.approx(np.mean(distance["values"]))
    assert distance["interval"][0] < distance["mean"] < distance["interval"][1]
    assert full["quantities"]["speed"]["axis"] == ["low", "mid", "high"]
    assert full["quantities"]["all/balls"] == {"values": 2.5}
    assert [c["verdict"] for c in full["claims"]] == ["holds", "holds"]
    assert full["claims"][0]["controls"][0]["outcome"] == "fails"
    assert str(home) not in text
    assert papers.show("on-balls", folder=home).verdicts() == {"balls-roll": "holds", "steeper-is-faster": "holds"}


def test_a_second_run_replaces_only_its_own_scale(home):
    run_both(home)
    before = papers.show("on-balls", folder=home).evidence()
    papers.write_evidence(papers.run("on-balls", seeds=3, folder=home), folder=home)
    after = papers.show("on-balls", folder=home).evidence()
    assert after["full"] == before["full"]
    assert after["smoke"]["seeds"] == [0, 1, 2]


def test_a_claim_is_judged_only_where_it_is_asked(home):
    text = CLAIMS.replace("[scales.full]", '[scales.paper]\nseeds = 1\nabout = "huge"\n[scales.full]')
    text = text.replace('id = "steeper-is-faster"', 'id = "steeper-is-faster"\nscales = ["smoke", "full"]')
    study = STUDY.replace('"full": 10.0', '"full": 10.0, "paper": 20.0')
    write_paper(home, claims=text, study=study)
    run_both(home)
    result = papers.run("on-balls", scale="paper", folder=home)
    assert [c.id for c in result.claims] == ["balls-roll"]
    papers.write_evidence(result, folder=home)
    assert list(papers.show("on-balls", folder=home).evidence()) == ["smoke", "full", "paper"]
    assert "At the paper's sizes (1 seeds, 0 s): balls-roll holds. dry." in papers.index(home)
    (found,) = papers.verify(folder=home)
    assert found.agrees, str(found)


def test_verification_agrees_with_itself(home):
    run_both(home)
    (found,) = papers.verify(folder=home)
    assert found.agrees, str(found)
    assert str(found).startswith("on-balls: agrees (")


def test_verification_sees_each_kind_of_difference(home):
    (missing,) = papers.verify("on-balls", folder=home)
    assert missing.differences == ("no evidence is committed at scale smoke; run it with --write",)
    run_both(home)

    # Values that moved by more than the tolerance of 5 %, though the verdict stays.
    write_paper(home, study=STUDY.replace("(2 + noise)", "(2.3 + noise)"))
    (moved,) = papers.verify(folder=home)
    assert not moved.agrees
    assert re.fullmatch(r"ball/distance: largest relative difference 0\.1\d, allowed 0\.05", moved.differences[0])

    # A verdict that turned.
    write_paper(home, study=STUDY.replace("(2 + noise)", "0"))
    (turned,) = papers.verify(folder=home)
    assert "smoke, balls-roll: committed is 'holds', re-run gives 'fails'" in turned.differences

    # A quantity that is new.
    write_paper(home, study=STUDY.replace("all__balls=2.5", "all__balls=2.5, new=1.0"))
    (new,) = papers.verify(folder=home)
    assert new.differences == ("new: missing in the committed evidence",)

    # A rule that was tightened after the evidence was written: also the full run, which is not run again, is found.
    write_paper(home, claims=CLAIMS.replace("threshold = 1", "threshold = 1000", 1))
    (stale,) = papers.verify(folder=home)
    assert "full, balls-roll: committed is 'holds', the rules now give 'fails'" in stale.differences


def test_damaged_evidence_is_named(home):
    (home / "on_balls" / "evidence.json").write_text("{")
    with pytest.raises(ValueError, match=r"on-balls: evidence\.json is damaged .* run the study again"):
        papers.verify(folder=home)


def test_the_commit_is_recorded_in_a_checkout(home):
    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *identity, *arguments], cwd=home, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    assert papers.run("on-balls", folder=home).commit is None  # below a checkout, but not part of it
    git("add", "-A")
    git("commit", "-qm", "Add paper")
    clean = papers.run("on-balls", folder=home)
    assert (clean.commit, clean.dirty) == (git("rev-parse", "HEAD"), False)
    (home / "on_balls" / "study.py").write_text(STUDY.lstrip() + "\n")
    assert papers.run("on-balls", folder=home).dirty is True


def test_numbers_stand_on_one_line():
    text = _compact({"a": [1.5, None, -2e-05], "b": ["x"], "c": [[1, 2], [3, 4]]})
    assert '"a": [1.5, null, -2e-05]' in text
    assert json.loads(text) == {"a": [1.5, None, -2e-05], "b": ["x"], "c": [[1, 2], [3, 4]]}
