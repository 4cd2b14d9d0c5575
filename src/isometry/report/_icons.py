"""The page's few icons, as inline SVG in the current colour. Shapes differ, so colour alone never carries meaning."""

from __future__ import annotations

__all__ = ["BRAND", "MOON", "SEVERITY", "SUN"]


def _icon(body: str, *, view: str = "0 0 24 24", more: str = "") -> str:
    return f'<svg viewBox="{view}" aria-hidden="true" focusable="false"{more}>{body}</svg>'


_LINE = 'fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" stroke-linejoin="round"'

SEVERITY = {
    "error": _icon(f'<g {_LINE}><path d="M8 2.5h8L21.5 8v8L16 21.5H8L2.5 16V8z"/><path d="M9 9l6 6M15 9l-6 6"/></g>'),
    "warning": _icon(f'<g {_LINE}><path d="M12 3.2 22 20.5H2z"/><path d="M12 10v5M12 17.8v.1"/></g>'),
    "info": _icon(f'<g {_LINE}><circle cx="12" cy="12" r="9.5"/><path d="M12 11v6M12 7.2v.1"/></g>'),
    "healthy": _icon(f'<g {_LINE}><circle cx="12" cy="12" r="9.5"/><path d="m7.5 12.4 3 3 6-6.6"/></g>'),
    "unknown": _icon(f'<g {_LINE}><circle cx="12" cy="12" r="9.5"/><path d="M8 12h8"/></g>'),
}

SUN = _icon(
    f'<g {_LINE}><circle cx="12" cy="12" r="4.2"/><path d="M12 2v2.4M12 19.6V22M2 12h2.4M19.6 12H22M4.9 4.9l1.7 1.7'
    'M17.4 17.4l1.7 1.7M4.9 19.1l1.7-1.7M17.4 6.6l1.7-1.7"/></g>',
    more=' class="sun"',
)
MOON = _icon(f'<path {_LINE} d="M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5z"/>', more=' class="moon"')

# A square and the same square turned: an isometry.
BRAND = _icon(
    f'<g {_LINE}><rect x="5" y="5" width="14" height="14" rx="1"/>'
    '<rect x="5" y="5" width="14" height="14" rx="1" transform="rotate(45 12 12)" opacity=".55"/></g>'
)
