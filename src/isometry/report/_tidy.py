"""From whatever a caller has to complete, finite, rounded content.

The page's parts can then rely on every key being there, and only have to expect ``None``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast, get_type_hints

from isometry.report import _content
from isometry.report._content import Content

__all__ = ["DIGITS", "SCHEMA", "tidy", "tidy_phase"]

SCHEMA = 1
DIGITS = 5  # significant, of series: what a plot of a few hundred pixels can show, and a quarter of the bytes

_LIST = "list"


def tidy(content: Mapping[str, Any]) -> Content:
    """Complete a report's content: missing keys become ``None`` or ``[]``, numbers finite and short.

    Args:
        content: The structure of ``report.Content``; any section and any number may be missing or ``None``.

    Returns:
        A new structure with every key of ``report.Content``; the argument is left alone.

    Raises:
        TypeError: If it is not a mapping, or a section has the wrong kind.
        ValueError: If it was written for another schema.
    """
    if not isinstance(content, Mapping):
        raise TypeError(
            f"content must be a mapping as in report.Content, got {type(content).__name__}; "
            "pass what Diagnosis.to_dict() gives."
        )
    schema = content.get("schema", SCHEMA)
    if schema != SCHEMA:
        raise ValueError(
            f"content has schema {schema!r}, but this version draws schema {SCHEMA}; "
            "use the version of isometry that wrote it."
        )
    plain = cast("dict[str, Any]", plain_data(content, "content"))
    plain["schema"] = SCHEMA
    filled = _filled(plain, _content.Content, "content")
    filled["subject"] = _filled(filled["subject"] or {}, _content.Subject, "content['subject']")
    filled["findings"] = _rows(filled["findings"], _content.FindingItem, "content['findings']")
    filled["skipped"] = _rows(filled["skipped"], _content.SkippedItem, "content['skipped']")
    for key, kind, finish in _SECTIONS:
        if filled[key] is not None:
            filled[key] = finish(_filled(filled[key], kind, f"content[{key!r}]"))
    return cast("Content", filled)


def tidy_phase(phase: Mapping[str, Any]) -> _content.PhaseSection:
    """Complete a phase section alone.

    Returns:
        The section with every key.
    """
    where = "phase"
    return cast("_content.PhaseSection", _phase(_filled(plain_data(phase, where), _content.PhaseSection, where)))


def _signal(section: dict[str, Any]) -> dict[str, Any]:
    section["layers"] = _rows(section["layers"], _content.LayerItem, "content['signal']['layers']")
    for i, layer in enumerate(section["layers"]):
        layer["name"] = layer["name"] or f"layer {i + 1}"
    return section


def _jacobian(section: dict[str, Any]) -> dict[str, Any]:
    return _nested(section, "jacobian", law=_content.LawCurve)


def _fisher(section: dict[str, Any]) -> dict[str, Any]:
    section = _nested(section, "fisher", hidden=_content.HiddenFisher, coverage=_content.CoverageSection)
    if section["coverage"] is not None:
        where = "content['fisher']['coverage']['uncovered']"
        section["coverage"]["uncovered"] = _rows(section["coverage"]["uncovered"], _content.UncoveredItem, where)
    return section


def _phase(section: dict[str, Any]) -> dict[str, Any]:
    return _nested(
        section, "phase", critical=_content.CriticalLine, before=_content.PhasePoint, after=_content.PhasePoint
    )


def _prescription(section: dict[str, Any]) -> dict[str, Any]:
    section["changes"] = _rows(section["changes"], _content.Change, "content['prescription']['changes']")
    return section


def _proof(section: dict[str, Any]) -> dict[str, Any]:
    return _nested(section, "proof", before=_content.TrainingRun, after=_content.TrainingRun)


def _cost(section: dict[str, Any]) -> dict[str, Any]:
    section["seconds"] = section["seconds"] or {}
    return section


_SECTIONS: tuple[tuple[str, type, Callable[[dict[str, Any]], dict[str, Any]]], ...] = (
    ("signal", _content.SignalSection, _signal),
    ("jacobian", _content.JacobianSection, _jacobian),
    ("fisher", _content.FisherSection, _fisher),
    ("phase", _content.PhaseSection, _phase),
    ("prescription", _content.PrescriptionSection, _prescription),
    ("proof", _content.ProofSection, _proof),
    ("cost", _content.CostSection, _cost),
)


def _nested(section: dict[str, Any], name: str, **kinds: type) -> dict[str, Any]:
    for key, kind in kinds.items():
        if section[key] is not None:
            section[key] = _filled(section[key], kind, f"content[{name!r}][{key!r}]")
    return section


def _rows(rows: Any, kind: type, where: str) -> list[dict[str, Any]]:
    if rows is None:
        return []
    if not isinstance(rows, list):
        raise TypeError(f"{where} must be a list, got {type(rows).__name__}.")
    return [_filled(row, kind, f"{where}[{i}]") for i, row in enumerate(rows) if row is not None]


def _filled(section: Any, kind: type, where: str) -> dict[str, Any]:
    """Give a section all the keys of its type; keys that the type lacks are kept for the raw data.

    Returns:
        The completed section.

    Raises:
        TypeError: If the section is not a mapping.
    """
    if not isinstance(section, dict):
        raise TypeError(f"{where} must be a mapping or None, got {type(section).__name__}; see report.Content.")
    hints = get_type_hints(kind)
    empty: dict[str, Any] = {key: [] if str(hint).startswith(_LIST) else None for key, hint in hints.items()}
    given = {key: value for key, value in section.items() if value is not None or key not in empty}
    return empty | given


def plain_data(value: Any, where: str) -> Any:
    """Turn into JSON data: arrays to lists, non-finite numbers to ``None``, floats in lists to few digits.

    Single numbers keep theirs: they are printed with three, and what is rounded twice may come out one off.

    Returns:
        The plain value.

    Raises:
        TypeError: If something is no JSON data.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain_data(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_short(plain_data(item, where)) for item in value]
    if hasattr(value, "tolist"):  # tensors, arrays and their scalars
        return plain_data(value.tolist(), where)
    raise TypeError(f"{where} holds a {type(value).__name__}, which JSON cannot; pass numbers, strings and lists.")


def _short(item: Any) -> Any:
    return float(f"{item:.{DIGITS}g}") if isinstance(item, float) else item
