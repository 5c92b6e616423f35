"""Plotly traces and layouts as plain values, so that making a report imports no plotly.

Colours that depend on the page's theme are set by templates/report.js.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.record.evidence import Window
from harness.report.series import ByStep, broken, finite

A, B = "#3b82f6", "#f97316"  # told apart by every kind of colour vision, on light and on dark
DIFFERENCE = "#8b5cf6"
BAD = "#dc2626"
GOOD = "#16a34a"
GREY = "#7c8794"

MANY = 150  # points from which on markers hide the line

Trace = dict[str, Any]


def line(
    name: str,
    values: ByStep,
    colour: str,
    dash: str = "solid",
    hover: Mapping[int, str] | None = None,
    broken_at: float | None = None,
) -> list[Trace]:
    """A line with gaps where values are missing, and crosses where they are not finite.

    Crosses are drawn at the height `broken_at`, or else at that of the last finite value.
    """
    x: list[int] = []
    y: list[float | None] = []
    real = finite(values)
    for step in sorted(values):
        if x and step > x[-1] + 1:
            x.append(x[-1] + 1)
            y.append(None)
        x.append(step)
        y.append(real.get(step))
    trace: Trace = {
        "type": "scatter",
        "name": html.escape(name),
        "x": x,
        "y": y,
        "mode": "lines+markers",
        "connectgaps": False,
        "line": {"color": colour, "width": 2, "dash": dash},
        "marker": {"size": 5 if len(x) < MANY else 2},
    }
    if hover:
        trace |= {"text": [html.escape(hover.get(s, "")) for s in x], "hoverinfo": "text+name"}
    bad = broken(values)
    if not bad:
        return [trace]
    first = next(iter(real.values()), 0.0)
    before = itertools.accumulate(y, lambda last, v: last if v is None else v, initial=first)
    heights = dict(zip(x, itertools.islice(before, 1, None), strict=True))
    at = [heights[step] if broken_at is None else broken_at for step in bad]
    return [trace, marks(f"{name}: not finite", bad, at, BAD, "x")]


def marks(
    name: str, x: Sequence[int], y: Sequence[float | None], colour: str, symbol: str
) -> Trace:
    """Single points."""
    return {
        "type": "scatter",
        "name": html.escape(name),
        "x": list(x),
        "y": list(y),
        "mode": "markers",
        "marker": {"color": colour, "symbol": symbol, "size": 9},
        "hovertemplate": "step %{x}",
    }


def rule(name: str, steps: Sequence[int], height: float, colour: str, dash: str) -> Trace:
    """A horizontal line over all steps, named in the legend."""
    return {
        "type": "scatter",
        "name": html.escape(name),
        "x": [min(steps) - 0.5, max(steps) + 0.5],
        "y": [height, height],
        "mode": "lines",
        "line": {"color": colour, "width": 1.5, "dash": dash},
        "hoverinfo": "skip",
    }


def spans(name: str, windows: Sequence[Window], colour: str, included: bool) -> list[Trace]:
    """Seconds a step of each window, as a stroke over its steps with a mark in the middle."""
    x: list[float | None] = []
    y: list[float | None] = []
    for window in windows:
        seconds = window.seconds / window.steps
        if math.isfinite(seconds) and seconds > 0:
            x += [window.first - 0.4, (window.first + window.last) / 2, window.last + 0.4, None]
            y += [seconds, seconds, seconds, None]
    if not x:
        return []
    return [
        {
            "type": "scatter",
            "name": html.escape(name),
            "x": x,
            "y": y,
            "mode": "lines+markers",
            "line": {"color": colour, "width": 3 if included else 1},
            "marker": {
                "symbol": "circle" if included else "x-thin-open",
                "size": [0, 8, 0, 0] * (len(x) // 4),
            },
            "hovertemplate": "%{y:.4g} s a step",
        }
    ]


def band(name: str, values: Mapping[int, float], colour: str) -> Trace:
    """Everything from the bottom of the chart up to these values."""
    return {
        "type": "scatter",
        "name": html.escape(name),
        "x": list(values),
        "y": list(values.values()),
        "mode": "lines",
        "line": {"color": colour, "width": 0},
        "fill": "tozeroy",
        "hoverinfo": "skip",
    }


def box(name: str, windows: Sequence[Window], colour: str) -> Trace:
    """Seconds a step of the windows, as a box with every sample beside it."""
    return {
        "type": "box",
        "name": html.escape(name),
        "y": [window.seconds / window.steps for window in windows],
        "text": [f"steps {window.first}–{window.last}" for window in windows],
        "boxpoints": "all",
        "jitter": 0.4,
        "pointpos": 0,
        "marker": {"color": colour, "size": 6},
        "line": {"width": 1.5},
        "fillcolor": "rgba(0,0,0,0)",
    }


def figure(traces: Sequence[Trace], axis: str, **layout: Any) -> dict[str, Any] | None:
    """A figure over optimizer steps, or None where there is nothing to draw."""
    if not traces:
        return None
    y = {"title": {"text": html.escape(axis)}, "automargin": True, **layout.pop("yaxis", {})}
    base = {
        "height": 340,
        "margin": {"l": 64, "r": 12, "t": 28, "b": 40},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "x",
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": A},
        "legend": {"orientation": "h", "y": -0.24, "yanchor": "top", "x": 0},
        "xaxis": {"title": {"text": "optimizer step", "standoff": 6}, "zeroline": False},
    }
    return {"data": list(traces), "layout": {**base, **layout, "yaxis": {"zeroline": False, **y}}}
