"""Curves as an SVG picture: lines, axes and a legend, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 380, 60, 200, 40, 50
_COLOURS = ("#1b6ca8", "#c0392b", "#e08e0b", "#27864a", "#7d3c98", "#555555")
_TICKS = 5


def svg_curves(
    title: str,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    x_name: str,
    y_name: str,
    level: float | None = None,
) -> str:
    """The picture as text.

    Args:
        curves: by name, points in order of x; all from 0.
        level: a dashed line at this y.
    """
    points = [point for curve in curves.values() for point in curve]
    x_max = max((x for x, _ in points), default=0.0) or 1.0
    y_max = max([*(y for _, y in points), level or 0.0]) * 1.1 or 1.0
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def at(x: float, y: float) -> str:
        return f"{_LEFT + x / x_max * wide:.1f},{_TOP + (1 - y / y_max) * high:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_LEFT, 22, title, size=14),
        f'<polyline fill="none" stroke="black" points="{at(0, y_max)} {at(0, 0)} {at(x_max, 0)}"/>',
        _text(_LEFT + wide / 2, _HEIGHT - 12, x_name, anchor="middle"),
        _text(4, _TOP - 6, y_name),
    ]
    for tick in range(_TICKS + 1):
        x, y = x_max * tick / _TICKS, y_max * tick / _TICKS
        left, bottom = at(x, 0).split(",")[0], at(0, y).split(",")[1]
        parts.append(_text(float(left), _HEIGHT - _BOTTOM + 18, f"{x:.3g}", anchor="middle"))
        parts.append(_text(_LEFT - 6, float(bottom) + 4, f"{y:.2g}", anchor="end"))
    if level is not None:
        dashed = 'stroke="gray" stroke-dasharray="5 4"'
        parts.append(f'<polyline fill="none" {dashed} points="{at(0, level)} {at(x_max, level)}"/>')
    for place, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        line = " ".join(at(x, y) for x, y in curve)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{line}"/>')
        parts.append(_text(_WIDTH - _RIGHT + 10, _TOP + 18 * place + 8, name, colour=colour))
    return "\n".join([*parts, "</svg>", ""])


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = "black"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{colour}">{escape(text)}</text>'
    )
