"""The page in a real browser: drawn, silent, offline, narrow, dark, printable, and deaf to hostile strings."""

from __future__ import annotations

import json
import os
import time

import pytest

from isometry import report
from tests.report import samples
from tests.report.chromium import Chromium, find_chromium

pytestmark = pytest.mark.browser

KEYS = {"signal", "correlation", "units", "jacobian", "fisher", "phase", "proof"}
DRAWN = """Object.fromEntries([...document.querySelectorAll('.plot')].map(box => [box.id.slice(5), {
    svg: box.querySelectorAll('svg.main-svg').length,
    marks: box.querySelectorAll('.scatterlayer path, .barlayer path, .heatmaplayer image').length,
    width: box.querySelector('svg.main-svg').getBoundingClientRect().width,
    box: box.getBoundingClientRect().width}]))"""
OVERFLOW = """[...document.querySelectorAll('body *')].filter(e => {
    const r = e.getBoundingClientRect(), s = getComputedStyle(e);
    return r.width > 1 && r.height > 1 && r.right > innerWidth + 0.5 && s.visibility !== 'hidden' && !e.closest('svg')
        && !e.closest('.visually-hidden, thead');
}).map(e => e.tagName + '.' + e.className).slice(0, 5)"""


@pytest.fixture(scope="module")
def browser():
    executable = find_chromium()
    if executable is None:
        if os.environ.get("ISOMETRY_REQUIRE_BROWSER") == "1":
            pytest.fail("ISOMETRY_REQUIRE_BROWSER=1, but no chromium was found; install it (apt-get install chromium)")
        pytest.skip("no chromium found (apt-get install chromium, or set ISOMETRY_CHROMIUM to one)")
    with Chromium(executable) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    made = {name: getattr(samples, name)() for name in ("sick", "healthy", "empty", "hostile")}
    made["nulled"] = samples.nulled(samples.sick())
    paths = {name: report.write(content, folder / f"{name}.html") for name, content in made.items()}
    paths["phase"] = report.write_text(report.render_phase_diagram(samples.phase(None, None)), folder / "phase.html")
    return paths


@pytest.mark.parametrize("name", ["sick", "healthy", "empty", "nulled", "hostile", "phase"])
@pytest.mark.parametrize("view", ["desktop", "dark", "phone"])
def test_it_opens_without_error_request_or_overflow(browser, pages, name, view):
    sizes = {"phone": {"width": 360, "height": 780, "phone": True}}
    browser.open(pages[name], dark=view == "dark", **sizes.get(view, {}))
    assert browser.run("document.documentElement.dataset.plots") == "drawn"
    assert browser.problems() == []
    assert browser.requests() == []
    assert browser.run("document.documentElement.scrollWidth - innerWidth") <= 0
    assert browser.run(OVERFLOW) == []


@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
def test_every_plot_is_drawn_with_data_and_fits_its_box(browser, pages, phone):
    browser.open(pages["sick"], width=360 if phone else 1280, phone=phone)
    drawn = browser.run(DRAWN)
    assert set(drawn) == KEYS
    for key, plot in drawn.items():
        assert plot["svg"] >= 1, key
        assert plot["marks"] >= 1, key
        assert plot["width"] <= plot["box"] + 1, key
    assert browser.run("document.querySelectorAll('.waiting').length") == 0


def test_the_findings_are_there_before_the_plots(browser, pages):
    browser.open(pages["sick"])
    ready = browser.run("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    plots = browser.run("performance.getEntriesByName('isometry-plots')[0].startTime")
    assert ready < plots


def test_a_phone_gives_the_findings_their_whole_width(browser, pages):
    browser.open(pages["sick"], width=360, height=780, phone=True)
    assert browser.run("document.querySelector('.finding h3').getBoundingClientRect().width") > 270


def test_dark_follows_the_system_the_toggle_and_the_plots_follow_too(browser, pages):
    ground = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.querySelector('#plot-fisher .xtick text')).fill"
    browser.open(pages["sick"])
    light = (browser.run(ground), browser.run(ink))
    assert light == ("rgb(246, 247, 249)", "rgb(23, 27, 33)")
    browser.prefer(dark=True)
    dark = _settled(browser, f"[{ground}, {ink}].join()", "rgb(15, 18, 22),rgb(232, 235, 239)")
    browser.run("document.getElementById('theme').click()")
    _settled(browser, f"[{ground}, {ink}].join()", ",".join(light))
    assert browser.run("document.getElementById('theme').getAttribute('aria-pressed')") == "false"
    browser.run("document.getElementById('theme').click()")
    assert _settled(browser, f"[{ground}, {ink}].join()", dark) == dark
    browser.run("localStorage.clear()")


def _settled(browser, expression, wanted):
    for _ in range(60):
        value = browser.run(expression)
        if value == wanted:
            return value
        time.sleep(0.05)
    raise AssertionError(f"{value} instead of {wanted}")


def test_hostile_strings_do_nothing_and_are_shown(browser, pages):
    browser.open(pages["hostile"])
    assert browser.run("window.hacked") is None
    assert browser.run("document.images.length") == 0
    assert browser.run("[...document.querySelectorAll('a')].every(a => a.hash)") is True
    assert browser.run("document.querySelector('main').innerText.includes('<script>window.hacked=1</script>')") is True


def test_the_policy_stops_what_the_escaping_might_miss(browser, pages, tmp_path):
    """The second line of defence, seen to hold: an injected script and image neither run nor load."""
    html = pages["empty"].read_text(encoding="utf-8")
    attack = '<script>window.hacked=1</script><img src="http://127.0.0.1:9/x.png" onerror="window.hacked=2">'
    path = report.write_text(html.replace("<main", attack + "<main"), tmp_path / "attacked.html")
    browser.open(path)
    assert browser.run("window.hacked") is None
    assert len(browser.problems()) >= 2
    assert all("Content Security Policy" in problem for problem in browser.problems())


def test_plotly_offers_no_button_that_sends_the_chart_away(browser, pages):
    browser.open(pages["sick"])
    titles = browser.run("[...document.querySelectorAll('#plot-signal .modebar-btn')].map(b => b.dataset.title)")
    assert titles == ["Zoom", "Pan", "Reset axes", "Download plot"]


def test_hovering_names_the_layer_and_the_value(browser, pages):
    browser.open(pages["sick"])
    browser.run("document.getElementById('plot-correlation').scrollIntoView({block: 'center', behavior: 'instant'})")
    spot = browser.run(
        "(() => { const r = document.querySelector('#plot-correlation .points path:nth-child(50)')"
        ".getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=spot[0], y=spot[1])
    _settled(browser, "/layers\\.98/.test(document.querySelector('#plot-correlation .hoverlayer').textContent)", True)


def test_the_raw_data_can_be_seen_and_downloaded(browser, pages, tmp_path):
    browser.open(pages["sick"])
    browser.run("document.getElementById('raw').open = true")
    _settled(browser, "document.querySelector('#raw pre').textContent.length > 1000", True)
    shown = json.loads(browser.run("document.querySelector('#raw pre').textContent"))
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.run("document.getElementById('download').click()")
    target = tmp_path / "diagnosis.json"
    for _ in range(100):
        if target.is_file() and target.stat().st_size:
            break
        time.sleep(0.05)
    assert json.loads(target.read_text()) == shown == report.tidy(samples.sick())


def test_it_prints_light_without_controls(browser, pages, tmp_path):
    browser.open(pages["sick"], dark=True)
    browser.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.run("getComputedStyle(document.querySelector('h1')).color") == "rgb(23, 27, 33)"
    hidden = "['nav', '#theme', '#data'].every(s => getComputedStyle(document.querySelector(s)).display === 'none')"
    assert browser.run(hidden) is True
    browser.run("window.dispatchEvent(new Event('beforeprint'))")
    _settled(browser, "getComputedStyle(document.querySelector('#plot-fisher .xtick text')).fill", "rgb(23, 27, 33)")
    browser.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_without_scripts_the_findings_and_readings_remain(browser, pages):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.call("Page.navigate", url=pages["sick"].as_uri())
        time.sleep(0.5)
        root = browser.call("DOM.getDocument", depth=-1)["root"]
        text = json.dumps(root)
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert "The gradient falls by 24 powers of ten" in text
    assert "The largest of 900 eigenvalues is 2.31" in text


def test_an_old_browser_is_told_in_words(browser, pages):
    browser.call("Page.enable")
    script = browser.call("Page.addScriptToEvaluateOnNewDocument", source="delete window.DecompressionStream")
    try:
        browser.open(pages["healthy"])
    finally:
        browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])
    assert browser.run("document.documentElement.dataset.plots") == "failed"
    assert "too old for the plots" in browser.run("document.querySelector('.waiting').textContent")
    assert browser.problems() == []
