"""The probe's page: series, axes, words, and the page in a browser.

Seen to fail: with `step` instead of `step + 1` the log axis loses step 0; without the style sheet's rule plotly's own
white lies under the white words of the dark page.
"""

import copy
import itertools
import json
import os
import time

import pytest

from isometry import report
from isometry.report._figures._timeline import MOST, Point, gather, timelines
from tests.report import probe_samples as samples
from tests.report.chromium import Chromium, find_chromium


def plots_of(content, broken=()):
    return {plot.title: plot for plot in timelines(gather(content["records"]), broken)}


def test_series_are_what_the_records_hold():
    content = samples.broken()
    series = gather(content["records"])
    assert set(series) == {"signal", "norm", "training"}
    for measure, quantities in series.items():
        for quantity, points in quantities.items():
            wanted = [
                (r["step"], r["seconds"], r["values"][quantity])
                for r in content["records"]
                if r["measure"] == measure and quantity in r["values"]
            ]
            assert points == wanted


def test_every_trace_has_three_time_axes():
    plot = plots_of(samples.healthy())["Signal and gradient"]
    traces, layout = plot.figure["data"], plot.figure["layout"]
    assert [t["name"] for t in traces] == ["q_min", "q_max", "correlation", "gradient_ratio", "dead"]
    assert traces[1]["x"] == [step + 1 for step in samples.STEPS]  # so that step 0 is on the log axis, too
    assert traces[1]["y"] == [1.0 + step for step in samples.STEPS]
    assert layout["xaxis"]["type"] == "log"
    buttons = {b["label"]: b["args"] for b in layout["updatemenus"][0]["buttons"]}
    assert list(buttons) == ["step, log", "step", "seconds"]
    assert all(len(data["x"]) == len(traces) for data, _ in buttons.values())
    assert buttons["step"][0]["x"][1] == list(samples.STEPS)
    assert buttons["seconds"][0]["x"][1] == [0.5 * step for step in samples.STEPS]
    assert {label: (how["xaxis.type"], how["xaxis.title.text"]) for label, (_, how) in buttons.items()} == {
        "step, log": ("log", "step + 1"),
        "step": ("linear", "step"),
        "seconds": ("linear", "seconds of training"),
    }
    assert layout["yaxis"]["type"] == "log"  # q over more than a decade
    assert "type" not in layout["yaxis2"]  # correlation
    domains = [layout[f"yaxis{n}"]["domain"] for n in ("", "2", "3", "4")]
    assert all(low[0] > high[1] for low, high in itertools.pairwise(domains))


def test_a_short_training_starts_on_the_linear_axis():
    content = {"header": {}, "records": [samples.record(s, "norm", {"w": 1.0}) for s in range(5)]}
    layout = plots_of(content)["norm"].figure["layout"]
    assert (layout["xaxis"]["type"], layout["xaxis"]["title"]["text"]) == ("linear", "step")


def test_a_long_series_is_thinned_and_keeps_its_ends():
    content = {"header": {}, "records": [samples.record(s, "norm", {"w": float(s)}) for s in range(4 * MOST)]}
    (trace,) = plots_of(content)["norm"].figure["data"]
    assert len(trace["y"]) <= MOST + 1
    assert (trace["y"][0], trace["y"][-1]) == (0.0, 4 * MOST - 1.0)


def test_where_it_stopped_being_finite_is_marked_in_every_panel():
    plot = plots_of(samples.healthy(), [Point(100, 50.0, None)])["Signal and gradient"]
    marks = [t for t in plot.figure["data"] if t["name"] == "not finite from here"]
    assert len(marks) == 4
    assert all(mark["x"] == [101, 101] for mark in marks)
    low, high = marks[0]["y"]  # of a log axis: powers of its range
    assert 0 < low < 0.1 / 129
    assert high > 129


def test_the_reading_says_it_in_words():
    reading = plots_of(samples.broken())["norm"].reading
    assert reading.startswith(
        "10 measurements. `w` went from 3 at step 0 to 1.72 at step 128. `w` had no finite value once."
    )


def test_the_page_says_what_happened_and_what_is_missing():
    page = report.render_timeline(samples.broken())
    assert "This training stopped being finite" in page
    assert "Not finite at step 100: 1 of 6 parameters hold NaN" in page
    assert "The probe took 3 % of the training&#x27;s time." in page
    assert "8 due measurements skipped between steps 3 and 120: over the cap." in page
    assert "Left out: x has no &lt;real&gt; numbers (step 0)." in page
    assert "<dd>5 %</dd>" in page
    healthy = report.render_timeline(samples.healthy())
    assert "What the probe saw in the training" in healthy
    assert "Not measured" not in healthy
    assert "18 measurements of <code>signal</code> and <code>norm</code>, from step 0 to step 128" in healthy
    assert "Nothing has been measured yet." in report.render_timeline(samples.empty())


def test_the_argument_is_left_alone_and_checked():
    content = samples.broken()
    before = copy.deepcopy(content)
    report.render_timeline(content)
    assert content == before
    with pytest.raises(
        TypeError, match=r"content must be a mapping with a header and a list of records, got list; pass"
    ):
        report.render_timeline([])


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
    [("healthy", "desktop"), ("broken", "dark"), ("broken", "phone"), ("hostile", "desktop"), ("empty", "desktop")],
)
def test_it_opens_without_error_request_or_overflow(browser, tmp_path, name, view):
    path = report.write_text(report.render_timeline(getattr(samples, name)()), tmp_path / "index.html")
    sizes = {"phone": {"width": 360, "height": 780, "phone": True}}
    browser.open(path, dark=view == "dark", **sizes.get(view, {}))
    assert browser.run("document.documentElement.dataset.plots") == "drawn"
    assert browser.problems() == []
    assert browser.requests() == []
    assert browser.run("document.documentElement.scrollWidth - innerWidth") <= 0
    assert browser.run("window.hacked") is None
    plots = {"healthy": 3, "broken": 3, "hostile": 1, "empty": 0}[name]
    assert browser.run("document.querySelectorAll('.plot svg.main-svg').length") >= plots
    assert browser.run("document.querySelectorAll('.plot .scatterlayer path').length") >= 9 * plots * (
        name != "hostile"
    )


AXIS = """(() => { const p = document.querySelector('#plot-time-0'), a = p.layout.xaxis;
    return [a.type, a.title.text, p.data[0].x.slice(-1)[0]].join() })()"""


@pytest.mark.browser
def test_the_axis_is_the_readers_choice_and_stays_it_in_the_dark(browser, tmp_path):
    path = report.write_text(report.render_timeline(samples.healthy()), tmp_path / "index.html")
    browser.open(path)
    assert browser.run(AXIS) == "log,step + 1,129"
    for label, wanted in (("seconds", "linear,seconds of training,64"), ("step", "linear,step,128")):
        place = browser.run(
            "(() => { const e = [...document.querySelectorAll('#plot-time-0 .updatemenu-button')]"
            f".find(e => e.textContent === '{label}'); e.scrollIntoView({{block: 'center', behavior: 'instant'}});"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            browser.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)
        settled(browser, AXIS, wanted)
    browser.run("document.getElementById('theme').click()")
    ink = "getComputedStyle(document.querySelector('#plot-time-0 .updatemenu-item-text')).fill"
    settled(browser, ink, "rgb(232, 235, 239)")
    assert browser.run(AXIS) == "linear,step,128"
    ground = "getComputedStyle(document.querySelector('#plot-time-0 .updatemenu-item-rect')).fill"
    assert browser.run(ground) == "rgb(31, 37, 45)"  # plotly's own would be white on white
    browser.run("localStorage.clear()")


def settled(browser, expression, wanted):
    for _ in range(60):
        value = browser.run(expression)
        if value == wanted:
            return
        time.sleep(0.05)
    raise AssertionError(f"{value} instead of {wanted}")


def test_the_raw_data_is_the_content():
    page = report.render_timeline(samples.broken())
    raw = page.split('id="isometry-content">')[1].split("</script>")[0]
    assert json.loads(raw)["records"][0]["values"]["q_max"] == 1.0
