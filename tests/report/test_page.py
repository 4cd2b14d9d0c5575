"""The page as text: order, safety, self-containment."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from isometry import report
from isometry.report import _plotly_js
from tests.report import samples

MAKERS = [samples.sick, samples.healthy, samples.empty, samples.hostile]


class Page(HTMLParser):
    """A page's elements as a browser's parser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.text = ""
        self._open: str | None = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in {"script", "style"}:
            self._open = dict(attrs).get("id") or tag
            self.scripts[self._open] = ""

    def handle_endtag(self, tag):
        if tag in {"script", "style"}:
            self._open = None

    def handle_data(self, data):
        if self._open:
            self.scripts[self._open] += data
        else:
            self.text += data


@pytest.fixture(scope="module")
def sick():
    return report.render(samples.sick())


def test_the_verdict_comes_first_then_findings_remedy_and_evidence(sick):
    order = ['id="verdict"', 'id="findings"', 'id="remedy"', 'id="evidence"', 'id="skipped"', 'id="cost"', 'id="data"']
    places = [sick.index(mark) for mark in order]
    assert places == sorted(places)
    assert sick.index('id="plotly-gz"') > places[-1]  # the weight comes last


def test_findings_show_value_beside_expected_remedy_and_place(sick):
    card = sick[sick.index('class="finding card error"') :]
    card = card[: card.index("</li><li")]
    assert "gradient.vanishing" in card
    assert "<dt>Measured</dt><dd>1.82" in card
    assert "<dt>Expected</dt><dd>100" in card
    assert "<b>What to do.</b> Initialize at the critical point" in card
    assert "<code>iso.init.critical_(model)</code>" in card
    assert "Where: <code>layers.0</code> … <code>layers.198</code>" in card


def test_findings_go_from_grave_to_slight(sick):
    kinds = re.findall(r'class="finding card (\w+)"', sick)
    assert kinds == ["error"] * 3 + ["warning"] * 2 + ["info"]


def test_the_paragraph_tells_the_whole_story(sick):
    paragraph = re.sub(r"<[^>]+>", "", sick[sick.index('id="verdict"') : sick.index('class="facts"')])
    for words in ("1,007,410 parameters", "100 samples of digits", "3 errors, 2 warnings and 1 remark", "The gravest:"):
        assert words in paragraph
    assert "What to change: orthogonal weights" in paragraph
    assert "reaches 95.3 % accuracy" in paragraph


def test_a_healthy_net_is_told_to_change_nothing():
    content = samples.healthy() | {key: samples.sick()[key] for key in ("prescription", "proof")}
    page = Page(report.render(content)).text
    assert "What to change" not in page
    assert "For comparison, it was also trained with: orthogonal weights" in page


@pytest.mark.parametrize("make", MAKERS)
def test_one_file_that_asks_for_nothing(make):
    html = report.render(make())
    page = Page(html)
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            if name in {"src", "href", "action", "srcset", "poster", "data"}:
                assert value.startswith(("#", "data:")), (tag, name, value)
    own = html.replace(page.scripts.get("plotly-gz") or "\0", "")
    assert "url(" not in own
    assert "@import" not in own
    links = set(re.findall(r"https?://[^\s\"'&<\\]*", own))
    assert links <= {"https://example.org/x"}  # the hostile sample's text


@pytest.mark.parametrize("make", MAKERS)
def test_the_policy_allows_exactly_the_pages_two_scripts(make):
    page = Page(report.render(make()))
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    allowed = re.findall(r"'sha256-[^']+'", policy)
    running = [page.scripts["script"].encode()]
    if page.scripts["plotly-gz"]:
        running.append(gzip.decompress(base64.b64decode(page.scripts["plotly-gz"])))
    assert allowed == [f"'sha256-{base64.b64encode(hashlib.sha256(code).digest()).decode()}'" for code in running]
    typed = [a.get("type") for tag, a in page.elements if tag == "script"]
    assert typed == [None, "application/json", "application/json", "application/octet-stream;base64"]


def test_hostile_strings_are_only_text():
    page = Page(report.render(samples.hostile()))
    tags = {tag for tag, _ in page.elements}
    assert not {"img", "a:", "iframe", "object", "embed", "form", "b:"} & tags
    assert "<script>window.hacked=1</script>" in page.text
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    links = [a["href"] for tag, a in page.elements if tag == "a"]
    assert links == ["#main", "#findings", "#remedy", "#evidence", "#skipped"]
    assert "\u202e" not in page.text


@pytest.mark.parametrize("make", MAKERS)
def test_the_embedded_json_is_the_tidied_content(make):
    page = Page(report.render(make()))
    assert json.loads(page.scripts["isometry-content"]) == report.tidy(make())
    assert json.loads(page.scripts["isometry-figures"])["themes"].keys() == {"light", "dark"}


def test_every_plot_has_a_place_a_title_and_a_reading(sick):
    page = Page(sick)
    figures = json.loads(page.scripts["isometry-figures"])["figures"]
    assert set(figures) == {"signal", "correlation", "units", "jacobian", "fisher", "phase", "proof"}
    ids = {a.get("id") for _, a in page.elements}
    for key in figures:
        assert {f"plot-{key}", f"r-{key}", f"t-{key}"} <= ids


def test_ids_are_unique_and_references_lead_somewhere(sick):
    page = Page(sick)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name, ids[0]) in ids
        if (attributes.get("href") or "").startswith("#"):
            assert attributes["href"][1:] in ids


def test_equal_changes_take_one_row(sick):
    table = sick[sick.index("Prescribed changes") : sick.index("</table>", sick.index("Prescribed changes"))]
    assert table.count("<tr>") == 1 + 3
    assert "layers.0.weight</code> … <code>layers.198.weight</code> (100)" in table


def test_a_finding_without_a_norm_shows_its_value_alone():
    finding = {"severity": "info", "code": "step_size", "message": "m", "value": 7.65, "expected": None}
    html = report.render({"findings": [finding]})
    assert "<dt>Measured</dt><dd>7.65" in html
    assert "Expected" not in html


def test_only_the_first_clause_of_a_message_is_a_heading():
    html = report.render({"findings": [{"severity": "error", "code": "c", "message": "It dies: q = 1e-9. See below."}]})
    assert "<h3>It dies.</h3><p>q = 1&#8239;×&#8239;10<sup>−9</sup>. See below.</p>" in html
    assert "It shows 1 error. It dies.</p>" in html


def test_sizes():
    assert len(report.render(samples.sick())) < 2_500_000
    assert len(report.render(samples.empty())) < 40_000  # no plot, no plotly


def test_rendering_is_deterministic():
    assert report.render(samples.healthy()) == report.render(samples.healthy())


def test_healthy_and_nothing_are_told_apart():
    assert "Every check passed" in report.render(samples.healthy())
    nothing = report.render(samples.empty())
    assert "Nothing was judged" in nothing
    assert nothing.count("Not asked for, or no reason was recorded.") == 5
    assert nothing.count("Not asked for.") == 1  # a proof is not made unasked


def test_without_a_verdict_the_worst_finding_decides():
    warning = {"severity": "warning", "code": "x", "message": "m"}
    assert "worse or riskier" in report.render({"findings": [warning]})


def test_actions_are_not_broken_inside_a_word():
    html = report.render(samples.sick())
    assert "td.word{overflow-wrap:normal}" in html
    assert '<td class="word" data-label="Action">set</td>' in html


def test_skipped_parts_with_a_reason_are_listed_once():
    html = report.render(samples.healthy())
    part = html[html.index('id="skipped"') :]
    assert part.count("Prescription") + part.count("prescription</td>") == 1
    assert "run with --prove STEPS" in part


def test_the_phase_diagram_alone():
    html = report.render_phase_diagram(samples.phase(None, None))
    assert "<h1>Phase diagram of tanh</h1>" in html
    assert set(json.loads(Page(html).scripts["isometry-figures"])["figures"]) == {"phase"}
    with pytest.raises(ValueError, match="phase has no grid: give sigma_w, sigma_b and chi"):
        report.render_phase_diagram({"activation": "tanh"})


def test_importing_and_drawing_loads_neither_plotly_nor_torch():
    code = (
        "import sys, isometry.report as r; r.render({'fisher': {'eigenvalues': [1.0]}}); "
        "print([m for m in ('plotly', 'torch', 'numpy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_plotly_is_told(monkeypatch):
    monkeypatch.setattr(_plotly_js.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match=r"reinstall it: pip install --force-reinstall plotly"):
        report.render({"fisher": {"eigenvalues": [1.0]}})
