"""A picture in the terminal: braille characters, of 2 by 4 dots each, told apart by colours and by markers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from lossbench.errors import printable
from lossbench.report.figure import Curve, Panel, Picture, Scale, number, scale

NARROWEST, WIDEST = 40, 140  # characters; a wider picture does not read better
MARKERS = "●▲■◆○△□◇"
# Bright enough for a dark background and dark enough for a light one; hues that colour-blind people tell apart.
COLOURS = ("#3b8fc4", "#e0672a", "#1fa187", "#cc79a7", "#c79a1e", "#8c8c8c")
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille character, by row and column
_PER_CURVE = 5  # markers

Cell = tuple[int, int]  # row from the top, column


@dataclass(frozen=True)
class Look:
    """How a curve looks; a marker only where there are several."""

    colour: str
    marker: str


@dataclass
class Canvas:
    """The dots of a panel and, of each character, the curves that go through it in the order of drawing."""

    width: int
    height: int
    dots: dict[Cell, int] = field(default_factory=dict)
    curves: dict[Cell, list[str]] = field(default_factory=dict)

    def line(self, name: str, points: Sequence[tuple[int, int]]) -> None:
        """A line through dots, counted from the top left."""
        for (x, y), (to_x, to_y) in zip(points, points[1:] or points, strict=False):
            steps = max(abs(to_x - x), abs(to_y - y), 1)
            for k in range(steps + 1):
                self._dot(name, x + round((to_x - x) * k / steps), y + round((to_y - y) * k / steps))

    def marked(self, names: Sequence[str]) -> dict[Cell, str]:
        """Cells for each curve's marker: spread along it, where it runs alone as far as there are such."""
        found: dict[Cell, str] = {}
        distance = self.width / _PER_CURVE
        for index, name in enumerate(names):
            own = [cell for cell, passing in self.curves.items() if name in passing]
            for k in range(_PER_CURVE):
                column = (k + (index + 0.5) / len(names)) * distance
                near = [cell for cell in own if abs(cell[1] - column) <= distance / 3 and cell not in found]
                if near:
                    found[min(near, key=lambda c: (len(self.curves[c]), abs(c[1] - column), c))] = name
        return found

    def _dot(self, name: str, x: int, y: int) -> None:
        cell = (y // 4, x // 2)
        self.dots[cell] = self.dots.get(cell, 0) | _DOTS[y % 4][x % 2]
        passing = self.curves.setdefault(cell, [])
        if not passing or passing[-1] != name:
            self.curves[cell] = [*(other for other in passing if other != name), name]


def draw(picture: Picture, width: int, height: int = 12) -> Text:
    """The picture as lines of at most `width` characters, each panel's plot `height` of them high.

    A width below 40 counts as 40.
    """
    width = max(width, NARROWEST)
    names, x_scale = picture.names, picture.x_scale
    looks = {
        name: Look(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)] if len(names) > 1 else "")
        for i, name in enumerate(names)
    }
    ticks = max(height // 3, 2)
    scales = [_y_scale(panel, ticks) for panel in picture.panels]
    gutter = max((len(number(tick)) for found in scales for tick in found.ticks(ticks)), default=0)
    inner = width - gutter - 2
    lines = [Text(_cut(picture.title, width), "bold")]
    for index, (panel, y_scale) in enumerate(zip(picture.panels, scales, strict=True)):
        lines.append(Text(_cut(panel.ylabel, width), "dim"))
        if index == 0:
            lines += [_shifted(line, gutter) for line in _mark_labels(picture.marks, x_scale, inner)]
        canvas = _canvas(panel, x_scale, y_scale, inner, height)
        labels = {_place(y_scale.share(tick), height, top=True): number(tick) for tick in y_scale.ticks(ticks)}
        columns = {_place(x_scale.share(x), inner) for x, _ in picture.marks}
        for row, body in enumerate(_rows(canvas, looks, columns)):
            edge = f"{labels[row]:>{gutter}} ┤" if row in labels else f"{'':{gutter}} │"
            lines.append(Text.assemble((edge, "dim"), body))
        x_ticks = x_scale.ticks(max(inner // 12, 3))
        lines.append(Text(f"{'':{gutter}} └{_axis(x_ticks, x_scale, inner)}", "dim"))
    lines.append(_shifted(_tick_labels(x_ticks, x_scale, inner), gutter))
    lines.append(_shifted(Text(_cut(picture.xlabel, inner).center(inner), "dim"), gutter))
    lines += _legend(looks, width)
    for line in lines:
        line.rstrip()
    found = Text("\n", no_wrap=True, overflow="ignore").join(lines)
    found.no_wrap, found.overflow = True, "ignore"
    return found


def _y_scale(panel: Panel, ticks: int) -> Scale:
    return scale([y for curve in panel.curves for y in curve.y], log=panel.log_y, rounded=ticks)


def _canvas(panel: Panel, x_scale: Scale, y_scale: Scale, width: int, height: int) -> Canvas:
    canvas = Canvas(width, height)
    for curve in panel.curves:
        for run in _unbroken(curve, x_scale, y_scale, 2 * width, 4 * height):
            canvas.line(curve.name, run)
    return canvas


def _unbroken(curve: Curve, x_scale: Scale, y_scale: Scale, width: int, height: int) -> Iterator[list[tuple[int, int]]]:
    """The curve's points as dots, in pieces between its gaps."""
    piece: list[tuple[int, int]] = []
    for x, y in zip(curve.x, curve.y, strict=True):
        across, up = x_scale.share(x), y_scale.share(y)
        if across is None or up is None:
            if piece:
                yield piece
            piece = []
        else:
            piece.append((_place(across, width), _place(up, height, top=True)))
    if piece:
        yield piece


def _place(share: float | None, count: int, *, top: bool = False) -> int:
    """The one of `count` places that a share of an axis is at, counted from the left, or from the top."""
    at = round((share or 0.0) * (count - 1))
    return count - 1 - at if top else at


def _rows(canvas: Canvas, looks: Mapping[str, Look], marks: set[int]) -> Iterator[Text]:
    """The plot's lines, without their axis."""
    markers = canvas.marked(list(looks)) if len(looks) > 1 else {}

    def cell(row: int, column: int) -> tuple[str, str]:
        place = (row, column)
        if place in markers:
            look = looks[markers[place]]
            return look.marker, f"bold {look.colour}"
        if place in canvas.dots:
            return chr(0x2800 + canvas.dots[place]), looks[canvas.curves[place][-1]].colour
        return ("┊", "dim") if column in marks else (" ", "")

    for row in range(canvas.height):
        cells = [cell(row, column) for column in range(canvas.width)]
        alike = groupby(cells, key=itemgetter(1))
        yield Text.assemble(*(("".join(text for text, _ in run), style) for style, run in alike))


def _axis(ticks: Sequence[float], x_scale: Scale, width: int) -> str:
    columns = {_place(x_scale.share(tick), width) for tick in ticks}
    return "".join("┬" if column in columns else "─" for column in range(width))


def _tick_labels(ticks: Sequence[float], x_scale: Scale, width: int) -> Text:
    """The ticks' numbers, centred below them, without those that would run into their neighbour."""
    line = ""
    for tick in ticks:
        label = number(tick)
        start = _start(label, _place(x_scale.share(tick), width), width)
        if not line or start > len(line):
            line = f"{line:<{start}}{label}"
    return Text(line, "dim")


def _mark_labels(marks: Sequence[tuple[float, str]], x_scale: Scale, width: int) -> list[Text]:
    """The marks' labels, centred above their lines, on as many lines as they need not to run into each other."""
    lines: list[str] = []
    for x, label in sorted(marks):
        label = _cut(label, width)
        start = _start(label, _place(x_scale.share(x), width), width)
        free = next((k for k, line in enumerate(lines) if start > cell_len(line)), len(lines))
        lines[free : free + 1] = [f"{lines[free] if free < len(lines) else '':<{start}}{label}"]
    return [Text(line) for line in lines]


def _start(label: str, column: int, width: int) -> int:
    """Where a label centred on a column begins."""
    return max(0, min(column - cell_len(label) // 2, width - cell_len(label)))


def _legend(looks: Mapping[str, Look], width: int) -> list[Text]:
    """Each curve's marker and name, as many on a line as there is room for; of a single curve its name."""
    lines: list[Text] = []
    for name, look in looks.items():
        entry = Text.assemble((look.marker or "⠤⠤", look.colour), f" {_cut(name, width - 3)}")
        if lines and lines[-1].cell_len + entry.cell_len + 3 <= width:
            lines[-1].append("   ").append_text(entry)
        else:
            lines.append(entry)
    return lines


def _shifted(line: Text, gutter: int) -> Text:
    return Text.assemble(" " * (gutter + 2), line)


def _cut(text: str, width: int) -> str:
    """Text as one line that fits."""
    text = printable(text)
    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 1)}…"
