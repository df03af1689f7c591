"""Stacked horizontal bars as an SVG picture: one bar per place, one colour per kind."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 860, 190, 90, 64, 30
_COLOURS = ("#1b6ca8", "#27864a", "#e08e0b", "#7d3c98", "#c0392b", "#16808a", "#999999")


def svg_bars(title: str, bars: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """The picture as text.

    Args:
        bars: by name of the bar, the length of each kind, at least 0; drawn in the order given.
        unit: written behind each bar's sum.
    """
    kinds = list(dict.fromkeys(kind for parts in bars.values() for kind in parts))
    most = max((sum(parts.values()) for parts in bars.values()), default=0.0) or 1.0
    height = _TOP + _ROW * len(bars) + 12
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    colours = {kind: _COLOURS[n % len(_COLOURS)] for n, kind in enumerate(kinds)}
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="8" y="20" font-size="14">{escape(title)}</text>',
    ]
    for n, kind in enumerate(kinds):
        x = 8 + n * (_WIDTH - 16) / max(len(kinds), 1)
        drawn.append(_block(x, 34, 10, 10, colours[kind], kind))
        drawn.append(f'<text x="{x + 14:.1f}" y="43">{escape(kind)}</text>')
    for n, (name, parts) in enumerate(bars.items()):
        y, x = _TOP + n * _ROW, float(_LEFT)
        drawn.append(f'<text x="{_LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>')
        for kind, value in parts.items():
            words = f"{kind}: {value:,.0f} {unit}"
            drawn.append(_block(x, y, value * scale, _ROW - 9, colours[kind], words))
            x += value * scale
        total = f"{sum(parts.values()):,.0f} {unit}"
        drawn.append(f'<text x="{x + 6:.1f}" y="{y + 15}">{escape(total)}</text>')
    return "\n".join([*drawn, "</svg>", ""])


def _block(x: float, y: float, width: float, height: float, colour: str, words: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{height}" fill="{colour}">'
        f"<title>{escape(words)}</title></rect>"
    )
