"""Pictures of curves: their axes, what the terminal shows, and what is in the files."""

import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor
from rich.cells import cell_len
from rich.console import Console

from lossbench.errors import ConfigError, ResourceError
from lossbench.report import picture as files
from lossbench.report.figure import Curve, Panel, Picture, Scale, number, scale, thinned
from lossbench.report.picture import rendered, save
from lossbench.report.terminal import COLOURS, MARKERS, draw

STEPS = range(1, 101)


def curve(name="a", slope=1.0, steps=STEPS):
    return Curve(name, steps, [slope * x for x in steps])


def picture(*curves, marks=(), **settings):
    return Picture("the title", "step", [Panel("learning rate", curves or [curve()], **settings)], marks=marks)


# Axes


@pytest.mark.parametrize(
    ("values", "rounded", "ends"),
    [
        ([0.0, 0.001], 4, (0, 0.001)),
        ([4e-9, 0.001], 4, (0, 0.001)),
        ([0.13, 0.87], 5, (0, 1)),
        ([0.85, 0.95], 4, (0.85, 0.95)),
        ([-3, 7], 0, (-3, 7)),
        ([0.2, 0.2], 4, (0, 0.4)),
        ([-0.2], 4, (-0.4, 0)),
        ([0.1, 0.1 + 1e-17], 4, (0, 0.2)),
        ([0.0, 0.0], 4, (0, 1)),
        ([math.nan, 2, math.inf, 3], 0, (2, 3)),
        ([], 4, (0, 2)),
    ],
)
def test_a_linear_axis_holds_its_values_and_ends_at_round_ones(values, rounded, ends):
    found = scale(values, rounded=rounded)
    assert (found.lo, found.hi) == pytest.approx(ends, abs=1e-15)


@pytest.mark.parametrize(
    ("axis", "most", "ticks"),
    [
        (Scale(0, 0.001), 4, [0, 0.0005, 0.001]),
        (Scale(1, 600), 6, [200, 400, 600]),
        (Scale(0.85, 0.95), 4, [0.85, 0.9, 0.95]),
        (Scale(-1, 1), 5, [-1, -0.5, 0, 0.5, 1]),
        (Scale(1e-7, 10, True), 9, [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10]),
        (Scale(1e-7, 10, True), 5, [1e-6, 1e-4, 1e-2, 1]),
        (Scale(0.3, 30, True), 5, [1, 10]),
        (Scale(0.15, 0.7, True), 5, [0.2, 0.5]),
        (Scale(0.21, 0.22, True), 5, [0.21, 0.22]),
    ],
)
def test_ticks_are_round(axis, most, ticks):
    assert axis.ticks(most) == pytest.approx(ticks)


def test_a_logarithmic_axis_has_no_place_for_zero():
    found = scale([0, 1e-4, -1, 1, math.inf], log=True)
    assert found == Scale(1e-4, 1, True)
    assert [found.share(x) for x in (1e-4, 1e-2, 1, 0, -1, math.nan)] == [0, 0.5, 1, None, None, None]
    assert scale([0.01], log=True) == Scale(0.001, 0.1, True)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.001, "0.001"), (4e-9, "4e-9"), (12000, "12,000"), (0.0, "0"), (2.5e12, "2.5e12"), (0.123456, "0.1235")],
)
def test_numbers(value, text):
    assert number(value) == text


def test_thinning_keeps_the_ends_and_the_extremes():
    values = [math.sin(x / 900) for x in range(100_000)]
    values[54_321], values[54_323] = 9.0, -9.0
    found = thinned(Curve("a", range(100_000), values), 2000)
    assert len(found.x) <= 2000
    assert list(found.x) == sorted(set(found.x))
    assert {0, 54_321, 54_323, 99_999} <= set(found.x)
    assert all(values[x] == y for x, y in zip(found.x, found.y, strict=True))
    short = curve()
    assert thinned(short) is short


# In the terminal


def lines(shown):
    return shown.plain.split("\n")


def plot_rows(shown):
    """What is right of the y axis."""
    return [re.split("[│┤]", line, maxsplit=1)[1] for line in lines(shown) if re.search("[│┤]", line)]


def dots(shown, width):
    """The plot as an array of booleans, from the top left; markers and marks are no dots."""
    bits = [(0, 0, 1), (1, 0, 2), (2, 0, 4), (0, 1, 8), (1, 1, 16), (2, 1, 32), (3, 0, 64), (3, 1, 128)]
    rows = plot_rows(shown)
    found = np.zeros((4 * len(rows), 2 * width), bool)
    for row, text in enumerate(rows):
        for column, character in enumerate(text):
            for y, x, bit in bits:
                if 0x2800 <= ord(character) < 0x2900 and (ord(character) - 0x2800) & bit:
                    found[4 * row + y, 2 * column + x] = True
    return found


def test_a_straight_line_is_straight():
    shown = draw(picture(), 60, 10)
    rows, columns = dots(shown, 60).nonzero()
    gutter = lines(shown)[2].index("┤") + 1
    width = 2 * (60 - gutter)
    assert set(columns) == set(range(width))
    at = 1 + columns / (width - 1) * 99  # the line's value there: the axis goes from 0 to 100
    assert np.abs(rows - (39 - at / 100 * 39)).max() <= 1


@pytest.mark.parametrize("width", [40, 80, 140, 20])
@pytest.mark.parametrize("log", [False, True])
def test_everything_fits(width, log):
    curves = [curve("word " * k, k) for k in range(1, 12)]
    marks = [(1, "the first"), (50, "a label " * 12), (100, "the last"), (99, "next to it")]
    shown = draw(picture(*curves, marks=marks, log_y=log), width)
    assert max(map(cell_len, lines(shown))) <= max(width, 40)
    assert len(plot_rows(shown)) == 12
    console = Console(width=max(width, 40), color_system=None)
    with console.capture() as capture:
        console.print(shown)
    assert capture.get() == shown.plain + "\n"


def test_the_axes_have_their_ends_and_the_legend_every_name():
    shown = draw(picture(curve("cosine", 1e-5), curve("one cycle", 5e-6)), 80)
    text = lines(shown)
    assert text[0] == "the title"
    assert text[1] == "learning rate"
    assert text[2].startswith(" 0.001 ┤")
    assert text[13].startswith("     0 ┤")
    assert text[15].split() == ["20", "40", "60", "80", "100"]
    assert text[15].index("20") + 1 == text[14].index("┬")
    assert text[16].strip() == "step"
    assert text[17] == "● cosine   ▲ one cycle"


def test_each_curve_has_its_marker_on_it_and_its_colour():
    up, down = curve("up"), Curve("down", STEPS, [101 - x for x in STEPS])
    shown = draw(picture(up, down), 80)
    rows = plot_rows(shown)
    cells = {m: [(r, c) for r, row in enumerate(rows) for c, char in enumerate(row) if char == m] for m in MARKERS}
    assert [len(cells[m]) for m in MARKERS[:3]] == [5, 5, 0]
    for row, column in cells["●"]:
        assert 11 - row == pytest.approx(column / 73 * 11, abs=1)
    for row, column in cells["▲"]:
        assert row == pytest.approx(column / 73 * 11, abs=1)
    console = Console(width=80, force_terminal=True, color_system="truecolor", no_color=False)
    with console.capture() as capture:
        console.print(shown)
    red, green, blue = ImageColor.getrgb(COLOURS[1])
    assert f"38;2;{red};{green};{blue}m▲" in capture.get()


def test_no_color_is_honoured(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(width=80, force_terminal=True, color_system="truecolor")
    with console.capture() as capture:
        console.print(draw(picture(curve("a"), curve("b", 2)), 80))
    assert not re.search(r"\x1b\[[\d;]*[34]8;", capture.get())
    assert "● a   ▲ b" in re.sub(r"\x1b\[[\d;]*m", "", capture.get())


def test_a_single_curve_needs_no_marker():
    assert not set(draw(picture(), 80).plain) & set(MARKERS)


def test_gaps_stay_empty():
    values = [1.0 if x < 30 or x > 70 else math.nan for x in STEPS]
    found = dots(draw(picture(Curve("a", STEPS, values)), 60), 60)
    columns = found.any(0).nonzero()[0]
    assert not ((columns > 36) & (columns < 76)).any()
    assert {0, 30, 90} <= set(columns)
    assert draw(picture(Curve("a", STEPS, [math.inf] * 100)), 60)
    assert draw(picture(Curve("a", [], [])), 60)
    assert dots(draw(picture(Curve("a", [3], [4])), 60), 60).sum() == 1


def test_marks_stand_under_their_labels():
    marks = ((30, "steepest"), (34, "suggested"), (90, "diverges"))
    text = lines(draw(picture(marks=marks), 80))
    columns = [column for column, character in enumerate(text[6]) if character == "┊"]
    gutter = text[6].index("│") + 1
    assert [1 + (c - gutter) / (80 - gutter - 1) * 99 for c in columns] == pytest.approx([30, 34, 90], abs=0.7)
    assert text[2].index("steepest") + 4 == columns[0]
    assert text[2].index("diverges") + 4 == columns[2]
    assert text[3].index("suggested") + 4 == columns[1]


def test_panels_share_their_curves_looks_and_one_legend():
    both = Picture("t", "step", [Panel("rate", [curve("a"), curve("b", 2)]), Panel("momentum", [curve("b")])])
    text = lines(draw(both, 80))
    second = "\n".join(text[text.index("momentum") :])
    assert second.count("● a   ▲ b") == 1
    assert second.count("●") == 1  # of the legend
    assert second.count("▲") > 3


def test_nothing_in_a_name_is_obeyed():
    shown = draw(picture(curve("a\x1b[2J\n[bold]b"), curve("c")), 80)
    assert lines(shown)[-1] == "● a?[2J [bold]b   ▲ c"


# As files


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_png_has_each_curve_in_its_colour(tmp_path):
    path = tmp_path / "a.PNG"
    save(picture(curve("a"), curve("b", 2)), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert pixels(path).shape == (544, 1216, 3)
    shown = [(pixels(path) == ImageColor.getrgb(colour)).all(-1).sum() > 200 for colour in files.COLOURS]
    assert shown == [True, True, False, False, False, False, False]


def texts(content):
    return [e.text for e in ElementTree.fromstring(content).iter() if e.tag.endswith("}text")]


def test_an_svg_has_its_labels_as_text():
    names = ["cosine", "<b>&", "$\\frac{1}{2}$", "_private", "warm-up, 0.1"]
    curves = [curve(name, k + 1) for k, name in enumerate(names)]
    content = rendered(picture(*curves, marks=[(30, "here")]), "svg")
    found = texts(content)
    assert {*names, "the title", "step", "learning rate", "here", "100", "500"} <= {t.strip() for t in found}


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_equal_pictures_are_equal_files_whatever_the_users_style(kind):
    import matplotlib

    drawn = picture(curve("a"), curve("b", 2), marks=[(30, "here")])
    first = rendered(drawn, kind)
    assert not re.search(rb"20\d\d-\d\d-\d\d|matplotlib\.org", first)
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "text.usetex": True}):
        before = dict(matplotlib.rcParams)
        assert rendered(drawn, kind) == first
        assert dict(matplotlib.rcParams) == before
    assert rendered(picture(curve("a"), curve("b", 3)), kind) != first


def test_logarithmic_axes_have_the_terminals_numbers():
    x = [10 ** (k / 10 - 5) for k in range(60)]
    drawn = Picture("t", "rate", [Panel("loss", [Curve("a", x, [1e-3 / v for v in x])], True)], log_x=True)
    assert {"1e-5", "0.001", "0.1", "100"} <= set(texts(rendered(drawn, "svg")))
    assert texts(rendered(picture(Curve("a", STEPS, [math.nan] * 100), log_y=True), "svg"))


def test_many_long_names_leave_room_for_the_plot(tmp_path):
    curves = [curve(f"scheduler.warmup=0.{k}, optim.lr=0.00{k}, model.width=1{k}", k + 1) for k in range(20)]
    save(picture(*curves), tmp_path / "a.png")
    grid = (pixels(tmp_path / "a.png") == 230).all(-1).sum(1)  # rows of the plot's area
    assert (grid > 2).sum() > 300
    assert len(grid) == pytest.approx(544 + 20 * 27, abs=10)  # a line of the legend has 27 pixels of its own


def test_a_file_is_replaced_as_a_whole_or_stays(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "er" / "a.svg"
    save(picture(), path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ResourceError, match=r"^cannot write to '.*a\.svg': No space left on device$"):
        save(picture(curve(slope=2)), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link.svg").symlink_to(tmp_path / "a.svg")
    save(picture(), tmp_path / "link.svg")
    assert (tmp_path / "link.svg").is_symlink()
    assert (tmp_path / "a.svg").read_bytes().startswith(b"<?xml")


def test_places_that_cannot_be_written_to(tmp_path):
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(ResourceError, match="it is a directory; name a file"):
        save(picture(), tmp_path / "folder.svg")
    with pytest.raises(ConfigError, match=r"must end in \.png or \.svg, got '.*a\.pdf'"):
        save(picture(), tmp_path / "a.pdf")
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match=r"cannot write to '.*a\.svg': "):
        save(picture(), tmp_path / "file" / "a.svg")
    (tmp_path / "a.svg").symlink_to("b.svg")
    (tmp_path / "b.svg").symlink_to("a.svg")
    with pytest.raises(ResourceError, match=r"cannot write to '.*a\.svg': "):
        save(picture(), tmp_path / "a.svg")


def test_no_display_no_pyplot_no_torch_and_not_a_word(tmp_path):
    """Neither where matplotlib has no place to keep what it finds out about fonts."""
    code = """
import sys
from pathlib import Path
from lossbench.report.figure import Curve, Panel, Picture
from lossbench.report.picture import save
from lossbench.report.terminal import draw
picture = Picture("\\u6f22", "x", [Panel("y", [Curve("a", [1, 2], [1, 2])])])
draw(picture, 80)
assert "matplotlib" not in sys.modules
save(picture, Path("a.png"))
print(sorted({"matplotlib.pyplot", "torch"} & set(sys.modules)))
"""
    (tmp_path / "file").touch()
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    env |= {"MPLCONFIGDIR": str(tmp_path / "file" / "config"), "PYTHONWARNINGS": "error", "MPLBACKEND": "tkagg"}
    env |= {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path, env=env, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    assert Path(tmp_path / "a.png").stat().st_size > 1000
