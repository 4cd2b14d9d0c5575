"""Numbers and user strings as text: for HTML, for plotly and for the terminal."""

from __future__ import annotations

import html
import json
import re
from typing import Any

__all__ = [
    "clean",
    "count",
    "html_number",
    "html_text",
    "joined",
    "number",
    "plot_text",
    "prose",
    "script_json",
    "sentence",
    "split_lead",
]

MISSING = "–"

# Control characters (but not tab and newline), and the marks that reorder or hide text on a screen.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")

_SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)e([+-]?\d{1,3})(?![\w.]*\w)")
_SUBSCRIPT = re.compile(r"(?<!\w)(σ|ξ|λ|sigma|xi|lambda)_(w|b|c|q|grad|max)\b")
_GREEK = {"sigma": "σ", "xi": "ξ", "lambda": "λ"}
_LEAD = re.compile(r"(?<=[^\s.]{3})([.;:])\s+(?=\S)")


def clean(text: object) -> str:
    """Show what would act on a terminal or reorder a page as a replacement sign.

    Returns:
        The text without control characters, direction marks and lone surrogates.
    """
    return _UNSEEN.sub("\ufffd", str(text).replace("\r\n", "\n"))


def html_text(text: object) -> str:
    """Escape a user's string for an element's text or a quoted attribute.

    Returns:
        Safe HTML.
    """
    return html.escape(clean(text), quote=True)


def prose(text: object) -> str:
    """Escape a sentence; set `...` as code, 1.2e-7 as a power of ten and σ_w with a subscript.

    Returns:
        Safe HTML.

    Example:
        >>> prose("`a<b` fell to 1.2e-07")
        '<code>a&lt;b</code> fell to 1.2&#8239;×&#8239;10<sup>−7</sup>'
    """
    parts = re.split(r"`([^`]+)`", html_text(text))
    parts[::2] = [_SUBSCRIPT.sub(_symbol, _SCIENTIFIC.sub(_power, part)) for part in parts[::2]]
    parts[1::2] = [f"<code>{part}</code>" for part in parts[1::2]]
    return "".join(parts)


def sentence(text: str | None) -> str:
    """Give words a capital letter and a full stop, if they lack them.

    Returns:
        The sentence, or nothing.

    Example:
        >>> sentence("orthogonal weights"), sentence("`x` is zero."), sentence(None)
        ('Orthogonal weights.', '`x` is zero.', '')
    """
    text = (text or "").strip()
    return text if not text else _capital(text) + ("" if text[-1] in ".!?:" else ".")


def _capital(text: str) -> str:
    """Begin with a capital letter, unless the sentence begins with a symbol (``q = 1``) or a name (``fc1.weight``).

    Returns:
        The text.
    """
    return text[0].upper() + text[1:] if re.match(r"(a|[a-z]{2,})(,| (?![=<>]))", text) else text


def split_lead(message: str) -> tuple[str, str]:
    """Cut a message after its first clause, which alone is set in bold and stands in the verdict.

    Returns:
        The clause, with a full stop if something follows, and the rest, with a capital letter.

    Example:
        >>> split_lead("Inputs look alike: the share falls to 7e-15. Theory: 0.9 layers.")
        ('Inputs look alike.', 'The share falls to 7e-15. Theory: 0.9 layers.')
    """
    cut = _LEAD.search(message)
    if cut is None:
        return message, ""
    rest = message[cut.end() :]
    return f"{message[: cut.start()]}.", _capital(rest)


def _symbol(match: re.Match[str]) -> str:
    letter, index = match.groups()
    return f"{_GREEK.get(letter, letter)}<sub>{index}</sub>"


def _power(match: re.Match[str]) -> str:
    mantissa, exponent = match.groups()
    return f"{mantissa}&#8239;×&#8239;10<sup>{'−' if int(exponent) < 0 else ''}{abs(int(exponent))}</sup>"


def plot_text(text: object) -> str:
    """Escape a user's string for plotly, which reads a few tags and entities in any text.

    Returns:
        Text that plotly shows as it was.
    """
    return clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def script_json(value: Any) -> str:
    """Write JSON that cannot end the script element it stands in.

    Returns:
        JSON without ``<``, ``>``, ``&`` and the line separators that JavaScript knows.
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def number(value: Any, digits: int = 3) -> str:
    """Write a number with few digits, for plain text.

    Returns:
        For example ``0.0123``, ``1,200`` or ``1.2e-19``; a dash for ``None``.

    Example:
        >>> number(0.01234), number(1.234e-19), number(64000), number(None), number(2.0)
        ('0.0123', '1.23e-19', '64,000', '–', '2')
    """
    if value is None:
        return MISSING
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, bool | int):
        return f"{value:,}"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        rounded = float(f"{value:.{digits}g}")
        return f"{rounded:,.{max(0, digits + 3)}f}".rstrip("0").rstrip(".")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}"


def html_number(value: Any, digits: int = 3) -> str:
    """Write a number for HTML, with powers of ten set as such.

    Returns:
        Safe HTML.
    """
    if value is None:
        return f'<span class="missing" title="not measured">{MISSING}</span>'
    text = html_text(number(value, digits))
    if isinstance(value, float) and "e" in text:
        return _SCIENTIFIC.sub(_power, text).replace("-", "−")
    return text.replace("-", "−") if isinstance(value, int | float) else text


def count(amount: int, noun: str, plural: str | None = None) -> str:
    """Write an amount with its noun.

    Returns:
        For example ``1 layer`` or ``1,000 layers``.

    Example:
        >>> count(1, "layer"), count(1000, "layer"), count(2, "loss", "losses")
        ('1 layer', '1,000 layers', '2 losses')
    """
    return f"{amount:,} {noun if amount == 1 else plural or noun + 's'}"


def joined(parts: list[str]) -> str:
    """Join the parts of a sentence with commas and one "and".

    Returns:
        For example ``a, b and c``.

    Example:
        >>> joined(["a", "b", "c"]), joined(["a"])
        ('a, b and c', 'a')
    """
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""
