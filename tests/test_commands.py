"""The commands on a config or on a trained run: check, evaluate, predict, export, repair."""

import csv
import json
import os
import re
import shutil
import sys

import numpy as np
import pyarrow.parquet
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from test_bad_inputs import everything

from lossbench.build import build
from lossbench.commands.files import check_place
from lossbench.commands.usage import USAGES
from lossbench.compose import compose
from lossbench.data import Fitted
from lossbench.engine import checkpoint
from lossbench.errors import ResourceError
from lossbench.observe.screen import show_summary
from lossbench.run import execute

IRIS = load_iris()
LINES = [f"{a},{b},{c},{d},{IRIS.target_names[k]}" for (a, b, c, d), k in zip(IRIS.data, IRIS.target, strict=True)]
HEAD = "a,b,c,d,species"
NAMES = ("digits", "breast_cancer", "diabetes", "iris")


def table(path, lines, head=HEAD):
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A short run on each kind of data: its directory, and the run itself."""
    root = tmp_path_factory.mktemp("trained")
    iris = table(root / "iris.csv", LINES)
    found = {}
    for name in NAMES:
        words = [f"dataset={name}"]
        if name == "iris":
            words = ["dataset=csv", f"dataset.path={iris}", "dataset.target=species"]
        words += ["trainer.steps=60", "trainer.batch_size=16", "trainer.eval_every=20", "trainer.checkpoint.every=20"]
        run = build(compose(*words))
        execute(run, root / name, words, brief=True)
        found[name] = root / name, run
    return found


WEATHER = [f"{i},{i % 7},{int(i > 40)},{int(i % 7 > 3)},{int(i % 2 > 0)}" for i in range(90)]
FORMS = {
    "quantiles": "dataset=diabetes loss=multi_quantile loss.quantiles=[0.05,0.5,0.95]",
    "variance": "dataset=diabetes loss=gaussian_nll",
    "log_rate": "dataset=diabetes loss=poisson_nll",
    "sigmoid": "dataset=breast_cancer loss=bce_probs",
    "log_softmax": "dataset=digits loss=nll",
    "multilabel": "dataset=csv dataset.target=[wet,warm,odd] dataset.path=",
}


@pytest.fixture(scope="session")
def forms(tmp_path_factory):
    """A short run for each head of a regression and each form of a classifier's output."""
    root = tmp_path_factory.mktemp("forms")
    file = table(root / "weather.csv", WEATHER, "a,b,wet,warm,odd")
    for name, words in FORMS.items():
        typed = [word if word != "dataset.path=" else f"{word}{file}" for word in words.split()]
        typed += ["trainer.steps=40", "trainer.batch_size=32", "trainer.eval_every=20"]
        execute(build(compose(*typed)), root / name, typed, brief=True)
    return root


@pytest.fixture
def runs(trained, tmp_path):
    """Copies of the runs' directories, to change."""
    found = {}
    for name, (path, _) in trained.items():
        found[name] = shutil.copytree(path, tmp_path / "runs" / name, symlinks=True)
    return found


def printed(cli, *words):
    code, out, err = cli(*map(str, words))
    assert (code, err) == (0, "")
    return out


def refused(cli, code, line, *words):
    found, _, err = cli(*map(str, words))
    assert re.fullmatch(f"lossbench: error: {line}\n", err), err
    assert found == code


def metrics(cli, *words):
    return json.loads(printed(cli, "evaluate", *words, "--json", "-"))["metrics"]


# Every command


@pytest.mark.parametrize("command", USAGES)
def test_help_says_what_it_takes(cli, command):
    out = printed(cli, command, "--help")
    assert out == printed(cli, command, "nonsense", "--nonsense", "-h")
    assert out.startswith(f"lossbench {command}")
    assert f"\n  lossbench {command}" in out
    assert all(flag in out for flag in (*USAGES[command].values, *USAGES[command].switches))
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("lossbench ev", ["evaluate"]),
        ("lossbench evaluate ", []),
        ("lossbench evaluate --ch", ["--checkpoint"]),
        ("lossbench evaluate run --checkpoint ", ["best", "last", "averaged"]),
        ("lossbench evaluate run --split=t", ["--split=train", "--split=test"]),
        ("lossbench evaluate run --json ", []),
        ("lossbench evaluate run dataset=dia", ["dataset=diabetes"]),
        ("lossbench evaluate run --split all dataset=csv dataset.pa", ["dataset.path="]),
        ("lossbench evaluate run trainer.dev", ["trainer.device="]),
        ("lossbench evaluate run loss=", []),
        ("lossbench evaluate run --nonsense loss=", []),
        ("lossbench export run --format ", ["torch", "onnx"]),
        ("lossbench predict run --fo", ["--force"]),
        ("lossbench repair ", []),
        ("lossbench check loss=fo", ["loss=focal"]),
        ("lossbench check 'loss=", []),
    ],
)
def test_completion(cli, line, found):
    assert sorted(printed(cli, "completion", "query", line).split()) == sorted(found)


@pytest.mark.parametrize(
    "command", ["evaluate run", "predict run --input a.csv --output b.csv", "export run", "repair run"]
)
def test_a_directory_without_a_run(cli, tmp_path, command):
    (tmp_path / "run").mkdir()
    found, _, err = cli(*command.split())
    assert (found, err.count("\n")) == (2 if command.startswith("repair") else 5, 1)
    assert err.startswith("lossbench: error: ")


def test_checkpoints_that_cannot_be_used(cli, runs):
    run = runs["iris"]
    refused(
        cli,
        5,
        r"there is no checkpoint 'step-00000007' in .*; it has steps 40, 60",
        "export",
        run,
        "--checkpoint=step-7",
    )
    best = run / "checkpoints" / "best"
    refused(cli, 2, r"'.*best' names a checkpoint itself; .*", "evaluate", best, "--checkpoint=last")
    whole = (best / "data.json").read_bytes()
    (best / "data.json").write_bytes(whole.replace(b'"std"', b'"Std"', 1))
    refused(cli, 5, r".*data\.json is damaged: it fails its checksum; \S+/last may be whole", "evaluate", run)
    (best / "data.json").write_bytes(whole)
    with (best / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    for words in ("evaluate", "predict --input iris.csv --output out.csv", "export"):
        command, *rest = words.split()
        refused(cli, 5, r".*model\.safetensors is damaged: [\d,]+ bytes instead of [\d,]+;.*", command, run, *rest)
    (run / "checkpoints" / "best").unlink()
    refused(cli, 5, r"there is no checkpoint 'best' in .*; it has steps 40, 60", "export", run)
    assert printed(cli, "evaluate", run, "--checkpoint", "last")


def resealed(path, change):
    """Change a checkpoint's files and facts, by a function, with checksums that fit."""
    manifest = json.loads((path / "manifest.json").read_text())
    data = {name: (path / name).read_bytes() for name in manifest["files"]}
    facts = {key: value for key, value in manifest.items() if key not in ("format", "files", "sha256")}
    change(data, facts)
    shutil.rmtree(path)
    checkpoint.write(path, data, facts)


@pytest.mark.parametrize(
    ("command", "change"),
    [
        ("evaluate", lambda data, facts: facts.pop("config")),
        ("evaluate", lambda data, facts: facts["config"].pop("dataset")),
        ("evaluate", lambda data, facts: facts["config"].pop("loss")),
        ("evaluate", lambda data, facts: facts["config"].update(dataset=[])),
        ("evaluate", lambda data, facts: facts.pop("step")),
        ("export", lambda data, facts: facts.update(step=[1])),
        ("export", lambda data, facts: facts.update(config=[])),
        ("export", lambda data, facts: facts["config"].pop("model")),
        ("export", lambda data, facts: data.update({"data.json": b"[" * 100_000})),
    ],
)
def test_a_checkpoint_with_other_records(cli, runs, command, change):
    resealed((runs["iris"] / "checkpoints" / "best").resolve(), change)
    refused(cli, 5, r".*/best-00000060\b.*", command, runs["iris"], *(["--json=-"] if command == "evaluate" else []))


def test_a_run_of_code_that_was_typed(cli, runs):
    config = runs["digits"] / "config.yaml"
    config.write_text(config.read_text().replace("# lossbench train", "# lossbench train model._target_=os.getcwd", 1))
    line = r"the run was started with model\._target_=os\.getcwd, which may name code: type it again if you trust it"
    refused(cli, 5, line, "evaluate", runs["digits"])


@pytest.mark.parametrize(
    "word",
    [
        "hydra.searchpath=[file://.]",
        "model=../../evil",
        "+experiment=[digits,../evil]",
        "model@loss=/tmp/evil",
        "model=${name}",
    ],
)
def test_a_run_that_names_files_of_its_authors(cli, runs, word):
    config = runs["digits"] / "config.yaml"
    config.write_text(config.read_text().replace("# lossbench train", f"# lossbench train '{word}'", 1))
    line = rf".* was started with {re.escape(word)}, which may name code: type it again if you trust it"
    for command in ("evaluate", "export"):
        refused(cli, 5, line, command, runs["digits"])


def test_a_model_that_the_config_no_longer_gives(cli, runs):
    config = runs["digits"] / "config.yaml"
    config.write_text(config.read_text().replace("# lossbench train", "# lossbench train model.activation=tanh", 1))
    line = r".* was trained with model\.activation='relu', and it is 'tanh' now: put it back"
    refused(cli, 5, line, "evaluate", runs["digits"])


# check


@pytest.mark.parametrize("words", ["", "dataset=diabetes loss=huber scheduler=cosine scheduler.warmup=0.1"])
def test_check_says_what_would_be_trained(cli, tmp_path, words):
    out = printed(cli, "check", *words.split())
    assert out.splitlines()[-1] == "ok"
    wanted = ["310 training, 66 validation, 66 test rows", "loss huber(pred, target)", "cosine, 15 steps of warm-up"]
    wanted += ["35,841 parameters", "150 in 30 epochs of 5"]
    if not words:
        wanted = [
            "digits (multiclass): 1,257 training",
            "shape (1, 8, 8)",
            "10: 0, 1, 2",
            "loss cross_entropy(logits, labels)",
            "cpu, fp32",
        ]
    assert all(text in " ".join(out.split()) for text in wanted)
    assert everything(tmp_path) == []


def test_check_of_a_run_to_go_on_with(cli, runs):
    before = everything(runs["digits"])
    out = printed(cli, "check", f"resume={runs['digits']}", "trainer.steps=80")
    assert "goes on after step 60" in out
    assert everything(runs["digits"]) == before


# evaluate


@pytest.mark.parametrize("name", NAMES)
def test_evaluate_gives_the_summary_again(cli, runs, name):
    summary = json.loads((runs[name] / "summary.json").read_text())
    found = json.loads(printed(cli, "evaluate", runs[name], "--json", "-"))
    assert found["metrics"] == summary["metrics"]
    assert found["step"] == summary["best"]["step"]
    assert found["checkpoint"] == str((runs[name] / "checkpoints" / "best").resolve())
    assert metrics(cli, runs[name], "--split", "test") == {"test": summary["metrics"]["test"]}
    again = [runs[name] / "checkpoints", "trainer.batch_size=32", "dataset.workers=0", "trainer.device=cpu"]
    assert metrics(cli, *again) == summary["metrics"]


@pytest.mark.parametrize("name", FORMS)
def test_evaluate_of_every_form_and_head(cli, forms, name):
    summary = json.loads((forms / name / "summary.json").read_text())
    assert metrics(cli, forms / name) == summary["metrics"]
    every = metrics(cli, forms / name, "--split=all")["all"]
    assert list(every) == [metric for metric in summary["metrics"]["test"] if metric != "loss"]


def test_evaluate_of_other_rows_with_labels(cli, forms, tmp_path):
    other = table(tmp_path / "other.csv", [f"{i},{odd},{i % 7},{wet}" for i, wet, odd in ((3, 0, 1), (80, 1, 0))],
                  "a,odd,b,wet")  # fmt: skip
    line = r"these data lack 'warm', and the model was trained on 3 classes \(wet, warm, odd\)"
    words = ["evaluate", forms / "multilabel", f"dataset.path={other}"]
    refused(cli, 3, line, *words, "dataset.target=[odd,wet]")
    lines = [WEATHER[row] for row in (3, 80, 81)]
    found = metrics(cli, *words[1:-1], f"dataset.path={table(other, lines, 'a,b,wet,warm,odd')}")["all"]
    assert found["accuracy"] > 0.5


def test_the_table_of_a_run_leaves_single_classes_to_its_files(trained, capsys):
    summary = json.loads((trained["iris"][0] / "summary.json").read_text())
    assert "recall/2" in summary["metrics"]["test"]
    show_summary(summary, "here", "here")
    out = capsys.readouterr().out
    assert "worst_recall" in out
    assert "recall/" not in out


def test_evaluate_prints_a_table_and_writes_json(cli, runs, tmp_path):
    out = printed(cli, "evaluate", runs["diabetes"], "--json", "found.json")
    rmse = json.loads((tmp_path / "found.json").read_text())["metrics"]["test"]["rmse"]
    assert re.search(rf"rmse .*\b{rmse:.4f}\b", out)
    assert all(word in out for word in ("best-000000", "train", "validation", "test"))
    refused(cli, 6, r"cannot write to 'no/found\.json': .*", "evaluate", runs["diabetes"], "--json", "no/found.json")


def test_evaluate_writes_json_through_a_link_and_to_no_pipe(cli, runs, tmp_path):
    link, real = tmp_path / "link.json", make(tmp_path / "real") / "found.json"
    link.symlink_to(real)
    for _ in range(2):  # what it leads to is not there, and is
        assert printed(cli, "evaluate", runs["diabetes"], "--json", link)
        assert link.is_symlink()
        assert "metrics" in json.loads(real.read_text())
        real.write_text("old")
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    line = r"cannot write to '.*pipe\.json': it is not a regular file; name one, or - for standard output"
    refused(cli, 6, line, "evaluate", runs["diabetes"], "--json", pipe)
    assert pipe.is_fifo()
    line = r"cannot write to '.*pipe\.json': it is not a regular file; name one"
    with pytest.raises(ResourceError, match=f"^{line}$"):
        check_place(pipe, force=True)
    link.unlink()
    link.symlink_to(link)
    line = r"cannot write to '.*link\.json': it is a link that leads in a circle; name a file"
    refused(cli, 6, line, "evaluate", runs["diabetes"], "--json", link)


def test_evaluate_any_checkpoint(cli, runs):
    run = runs["digits"]
    last = printed(cli, "evaluate", run, "--checkpoint", "last", "--json", "-")
    assert json.loads(last)["step"] == 60
    assert printed(cli, "evaluate", run, "--checkpoint=step-60", "--json=-") == last
    assert printed(cli, "evaluate", run / "checkpoints" / "step-00000060", "--json=-") == last
    assert json.loads(printed(cli, "evaluate", run, "--checkpoint=step-40", "--json=-"))["step"] == 40


def test_evaluate_other_data_by_the_trainings_scale_and_classes(cli, runs, trained, tmp_path):
    _, run = trained["iris"]
    own = {name: v for name, v in metrics(cli, runs["iris"])["test"].items() if name != "loss"}
    rows = run.data.test.rows.tolist()
    other = table(tmp_path / "other.csv", [LINES[row] for row in reversed(rows)])
    assert metrics(cli, runs["iris"], f"dataset.path={other}") == {"all": pytest.approx(own)}
    some = [row for row in rows if IRIS.target_names[IRIS.target[row]] != "setosa"]
    found = metrics(cli, runs["iris"], f"dataset.path={table(other, [LINES[row] for row in some])}")
    right = run.evaluate(run.data.test.take(torch.tensor([rows.index(row) for row in some])))
    assert found["all"]["nll"] == pytest.approx(right["nll"])
    unknown = table(tmp_path / "unknown.csv", [*LINES[:60], "1,2,3,4,rose", "1,2,3,4,rose"])
    refused(
        cli,
        3,
        r"the target 'species', line 62: class 'rose' is not among the 3 classes .* \(setosa, versicolor, virginica\)",
        "evaluate",
        runs["iris"],
        f"dataset.path={unknown}",
    )
    line = r"these are not the data that .* was trained on: .*"
    refused(cli, 5, line, "evaluate", runs["iris"], f"dataset.path={other}", "--split=test")
    moved = table(tmp_path / "moved.csv", LINES)
    assert metrics(cli, runs["iris"], f"dataset.path={moved}", "--split=test")["test"].items() >= own.items()


@pytest.fixture
def mixed(cli, tmp_path):
    """A run on a CSV file with words, and a regression or class target; returns its directory."""

    def train(target, *words):
        lines = [f"{i % 11},{['red', 'blue', 'green'][i % 3]},{i % 3 == 0:d},{i * 0.37 + i % 5}" for i in range(90)]
        table(tmp_path / "mixed.csv", lines, "size,color,kind,cost")
        other = "cost" if target == "kind" else "kind"
        data = ["dataset=csv", "dataset.path=mixed.csv", f"dataset.target={target}", f"dataset.drop=[{other}]"]
        printed(cli, "train", *data, "trainer.steps=20", "hydra.run.dir=run", *words)
        return tmp_path / "run"

    return train


@pytest.mark.parametrize(
    ("head", "lines"),
    [
        ("size,color,kind", ["3,red,1"]),
        ("size,color,kind", ["3,red,1.0", "4,blue,01"]),
        ("size,color,kind", [f"{i},word{i},{i % 2}" for i in range(60)]),
        ("size,color,kind", [f",{i},{i % 2}" for i in range(9)]),
        ("kind,size,color", ["0,5,", "1,6,", "1,,NA"]),
    ],
    ids=["one row", "one class", "different texts", "an empty column, and words that hold digits", "no words"],
)
def test_evaluate_reads_what_predict_does(cli, mixed, tmp_path, head, lines):
    run, new = mixed("kind"), table(tmp_path / "new.csv", lines, head)
    found = metrics(cli, run, "dataset.path=new.csv")["all"]
    said = predicted(cli, run, new, tmp_path / "out.csv")
    kinds = [float(line.split(",")[head.split(",").index("kind")]) for line in lines]
    assert found["accuracy"] == np.mean([float(p) == kind for p, kind in zip(said["prediction"], kinds, strict=True)])


def test_evaluate_of_few_numbers(cli, mixed, tmp_path):
    run = mixed("cost", "dataset.task=regression")
    table(tmp_path / "new.csv", ["3,red,1", "4,blue,2", "5,blue,2"], "size,color,cost")
    assert metrics(cli, run, "dataset.path=new.csv")["all"]["rmse"] > 0
    assert printed(cli, "evaluate", run, "dataset.path=new.csv")
    table(tmp_path / "new.csv", ["3,red,1"], "size,color,cost")
    assert metrics(cli, run, "dataset.path=new.csv")["all"]["rmse"] > 0


@pytest.mark.parametrize(
    ("code", "line", "rows", "words"),
    [
        (3, r"the target 'kind', line 3: class 'alien' is not among the 2 classes .* \(0, 1\)", "alien", ""),
        (3, r"the target 'kind', line 3: class '2' is not among the 2 classes .*", "2", ""),
        (3, r"the target 'kind' is missing in 1 row, first at line 3", "", ""),
        (3, r"dataset\.target: no column 'price' .*", "1", "dataset.target=price"),
        (3, r"new\.csv, line 2: column 'size' is 'large', and the model was trained on numbers there", "1", "large"),
        (2, r"dataset\.target names 'size', and the model was trained with that column .*", "1", "dataset.target=size"),
        (2, r"dataset\.drop names 'color', and the model .*", "1", "dataset.drop=[color]"),
        (2, r"dataset\.task=regression, and the model was trained for task binary", "1", "dataset.task=regression"),
    ],
)
def test_evaluate_says_what_does_not_fit_the_model(cli, mixed, tmp_path, code, line, rows, words):
    run = mixed("kind")
    size = words if words == "large" else "3"
    table(tmp_path / "new.csv", [f"{size},red,1", f"4,blue,{rows}"], "size,color,kind")
    refused(cli, code, line, "evaluate", run, "dataset.path=new.csv", *([words] if "=" in words else []))


def test_evaluate_all_rows_in_one_piece(cli, runs, trained):
    _, run = trained["digits"]
    found = metrics(cli, runs["digits"], "--split", "all")
    assert list(found) == ["all"]
    own = metrics(cli, runs["digits"])
    sizes = [len(split) for split in (run.data.train, run.data.val, run.data.test)]
    mean = np.average([split["accuracy"] for split in own.values()], weights=sizes)
    assert found["all"]["accuracy"] == pytest.approx(mean)
    assert "loss" not in found["all"]


def test_evaluate_of_data_that_have_changed(cli, runs, trained):
    root = trained["iris"][0].parent
    try:
        table(root / "iris.csv", LINES[:120])
        refused(
            cli,
            5,
            r"these are not the data that .* was trained on: .*; --split all measures every row",
            "evaluate",
            runs["iris"],
        )
        assert list(metrics(cli, runs["iris"], "--split=all")) == ["all"]
    finally:
        table(root / "iris.csv", LINES)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("model=linear", r"evaluate takes dataset, trainer\.device, .*; model is the run's own"),
        ("optim.lr=1", r".*; optim\.lr is the run's own"),
        ("trainer.epochs=1", r".*; trainer\.epochs is the run's own"),
        ("dataset.split.val=0.3", r"dataset\.split\.val is of the training; .*"),
        ("dataset.imbalance=0.3", r"dataset\.imbalance is of the training; .*"),
        ("dataset=diabetes", r"the model was trained for task multiclass, and these data are for task regression; .*"),
        ("dataset=digit", r"unknown dataset 'digit'; did you mean 'digits'\? .*"),
        ("dataset.pth=a", r"digits has no option 'pth' .*"),
        ("trainer.device=gpu", r"trainer\.device must be .*; did you mean 'cuda'\?"),
    ],
)
def test_evaluate_refuses_other_settings(cli, runs, word, line):
    refused(cli, 2, line, "evaluate", runs["digits"], word)


# predict


@pytest.fixture
def inputs(tmp_path):
    """New rows for each run: those that it was trained on, without their targets."""
    cancer, diabetes = load_breast_cancer(), load_diabetes(scaled=False)
    lines = [line.rpartition(",")[0] for line in LINES]
    arrays = tmp_path / "digits.npy"
    np.save(arrays, (load_digits().images / 16).astype(np.float32)[:, None])
    return {
        "digits": arrays,
        "iris": table(tmp_path / "new.csv", lines, "a,b,c,d"),
        **{
            name: table(tmp_path / f"{name}.csv", [",".join(map(repr, row)) for row in data.data.tolist()], head)
            for name, data in (("breast_cancer", cancer), ("diabetes", diabetes))
            for head in [",".join(map(str, data.feature_names))]
        },
    }


def predicted(cli, run, source, target, *words):
    out = printed(cli, "predict", run, "--input", source, "--output", target, *words)
    assert re.search(rf"\d predictions? in {re.escape(str(target))}\n", out)
    if target.suffix.lower() == ".npz":
        with np.load(target) as arrays:
            return dict(arrays)
    if target.suffix.lower() == ".parquet":
        return pyarrow.parquet.read_table(target).to_pydict()
    with target.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.mark.parametrize(
    ("name", "targets"), [("iris", IRIS), ("breast_cancer", load_breast_cancer()), ("digits", load_digits())]
)
def test_predictions_are_those_that_evaluate_counts(cli, runs, inputs, tmp_path, name, targets):
    found = predicted(cli, runs[name], inputs[name], tmp_path / "out.csv")
    assert [int(row) for row in found["row"]] == list(range(len(targets.target)))
    right = np.mean(
        [p == str(targets.target_names[k]) for p, k in zip(found["prediction"], targets.target, strict=True)]
    )
    assert metrics(cli, runs[name], "--split=all")["all"]["accuracy"] == right


def test_predictions_in_the_targets_units(cli, runs, inputs, tmp_path):
    found = predicted(cli, runs["diabetes"], inputs["diabetes"], tmp_path / "out.csv")
    assert list(found) == ["row", "prediction"]
    off = np.array(found["prediction"], float) - load_diabetes().target
    assert np.sqrt((off**2).mean()) == pytest.approx(metrics(cli, runs["diabetes"], "--split=all")["all"]["rmse"])


def test_predictions_of_every_head(cli, forms, inputs, tmp_path):
    true = load_diabetes().target
    for name, columns in {"quantiles": ["q0.05", "q0.5", "q0.95"], "variance": ["std"], "log_rate": []}.items():
        words = [forms / name, inputs["diabetes"]]
        found = predicted(cli, *words, tmp_path / f"{name}.csv")
        assert list(found) == ["row", "prediction", *columns]
        rows = {key: np.array(column, float) for key, column in found.items()}
        every = metrics(cli, forms / name, "--split=all")["all"]
        assert np.sqrt(((rows["prediction"] - true) ** 2).mean()) == pytest.approx(every["rmse"])
        if name == "quantiles":
            assert rows["prediction"].tolist() == rows["q0.5"].tolist()
            assert np.mean((rows["q0.05"] <= true) & (true <= rows["q0.95"])) == pytest.approx(every["coverage"])
        if name == "variance":
            width = 2 * 1.2815515655446004 * rows["std"].mean()  # of the central 80 %
            assert width == pytest.approx(every["interval_width"])
        arrays = predicted(cli, *words, tmp_path / f"{name}.npz")
        assert list(arrays) == ["prediction", *columns]
        assert all(column.tolist() == rows[key].tolist() for key, column in arrays.items())


def test_predictions_of_labels(cli, forms, tmp_path):
    source = table(tmp_path / "new.csv", [line.rsplit(",", 3)[0] for line in WEATHER], "a,b")
    found = predicted(cli, forms / "multilabel", source, tmp_path / "out.csv")
    names = ["wet", "warm", "odd"]
    assert list(found) == ["row", "prediction", *(f"p_{name}" for name in names)]
    assert len(set(found["prediction"])) > 2
    for row, labels in enumerate(found["prediction"]):
        assert labels == ";".join(name for name in names if float(found[f"p_{name}"][row]) > 0.5)
    right = [name in labels.split(";") for labels in found["prediction"] for name in names]
    true = [cell == "1" for line in WEATHER for cell in line.split(",")[2:]]
    every = metrics(cli, forms / "multilabel", "--split=all")["all"]
    assert np.mean(np.array(right) == true) == pytest.approx(every["accuracy"])


@pytest.mark.parametrize(("name", "dataset"), [("sigmoid", "breast_cancer"), ("log_softmax", "digits")])
def test_predictions_of_a_model_that_gives_probabilities(cli, forms, inputs, tmp_path, name, dataset):
    arrays = predicted(cli, forms / name, inputs[dataset], tmp_path / "out.npz")
    np.testing.assert_allclose(arrays["probabilities"].sum(1), 1, rtol=1e-6)
    chosen = arrays["classes"][arrays["probabilities"].argmax(1)]
    assert arrays["prediction"].tolist() == chosen.tolist()
    target = {"breast_cancer": load_breast_cancer, "digits": load_digits}[dataset]()
    right = np.mean(chosen == target.target_names[target.target].astype(str))
    assert right == metrics(cli, forms / name, "--split=all")["all"]["accuracy"] > 0.8


@pytest.mark.parametrize("name", NAMES)
def test_every_format_says_the_same(cli, runs, inputs, tmp_path, name):
    text, columns, arrays = (
        predicted(cli, runs[name], inputs[name], tmp_path / f"out.{kind}") for kind in ("csv", "parquet", "npz")
    )
    assert list(text) == list(columns)
    for key, column in columns.items():
        assert [type(cell)(shown) for cell, shown in zip(column, text[key], strict=True)] == column
    assert arrays["prediction"].tolist() == columns["prediction"]
    if name == "diabetes":
        assert list(arrays) == ["prediction"]
        return
    probabilities, classes = arrays["probabilities"], arrays["classes"].tolist()
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert [classes[k] for k in probabilities.argmax(1)] == columns["prediction"]
    names = ["probability"] if name == "breast_cancer" else [f"p_{c}" for c in classes]
    shown = probabilities[:, 1:] if name == "breast_cancer" else probabilities
    assert list(columns) == ["row", "prediction", *names]
    assert [columns[c] for c in names] == shown.T.tolist()


def test_predict_needs_no_training_data(cli, runs, trained, inputs, tmp_path):
    file = trained["iris"][0].parent / "iris.csv"
    try:
        file.rename(file.with_suffix(".away"))
        found = predicted(cli, runs["iris"], inputs["iris"], tmp_path / "out.csv", "--checkpoint=last", "--device=cpu")
        assert len(found["row"]) == 150
    finally:
        file.with_suffix(".away").rename(file)


def test_predict_reads_csv_files_that_are_unusual(cli, runs, inputs, tmp_path):
    plain = predicted(cli, runs["iris"], inputs["iris"], tmp_path / "out.csv")
    odd = tmp_path / "odd.csv"
    odd.write_text(inputs["iris"].read_text().replace(",", "/"), encoding="utf-16")
    words = ["--force", "--delimiter=/", "--encoding", "utf-16"]
    assert predicted(cli, runs["iris"], odd, tmp_path / "out.csv", *words) == plain


def test_predict_takes_an_ending_in_any_case(cli, runs, inputs, tmp_path):
    for kind in ("csv", "parquet", "npz"):
        predicted(cli, runs["iris"], inputs["iris"], tmp_path / f"OUT.{kind.upper()}")
        predicted(cli, runs["iris"], inputs["iris"], tmp_path / f"out.{kind}")
        if kind != "npz":  # which holds the time
            assert (tmp_path / f"OUT.{kind.upper()}").read_bytes() == (tmp_path / f"out.{kind}").read_bytes()


def test_predict_overwrites_nothing_unasked(cli, runs, inputs, tmp_path):
    target = tmp_path / "out.csv"
    target.write_text("mine")
    words = ["predict", runs["iris"], "--input", inputs["iris"], "--output"]
    refused(cli, 2, r"'.*out\.csv' is there already; --force overwrites it, .*", *words, target)
    assert target.read_text() == "mine"
    refused(cli, 2, r"--output is the file of --input; name another", *words, inputs["iris"], "--force")
    refused(cli, 6, r"cannot write to '.*': there is no directory '.*no'; .*", *words, tmp_path / "no" / "out.csv")
    refused(cli, 6, r"cannot write to '.*': it is a directory; .*", *words, make(tmp_path / "out.npz"))
    refused(cli, 2, r"--output must end in \.csv, \.parquet or \.npz, got '.*'", *words, tmp_path / "out.txt")
    assert predicted(cli, runs["iris"], inputs["iris"], target, "--force")
    assert not list(tmp_path.glob(".*out*"))


def make(directory):
    directory.mkdir()
    return directory


def test_predict_of_inputs_that_do_not_fit(cli, runs, inputs, tmp_path):
    words = ["--output", "out.csv", "--input"]
    refused(cli, 3, r"there is no file 'no\.csv'", "predict", runs["iris"], *words, "no.csv")
    refused(cli, 2, r"the model was trained on a table .*", "predict", runs["iris"], *words, inputs["digits"])
    short = table(tmp_path / "short.csv", ["1,2,3"], "a,b,c")
    refused(cli, 3, r".*short\.csv has no column 'd'.*", "predict", runs["iris"], *words, short)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("module", "words", "line"),
    [
        (
            "pyarrow",
            "predict --input new.csv --output out.parquet",
            r"writing \.parquet files needs pyarrow: pip install pyarrow",
        ),
        ("onnx", "export --format onnx", r"--format onnx needs onnx: pip install 'lossbench\[onnx\]'"),
    ],
)
def test_what_is_not_installed(cli, runs, inputs, monkeypatch, module, words, line):
    monkeypatch.setitem(sys.modules, module, None)
    command, *rest = words.split()
    refused(cli, 2, line, command, runs["iris"], *rest)


# export


@pytest.mark.parametrize("kind", ["torch", "onnx"])
@pytest.mark.parametrize("name", ["digits", "iris"])
def test_an_exported_model_gives_what_the_model_gives(cli, runs, trained, kind, name):
    import onnxruntime

    out = printed(cli, "export", runs[name], "--format", kind)
    folder = runs[name] / "export"
    model = "model.onnx" if kind == "onnx" else "model.pt2"
    assert sorted(p.name for p in folder.iterdir()) == ["model.data.json", model]
    assert re.search(r"on batches of 1, 2, 7 at most \S+ from the model\n", out)
    assert f"{folder / 'model.data.json'} says how" in out
    _, run = trained[name]
    fitted = Fitted.from_json(json.loads((folder / "model.data.json").read_text()))
    features = (load_digits().images / 16)[:, None] if name == "digits" else None
    rows = run.data.test.rows[:5]
    inputs = run.data.test.inputs[:5] if features is None else fitted.inputs(features[rows], torch.device("cpu"))
    torch.testing.assert_close(inputs, run.data.test.inputs[:5])
    if kind == "torch":
        outputs = torch.export.load(folder / "model.pt2").module()(inputs).detach()
    else:
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        outputs = torch.from_numpy(session.run(None, {"input": inputs.numpy()})[0])
    run.best.restore()
    torch.testing.assert_close(outputs, run.player.model.eval()(inputs).detach(), rtol=1e-4, atol=1e-5)
    refused(cli, 2, r"'.*' is there already; --force overwrites it, .*", "export", runs[name], "--format", kind)
    assert printed(cli, "export", runs[name], "--format", kind, "--force") == out


def test_an_exported_model_ends_in_its_activation(cli, forms, tmp_path):
    printed(cli, "export", forms / "sigmoid", "--output", tmp_path / "model.pt2")
    outputs = torch.export.load(tmp_path / "model.pt2").module()(torch.randn(7, 30))
    assert ((outputs > 0) & (outputs < 1)).all()


def test_where_an_export_goes(cli, runs, tmp_path):
    assert printed(cli, "export", runs["iris"], "--output", "mine.pt2", "--checkpoint=step-40")
    assert sorted(p.name for p in tmp_path.glob("*.*")) == ["mine.data.json", "mine.pt2"]
    data = (tmp_path / "mine.data.json").read_bytes()
    assert printed(cli, "export", runs["digits"], "--output", "other.PT2", "--force")
    assert (tmp_path / "mine.data.json").read_bytes() == data != (tmp_path / "other.data.json").read_bytes()
    (tmp_path / "third.data.json").write_text("mine")
    refused(
        cli,
        2,
        r"--output must end in \.onnx, got 'mine\.pt2'",
        "export",
        runs["iris"],
        "--format=onnx",
        "--output=mine.pt2",
    )
    refused(cli, 2, r"'third\.data\.json' is there already; .*", "export", runs["digits"], "--output", "third.pt2")
    assert not (tmp_path / "third.pt2").exists()
    refused(
        cli,
        6,
        r"cannot write to 'no/mine\.pt2': there is no directory 'no'; .*",
        "export",
        runs["iris"],
        "--output=no/mine.pt2",
    )


MODELS = """
import torch
from torch import nn

class Noisy(nn.Linear):
    def forward(self, x): return super().forward(x.flatten(1) + torch.rand_like(x.flatten(1)))
class Branches(nn.Linear):
    def forward(self, x):
        x = x.flatten(1)
        return super().forward(x if x.sum() > 0 else -x)
def noisy(*, outputs): return Noisy(64, outputs)
def branches(*, outputs): return Branches(64, outputs)
def lazy(*, outputs): return nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.Linear(8, outputs))

class Tempered(nn.Module):
    def __init__(self):
        super().__init__()
        self.heat = nn.Parameter(torch.ones(()))
    def forward(self, logits, labels): return nn.functional.cross_entropy(logits * self.heat.exp(), labels)
"""


@pytest.fixture
def own(cli, tmp_path):
    """Trains with options of the user's own; returns the run's directory."""
    (tmp_path / "mine.py").write_text(MODELS)
    for group, names in {"model": ("noisy", "branches", "lazy"), "loss": ("Tempered",)}.items():
        for name in names:
            path = tmp_path / "conf" / group / f"{name.lower()}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"_target_: mine.{name}\n")

    def train(*words):
        printed(cli, "train", "--config-dir=conf", "trainer.steps=30", "hydra.run.dir=run", *words)
        return tmp_path / "run"

    return train


def test_a_model_that_draws_random_numbers_is_not_exported(cli, own):
    run = own("model=noisy")
    line = r"once exported, the model gives other outputs, by up to \S+; nothing is kept\. .*"
    refused(cli, 2, line, "export", run, "--config-dir", "conf")
    assert not (run / "export").exists()


def test_a_model_that_cannot_be_exported(cli, own):
    run = own("model=branches")
    refused(cli, 2, r"the model cannot be exported \(torch\): .+", "export", run, "--config-dir", "conf")
    assert not (run / "export").exists()


def test_weights_that_are_not_finite(cli, tmp_path):
    words = ["dataset=diabetes", "optim=sgd", "optim.lr=1e30", "trainer.nonfinite=off", "trainer.steps=12"]
    assert cli("train", *words, "hydra.run.dir=run")[0] == 0
    for kind in ("torch", "onnx"):
        line = r"the model's outputs are not finite: nothing to export; --checkpoint names another one"
        refused(cli, 2, line, "export", "run", "--format", kind, "--checkpoint", "last")
    for split in ("test", "all"):
        code, out, err = cli("evaluate", "run", "--checkpoint", "last", "--split", split, "--json", "-")
        assert code == 0
        assert json.loads(out)["metrics"][split]["rmse"] is None
        assert re.fullmatch(r"lossbench: note: the weights of \S+ are not finite: its metrics mean nothing\n", err)


# Options of the user's own


def test_a_loss_with_parameters_and_a_lazy_model(cli, own, tmp_path):
    run = own("loss=tempered", "model=lazy")
    summary = json.loads((run / "summary.json").read_text())
    assert metrics(cli, run, "--config-dir=conf") == summary["metrics"]
    np.save("new.npy", (load_digits().images / 16).astype(np.float32)[:, None])
    assert predicted(cli, run, "new.npy", tmp_path / "out.csv", "--config-dir", "conf")
    assert "from the model" in printed(cli, "export", run, "--config-dir", "conf")
    line = r"unknown (loss|model) '\w+'.*; an option of your own needs --config-dir DIR"
    refused(cli, 2, line, "evaluate", run)
    refused(cli, 2, r"--config-dir: there is no directory 'no'", "evaluate", run, "--config-dir", "no")


# What is printed can be run


def test_the_tensorboard_command_is_quoted(cli):
    words = ["dataset=diabetes", "trainer.steps=4"]
    assert "tensorboard --logdir 'my runs/one'" in printed(cli, "train", *words, "hydra.run.dir=my runs/one")
    assert "tensorboard --logdir 'my sweep'\n" in printed(
        cli, "train", "-m", *words, "optim.lr=0.1,0.01", "hydra.sweep.dir=my sweep"
    )


# repair


def test_repair_says_what_it_did(cli, runs):
    assert "60 steps" in printed(cli, "repair", runs["iris"])
