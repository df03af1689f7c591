"""Curves as an SVG picture: lines, axes and a legend, nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 380, 60, 200, 40, 50
_COLOURS = ("#1b6ca8", "#c0392b", "#e08e0b", "#27864a", "#7d3c98", "#555555")
_TICKS = 5
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


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
    x_step, y_step = _step(x_max), _step(y_max)
    y_max = y_step * math.ceil(y_max / y_step - 1e-9)
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def at(x: float, y: float) -> str:
        return f"{_LEFT + x / x_max * wide:.1f},{_TOP + (1 - y / y_max) * high:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_LEFT, 16, title, size=14),
        f'<polyline fill="none" stroke="black" points="{at(0, y_max)} {at(0, 0)} {at(x_max, 0)}"/>',
        _text(_LEFT + wide / 2, _HEIGHT - 12, x_name, anchor="middle"),
        _text(4, _TOP - 9, y_name),
    ]
    for tick in range(math.floor(x_max / x_step + 1e-9) + 1):
        left = at(tick * x_step, 0).split(",")[0]
        text = _number(tick * x_step)
        parts.append(_text(float(left), _HEIGHT - _BOTTOM + 18, text, anchor="middle"))
    for tick in range(round(y_max / y_step) + 1):
        line, y = f"{at(0, tick * y_step)} {at(x_max, tick * y_step)}", tick * y_step
        parts.append(f'<polyline fill="none" stroke="#e4e4e4" points="{line}"/>' if tick else "")
        bottom = float(at(0, y).split(",")[1])
        parts.append(_text(_LEFT - 6, bottom + 4, _number(y), anchor="end"))
    if level is not None:
        dashed = 'stroke="gray" stroke-dasharray="5 4"'
        parts.append(f'<polyline fill="none" {dashed} points="{at(0, level)} {at(x_max, level)}"/>')
    for place, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        line = " ".join(at(x, y) for x, y in curve)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{line}"/>')
        parts.append(_text(_WIDTH - _RIGHT + 10, _TOP + 18 * place + 8, name, colour=colour))
    return "\n".join([*(part for part in parts if part), "</svg>", ""])


def _step(most: float) -> float:
    """A round distance of ticks, of which about five make the whole."""
    power = 10.0 ** math.floor(math.log10(most / _TICKS))
    return power * min(_STEPS, key=lambda step: abs(step * power * _TICKS - most))


def _number(value: float) -> str:
    return f"{value:,.10g}"


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = "black"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{colour}">{escape(text)}</text>'
    )
