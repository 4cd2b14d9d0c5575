"""Text: nothing that a user wrote may act as markup, script, plotly tag or terminal code."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry.report import _wording
from isometry.report._wording import clean, html_number, html_text, number, plot_text, prose, script_json, split_lead
from tests.report.samples import HOSTILE


class Reader(HTMLParser):
    """What a browser would make of a fragment: its tags and its text."""

    def __init__(self, fragment: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.text = ""
        self.feed(fragment)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


@given(st.text(max_size=60))
@settings(deadline=None, max_examples=60)
def test_escaped_text_reads_as_it_was_and_holds_no_tag(text):
    reader = Reader(f"<p>{html_text(text)}</p>")
    assert reader.tags == ["p"]
    assert reader.text == clean(text)


@given(st.text(alphabet="ab`<>&\"'e1.-σ_w 0", max_size=40))
@settings(deadline=None, max_examples=100)
def test_prose_adds_only_its_own_three_tags(text):
    assert set(Reader(prose(text)).tags) <= {"code", "sup", "sub"}


def test_prose_sets_code_powers_and_subscripts():
    assert prose("`x<1` fell to 1.2e-07 at σ_w") == (
        "<code>x&lt;1</code> fell to 1.2&#8239;×&#8239;10<sup>−7</sup> at σ<sub>w</sub>"
    )
    assert prose("layers.1e3 and 5e") == "layers.1e3 and 5e"


@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
@settings(deadline=None, max_examples=60)
def test_json_in_a_script_reads_back_and_cannot_end_it(value):
    text = script_json(value)
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")


def test_plotly_gets_no_tags():
    assert plot_text('<a href="x">%{y}</a> & more') == '&lt;a href="x"&gt;%{y}&lt;/a&gt; &amp; more'


def test_control_characters_and_direction_marks_are_made_visible():
    assert clean("a\x1b[31mb\u202ec\x00\nd\r\ne") == "a\ufffd[31mb\ufffdc\ufffd\nd\ne"
    assert "\x1b" not in clean(HOSTILE)
    assert clean("\ud800").encode() == "\ufffd".encode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (0.0123456, "0.0123"),
        (-2.5, "-2.5"),
        (1234567, "1,234,567"),
        (1234567.0, "1.23e6"),
        (1e-300, "1e-300"),
        (-1.5e-9, "-1.5e-9"),
        (999999.0, "1,000,000"),
        (None, "–"),
        ("yes", "yes"),
        ("a\x00", "a\ufffd"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


@given(st.floats(min_value=-1e300, max_value=1e300))
@settings(deadline=None, max_examples=200)
def test_a_short_number_is_the_number_to_three_digits(value):
    assert float(number(value).replace(",", "")) == pytest.approx(value, rel=5.1e-3)


def test_html_numbers_use_a_true_minus_and_powers():
    assert html_number(-1.5e-9) == "−1.5&#8239;×&#8239;10<sup>−9</sup>"
    assert html_number(-2) == "−2"
    assert html_number("1e-3 <b>") == "1e-3 &lt;b&gt;"
    assert 'title="not measured"' in html_number(None)


def test_counts_and_lists():
    assert _wording.count(1, "layer") == "1 layer"
    assert _wording.count(0, "loss", "losses") == "0 losses"
    assert [_wording.joined(parts) for parts in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


@pytest.mark.parametrize(
    ("message", "head", "rest"),
    [
        ("Inputs look alike: the share falls.", "Inputs look alike.", "The share falls."),
        ("One sentence with 0.5 in it.", "One sentence with 0.5 in it.", ""),
        ("First one. `x` second; third.", "First one.", "`x` second; third."),
        ("It dies; q = 0 there.", "It dies.", "q = 0 there."),
        ("It dies: fc1.weight is zero.", "It dies.", "fc1.weight is zero."),
        ("", "", ""),
    ],
)
def test_a_message_is_cut_after_its_first_clause(message, head, rest):
    assert split_lead(message) == (head, rest)
