"""The page of a comparison: what it says, draws and escapes.

Seen to fail: with the interval's ends printed instead of its half width, without escaping of labels.
"""

from __future__ import annotations

import copy
import math
import os

import pytest

from isometry import report
from isometry.report._figures._comparison import comparison_plots, short_names
from tests.report.chromium import Chromium, find_chromium


def band(name, values, spread=0.1):
    return {
        "name": name,
        "epochs": list(range(len(values))),
        "mean": values,
        "low": [v - spread * v for v in values],
        "high": [v + spread * v for v in values],
    }


def number(mean, half, n=3):
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def entry(init, accuracy, *, edge=None, diverged=0, optimizer="SGD", model="net"):
    return {
        "combination": [model, init, "none", optimizer],
        "choice": {"lr": 0.1, "edge": edge, "scores": {"0.1": 0.5, "1.0": None}, "left_out": []},
        "runs": 3,
        "diverged": diverged,
        "numbers": {"test/accuracy": number(accuracy, 0.02), "validation/loss": number(1 - accuracy, 0.01)},
        "sensitivity": {"0.1": number(1 - accuracy, 0.01), "1.0": {"mean": None, "low": None, "high": None, "n": 0}},
        "diverged_by_lr": {"0.1": 0, "1.0": 3},
        "curves": [band("train/loss", [2.0, 1.0, 0.1]), band("validation/accuracy", [0.1, 0.5, accuracy])],
        "probe": [band("fisher/lambda_max", [1.0, 10.0, 100.0]), band("signal/nonfinite", [0.0, 0.0, 0.0])],
    }


def content(*entries, **more):
    return {
        "name": "Starts",
        "settings": {"data": {"name": "digits"}, "epochs": 2, "batch_size": 10, "seeds": [0, 1, 2], "select": "final"},
        "entries": list(entries),
        "runs": 12,
        "ended": 12,
        "failures": [],
        "notes": [],
        "left_out": [],
        "versions": {"isometry": "0.0"},
        "seconds": 3.5,
        **more,
    }


def test_the_page_says_who_is_ahead_and_how_sure_that_is():
    page = report.render_comparison(content(entry("default", 0.80), entry("critical", 0.90, edge="highest")))
    assert "12 runs of 12 have ended." in page
    assert "Ahead in test accuracy: <code>critical</code> with 0.9; next <code>default</code> with 0.8." in page
    assert "Their 95 % intervals do not overlap." in page
    assert "For 1 combination the best learning rate was the lowest or the highest that was tried; widen" in page
    assert "0.9 ± 0.02" in page
    assert '0.1 <span class="muted">(highest tried)</span>' in page
    close = report.render_comparison(content(entry("default", 0.88), entry("critical", 0.90)))
    assert "Their 95 % intervals overlap, so the order of the two may be chance." in close
    single = entry("critical", 0.9)
    single["numbers"]["test/accuracy"] |= {"low": None, "high": None, "n": 1}
    assert "With one seed there is no interval" in report.render_comparison(content(entry("default", 0.8), single))


def test_losses_are_ranked_the_other_way_round():
    entries = [entry("default", 0.8), entry("critical", 0.9)]
    for item in entries:
        del item["numbers"]["test/accuracy"]
    page = report.render_comparison(content(*entries))
    assert "Ahead in validation loss: <code>critical</code> with 0.1" in page


def test_failures_and_remarks_are_listed():
    page = report.render_comparison(
        content(
            entry("default", 0.5, diverged=2), failures=[["run 3", "no luck"]], notes=["a note"], left_out=["a pair"]
        )
    )
    assert "1 run failed; they are listed below." in page
    for words in ("Run 3: no luck.", "A note.", "A pair."):
        assert words in page
    assert '3 <span class="muted">(2 diverged)</span>' in page


def test_the_figures_hold_the_numbers():
    plots = comparison_plots(content(entry("default", 0.8), entry("critical", 0.9, edge="lowest"))["entries"])
    assert [plot.title for plot in plots] == ["Training", "Learning rates", "Fisher information"]
    training, rates, _ = plots
    means = [t for t in training.figure["data"] if "hovertemplate" in t]
    areas = [t for t in training.figure["data"] if t.get("fill") == "toself"]
    assert [t["name"] for t in means] == ["default", "critical"] * 2
    assert means[0]["y"] == [2.0, 1.0, 0.1]
    assert areas[0]["y"] == pytest.approx([2.2, 1.1, 0.11, 0.09, 0.9, 1.8])  # up along the high, back along the low
    assert [t["showlegend"] for t in means] == [True, True, False, False]
    assert training.figure["layout"]["yaxis"]["type"] == "log"
    assert "type" not in training.figure["layout"]["yaxis2"]  # an accuracy
    lines = [t for t in rates.figure["data"] if t["mode"] == "lines+markers"]
    assert lines[0]["x"] == [0.1, 1.0]
    assert lines[0]["y"] == [pytest.approx(0.2), None]
    rings = [t for t in rates.figure["data"] if t["mode"] == "markers"]
    assert [(t["x"], t["y"]) for t in rings] == [([0.1], [pytest.approx(0.2)]), ([0.1], [pytest.approx(0.1)])]
    assert "`critical`: chosen 0.1, the lowest that was tried, so a better one may lie beyond; diverged: 3 at 1." in (
        rates.reading
    )


def test_many_combinations_are_divided_and_models_kept_apart():
    entries = [entry(f"init {i}", 0.5) for i in range(9)] + [entry("init 0", 0.5, model="other")]
    plots = comparison_plots(entries)
    titles = [plot.title for plot in plots if plot.title.startswith("Training")]
    assert titles == ["Training: net (1)", "Training: net (2)", "Training: other"]
    for plot in plots:
        styles = {}
        for trace in plot.figure["data"]:
            if "hovertemplate" in trace:
                styles.setdefault((trace["line"]["color"], trace["line"].get("dash")), set()).add(trace["name"])
        assert all(len(names) == 1 for names in styles.values())  # no two lines look alike


def test_short_names():
    assert short_names([("a", "x", "n"), ("a", "y", "n")]) == ["x", "y"]
    assert short_names([("a", "x"), ("b", "y")]) == ["a, x", "b, y"]
    assert short_names([("only", "x")]) == ["only"]


def test_nothing_yet_and_missing_numbers():
    assert "Nothing has ended yet." in report.render_comparison(content())
    bare = entry("default", 0.5)
    bare |= {"choice": None, "numbers": {}, "sensitivity": {}, "curves": [], "probe": [], "runs": 0}
    page = report.render_comparison(content(bare))
    assert 'title="not measured"' in page
    nan = entry("default", math.nan)
    report.render_comparison(content(nan))


def test_the_argument_is_left_alone_and_checked():
    given = content(entry("default", 0.5))
    before = copy.deepcopy(given)
    report.render_comparison(given)
    assert given == before
    with pytest.raises(TypeError, match=r"content must be a mapping with a list of entries, got list; pass what"):
        report.render_comparison([])


EVIL = "<script>window.hacked=1</script>"


def hostile():
    evil = entry(EVIL, 0.5, optimizer=EVIL, model=EVIL)
    evil["curves"] = [band(f"train/{EVIL}", [1.0, 2.0]), band("train/loss", [1.0, 2.0])]
    evil["probe"] = [band(f"{EVIL}/{EVIL}", [1.0, 2.0])]
    more = {"name": EVIL, "failures": [[EVIL, EVIL]], "notes": [EVIL], "left_out": [EVIL]}
    return content(evil, entry("b", 0.6, model=EVIL), **more)


def test_every_string_is_escaped():
    page = report.render_comparison(hostile())
    assert EVIL not in page
    assert "&lt;script&gt;window.hacked=1&lt;/script&gt;" in page


@pytest.fixture(scope="module")
def browser():
    executable = find_chromium()
    if executable is None:
        if os.environ.get("ISOMETRY_REQUIRE_BROWSER") == "1":
            pytest.fail("ISOMETRY_REQUIRE_BROWSER=1, but no chromium was found; install it (apt-get install chromium)")
        pytest.skip("no chromium found (apt-get install chromium, or set ISOMETRY_CHROMIUM to one)")
    with Chromium(executable) as chromium:
        yield chromium


@pytest.mark.browser
@pytest.mark.parametrize(
    ("name", "view"),
    [("whole", "desktop"), ("whole", "phone"), ("hostile", "dark"), ("hostile", "phone"), ("empty", "dark")],
)
def test_it_opens_without_error_request_or_overflow(browser, tmp_path, name, view):
    entries = [entry(f"init {i}", 0.1 * i + 0.1, edge="lowest") for i in range(8)]
    given = {"whole": content(*entries), "hostile": hostile(), "empty": content()}[name]
    path = report.write_text(report.render_comparison(given), tmp_path / "index.html")
    size = {"width": 360, "height": 780, "phone": True} if view == "phone" else {}
    browser.open(path, dark=view == "dark", **size)
    assert browser.run("document.documentElement.dataset.plots") == "drawn"
    assert browser.problems() == []
    assert browser.requests() == []
    assert browser.run("document.documentElement.scrollWidth - innerWidth") <= 0
    assert browser.run("window.hacked") is None
