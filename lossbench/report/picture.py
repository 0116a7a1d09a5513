"""A picture as a PNG or SVG file, by matplotlib: no display is needed, and equal pictures are equal files."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossbench.errors import ConfigError, ResourceError, printable
from lossbench.observe.replacing import replacing, target
from lossbench.report.figure import Panel, Picture, number, scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = (".png", ".svg")
# Okabe and Ito 2008, "Color Universal Design": told apart by colour-blind people. Yellow is too pale for a line.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")
# Where curves lie on each other, the lower one is seen between the dashes of the upper one.
DASHES = ("solid", (0, (6, 1.5)), (0, (3, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
_BESIDE = 26  # characters, at the most, of the names in a legend beside the plot
_LONGEST = 95  # characters of a name in a legend
_ROW = 0.17  # inches of a legend's line
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "lossbench",
    "text.parse_math": False,  # a $ in a name is a $
    "font.size": 9.0,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10.0,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#333333",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
}


def save(picture: Picture, path: Path) -> None:
    """Write the picture, in the place of an earlier one, as PNG or SVG by the path's ending.

    Raises:
        ConfigError: another ending.
        ResourceError: the place cannot be written to.
    """
    check_kind(path)
    if path.is_dir():
        raise ResourceError(f"cannot write to '{path}': it is a directory; name a file")
    content = rendered(picture, path.suffix.lower()[1:])
    try:
        path = target(path)  # which is replaced, and a link stays
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise ResourceError(f"cannot write to '{path}': {error.strerror or error}") from error


def check_kind(path: Path, name: str = "a picture's file") -> None:
    """Refuse a path whose ending names no format that can be written.

    Args:
        name: what the path is called in the message.

    Raises:
        ConfigError: it does not end in .png or .svg.
    """
    if path.suffix.lower() not in KINDS:
        raise ConfigError(f"{name} must end in {' or '.join(KINDS)}, got '{path}'")


def rendered(picture: Picture, kind: str) -> bytes:
    """The file's content; `kind` is png or svg."""
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.ERROR)  # it would tell that it looks for fonts, and where it keeps what it found
    try:
        import matplotlib

        with warnings.catch_warnings(), matplotlib.rc_context():
            warnings.simplefilter("ignore")  # characters that its font does not have
            matplotlib.rcdefaults()  # whatever the user's own style is
            matplotlib.rcParams.update(_STYLE)
            metadata: dict[str, Any] = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
            content = io.BytesIO()
            _draw(picture).savefig(content, format=kind, dpi=160, metadata=metadata)
    finally:
        log.setLevel(level)
    return content.getvalue()


def _draw(picture: Picture) -> Figure:
    from matplotlib.figure import Figure

    names = [_label(name) for name in picture.names]
    longest = max(map(len, names), default=0)
    beside = longest <= _BESIDE
    columns = 1 if beside else max(1, min(3, 90 // longest))
    rows = -(-len(names) // columns) if len(names) > 1 else 0
    plots = 2.5 * len(picture.panels)
    inches = max(plots, rows * _ROW) if beside else plots + rows * _ROW
    figure = Figure(figsize=(7.6, 0.9 + inches), layout="constrained")
    found = figure.subplots(len(picture.panels), 1, sharex=True, squeeze=False)[:, 0]
    looks = {
        name: {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)]}
        for i, name in enumerate(picture.names)
    }
    lines: dict[str, Any] = {}
    for axes, panel in zip(found, picture.panels, strict=True):
        for curve in panel.curves:
            lines[curve.name], *_ = axes.plot(curve.x, curve.y, **looks[curve.name])
        _dress(axes, panel, picture)
    found[0].set_title(printable(picture.title))
    found[-1].set_xlabel(printable(picture.xlabel))
    _label_marks(found[0], picture)
    if rows:
        handles = [lines[name] for name in picture.names]
        figure.legend(handles, names, loc="outside right upper" if beside else "outside lower left", ncols=columns)
    return figure


def _label(name: str) -> str:
    """A name in the legend, from which matplotlib before 3.10 leaves those out that begin with an underscore."""
    name = printable(name)
    name = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
    return f" {name}" if name.startswith("_") else name


def _dress(axes: Axes, panel: Panel, picture: Picture) -> None:
    """Axes from the first point to the last, and a little above and below; numbers as the terminal shows them."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    x_scale = picture.x_scale
    y_scale = scale([y for curve in panel.curves for y in curve.y], log=panel.log_y, rounded=6)
    if picture.log_x:
        axes.set_xscale("log")
    if panel.log_y:
        axes.set_yscale("log")
    else:
        margin = 0.03 * (y_scale.hi - y_scale.lo)
        axes.set_ylim(y_scale.lo - margin, y_scale.hi + margin)
    axes.set_xlim(x_scale.lo, x_scale.hi)
    for axis, is_log in ((axes.xaxis, picture.log_x), (axes.yaxis, panel.log_y)):
        axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        if is_log:
            axis.set_minor_formatter(NullFormatter())
    axes.set_ylabel(printable(panel.ylabel))
    for x, _ in picture.marks:
        axes.axvline(x, color="#555555", linewidth=0.8, linestyle=(0, (4, 3)))


def _label_marks(axes: Axes, picture: Picture) -> None:
    """The marks' labels beside their lines, each a line of text lower than the one before."""
    for row, (x, label) in enumerate(sorted(picture.marks)):
        left = (picture.x_scale.share(x) or 0.0) > 0.6
        axes.annotate(
            printable(label),
            (x, 1.0),
            (-4 if left else 4, -4 - 12 * row),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            horizontalalignment="right" if left else "left",
            verticalalignment="top",
            fontsize=8,
            color="#333333",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
        )
