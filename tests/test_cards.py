"""`lossbench list` and `lossbench show`: what an option's file and a loss's signature say, for a person."""

import re
from typing import Annotated

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from rich.console import Console
from torch import nn

import lossbench.console
from lossbench import catalog
from lossbench.losses.marks import ClassWeight

KINDS = list(catalog.LISTS.items())
OPTIONS = [(group, name) for group in catalog.GROUPS for name in catalog.names(group)]
LOSSES = catalog.names("loss")
TABLED = [option for option in OPTIONS if option[0] in ("optim", "scheduler")]


def printed(cli, *words):
    code, out, err = cli(*words)
    assert (code, err) == (0, "")
    return out


def flat(text):
    return " ".join(text.split())


@pytest.fixture
def wide(monkeypatch):
    """Prints on a console of so many columns."""
    return lambda columns: monkeypatch.setattr(
        lossbench.console, "console", Console(highlight=False, width=columns, force_terminal=False)
    )


def table(out):
    """The rows of the first table of hyperparameters, by the key in the first column: its cells, joined."""
    lines = out[out.index("  option  ") :].partition("\n\n")[0].splitlines()
    starts = [lines[0].index(head) for head in ("option", "what it takes", "default", "what it does")]
    rows = {}
    for line in lines[1:]:
        cells = [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
        if cells[0]:
            key, rows[cells[0]] = cells[0], cells[1:]
        else:
            rows[key] = [f"{old} {new}".strip() for old, new in zip(rows[key], cells[1:], strict=True)]
    return rows


# list


@pytest.mark.parametrize(("kind", "group"), KINDS)
def test_list_says_what_each_option_is(cli, wide, kind, group):
    wide(1000)
    out = flat(printed(cli, "list", kind))
    assert f"{kind} ({group}=NAME)" in out
    for card in catalog.cards(group):
        assert f" {card.name} {card.tasks} {card.summary}" in out
        assert card.summary.endswith(".")


def test_list_without_a_kind_lists_them_all(cli):
    out = printed(cli, "list")
    assert all(f"{kind} ({group}=NAME)" in out for kind, group in KINDS)
    assert printed(cli, "list", *catalog.LISTS) == out


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(
    "words",
    [
        ["list", "losses"],
        ["list", "optims"],
        *(["show", f"{g}={n}"] for g, n in OPTIONS if g == "loss" or (g, n) in TABLED),
    ],
)
def test_nothing_is_wider_than_the_screen_but_what_is_copied(cli, wide, columns, words):
    wide(columns)
    out = printed(cli, *words)
    prose = re.sub(r"^(Config|Try):\n(  .*\n|\n)*", "", out, flags=re.M)
    assert max(map(len, prose.splitlines())) <= columns


# show


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_show_has_a_summary_and_a_command(cli, group, name):
    out = printed(cli, "show", f"{group}={name}")
    card = catalog.card(group, name)
    assert out.startswith(f"{group}={name} (tasks: ")
    assert card.summary in flat(out)
    assert flat(card.text) in flat(out)
    tried = out.partition("Try:\n  lossbench train ")[2]
    if (group, name) == ("loss", "zero_one"):  # what cannot train is seen as a metric of its preset
        assert tried == "experiment=multiclass\n"
    else:
        assert f"{group}={name}" in tried


@pytest.mark.parametrize(("group", "name"), [o for o in OPTIONS if o[0] != "loss" and o not in TABLED])
def test_show_has_every_key_with_its_default(cli, group, name):
    out = printed(cli, "show", f"{group}={name}")
    shown = yaml.safe_load(out.partition("Config:\n")[2].partition("\n\nTry:")[0])
    assert shown == yaml.safe_load(catalog.card(group, name).path.read_text())


@pytest.mark.parametrize(("group", "name"), TABLED)
def test_show_has_every_key_of_an_optimizer_or_a_schedule(cli, wide, group, name):
    """With the file's default, which need not be torch's, and its comment; and the keys that all of its group take."""
    wide(1000)
    out, card = printed(cli, "show", f"{group}={name}"), catalog.card(group, name)
    own = yaml.safe_load(card.body)
    common = yaml.safe_load((catalog.conf_dir() / "config.yaml").read_text())[group]
    rows, values = table(out), {**own, **common, **own}
    assert list(rows) == [key for key in values if key != "_target_"]
    for key, (takes, default, does) in rows.items():
        assert OmegaConf.create(f"shown: {default}").shown == values[key]  # plain YAML 1.1 takes 1e-08 for text
        assert takes
        assert does == (card.comments.get(key) or does)
        assert does, key
    assert f"\n{own['_target_']}" in out
    assert "Config:" not in out
    assert "$$" not in out  # torch's own docstrings are formulas in LaTeX


def test_the_table_of_an_optimizer_by_hand(cli, wide):
    wide(1000)
    rows = table(printed(cli, "show", "optim=rprop"))
    comments = catalog.card("optim", "rprop").comments
    assert rows["lr"] == ["a number in (0, inf)", "0.01", comments["lr"]]
    assert rows["etas"] == ["a list of 2 (a number each) in (0, 1) and (1, inf)", "[0.5, 1.2]", comments["etas"]]
    rows = table(printed(cli, "show", "optim=lbfgs"))
    assert rows["line_search_fn"][:2] == ["one of strong_wolfe, null", "'strong_wolfe'"]
    assert rows["max_eval"][:2] == ["a whole number or null, in [1, inf)", "null"]
    assert rows["decay_bias_and_norm"][:2] == ["true or false", "true"]


def test_a_schedule_of_its_own_interval_shows_that(cli, wide):
    wide(1000)
    rows = table(printed(cli, "show", "scheduler=step"))
    assert rows["interval"][:2] == ["one of step, epoch, evaluation", "'epoch'"]
    assert table(printed(cli, "show", "scheduler=cosine"))["T_max"][0] == "a whole number or null, in [1, inf)"


@pytest.mark.parametrize("name", LOSSES)
def test_show_has_every_key_of_a_loss(cli, name):
    """In the tables, or else in the file's own words."""
    out, keys = printed(cli, "show", f"loss={name}"), catalog.card("loss", name).comments.keys() - {"_target_"}
    shown = set(table(out)) if "  option  " in out else set()
    assert keys <= shown or "Config:" in out


def test_show_has_a_losss_formula_shapes_and_source(cli):
    out = flat(printed(cli, "show", "loss=huber"))
    assert "lossbench.losses.huber(pred, target) " in out
    for words in ("e^2 / 2 where |e| <= delta", "Shapes: pred and target (N, ...)", "When it helps", "Huber 1964"):
        assert words in out
    assert flat(printed(cli, "show", "loss=huber", "optim=sgd")).startswith(out)


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_says_type_range_default_and_meaning(cli, wide, columns):
    wide(columns)
    assert table(printed(cli, "show", "loss=huber")) == {
        "delta": ["a number in (0, inf)", "1.0", catalog.card("loss", "huber").comments["delta"]]
    }
    weight = table(printed(cli, "show", "loss=cross_entropy"))["weight"]
    assert weight[:2] == ["a list (a number each) or one of balanced, effective or null, in [0, inf)", "null"]


def test_each_function_under_a_name_has_its_own_table(cli):
    out = printed(cli, "show", "loss=focal")
    ids, yes = (out[out.index(f"lossbench.losses.{name}(") :] for name in ("focal", "binary_focal"))
    assert (table(ids)["alpha"][1], table(yes)["alpha"][1]) == ("null", "0.25")
    assert table(yes)["alpha"][0].endswith("in [0, 1]")


# Files of any form


class Learned(nn.Module):
    """A loss with a shape of its own, |e|^a.

    Shapes: pred (N,); target (N,); returns (N,).
    Source: nobody 2001.
    """

    def __init__(self, *, shape: Annotated[float, "(0, 2]"] = 1.5, weight: ClassWeight = None) -> None:
        super().__init__()

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return pred - target


@pytest.fixture
def learned(monkeypatch, tmp_path):
    """The card of a module, in a directory of its own."""
    (tmp_path / "loss").mkdir()
    monkeypatch.setattr(catalog, "conf_dir", lambda: tmp_path)
    monkeypatch.setattr("lossbench.losses.Learned", Learned, raising=False)
    path = tmp_path / "loss" / "learned.yaml"

    def write(body):
        path.write_text(
            "# It learns its shape.\n# tasks: regression\n# preset: outliers\n#\n# When it helps: often.\n" + body
        )
        return catalog.card("loss", "learned")

    return write


def test_a_card_names_its_preset_and_its_keys_comments(learned):
    card = learned("_target_: x.y\nshape: 1.5   # how # steep\n             # it is\nplain: [1, 2]\n")
    assert (card.tasks, card.preset, card.text) == ("regression", "outliers", "When it helps: often.")
    assert card.comments == {"_target_": "", "shape": "how # steep it is", "plain": ""}


def test_a_module_shows_fields_hyperparameters_and_preset(cli, learned):
    learned("_target_: lossbench.losses.Learned\nshape: 1.5   # how steep\nweight: null\n")
    out = printed(cli, "show", "loss=learned")
    assert "lossbench.losses.Learned(pred, target)\n" in out
    assert table(out)["shape"] == ["a number in (0, 2]", "1.5", "how steep"]
    assert "Config:" not in out
    assert out.endswith("Try:\n  lossbench train experiment=outliers loss=learned\n")


def test_what_no_signature_explains_is_shown_as_the_file_has_it(cli, learned):
    body = "defaults:\n  - /loss@terms.base: default\n  - _self_\n_target_: lossbench.losses.Learned\nshape: 1.5\n"
    learned(body)
    out = printed(cli, "show", "loss=learned")
    assert table(out).keys() == {"shape"}
    assert yaml.safe_load(out.partition("Config:\n")[2].partition("\n\nTry:")[0]) == yaml.safe_load(body)
