"""The command line as a child process: what each command prints and writes."""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from command_line import (
    COMMANDS,
    EXTRAS,
    FILES,
    LOSS,
    PNG,
    PREDICT,
    TRAIN,
    TUNE,
    plain,
    set_flags,
    succeeds,
    with_tables,
    write_task,
)
from kdloss import kd_loss_parts
from kdloss.trainer import LinearStudent, Settings

ROWS = "kdloss: rows: 48 labelled, 10 unlabelled, 2 padding; 3 of 3 classes occur\n"


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_task()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command):
    out = succeeds(command, "--help", without=EXTRAS).stdout
    assert f"example:\n  kdloss {command} " in out


def test_version():
    assert re.fullmatch(r"kdloss \d+\.\d+\.\d+\S*\n", plain("--version").stdout)


def test_import_of_the_package_leaves_the_command_line_alone():
    code = "import kdloss, sys; print([m for m in sys.modules if m.startswith('kdloss.cli')])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


def test_loss_prints_the_parts_to_the_last_digit():
    parts = kd_loss_parts(np.load("S.npy"), np.load("T.npy"), np.load("y.npy"), alpha=0.3, tau=2)
    out = plain(*LOSS, "--alpha", 0.3, "--tau", 2).stdout
    assert out.splitlines() == [
        f"loss  {parts.loss!r}",
        f"hard  {parts.hard!r}",
        f"soft  {parts.soft!r}",
        "rows  48 labelled, 10 unlabelled, 2 padding; 3 of 3 classes occur",
    ]


@pytest.mark.parametrize("divergence", ["reverse_kl", "js", "tv", "mse"])
def test_loss_by_divergence(divergence):
    options = {"alpha": 0.0, "divergence": divergence, "beta": 0.25}
    parts = kd_loss_parts(np.load("S.npy"), np.load("T.npy"), None, **options)
    flags = [word for name, value in options.items() for word in (f"--{name}", value)]
    command = ("loss", "--student", "S.npy", "--teacher", "T.npy", *flags, "--json")
    found = json.loads(plain(*command).stdout)
    assert found["loss"] == found["soft"] == parts.loss
    assert (found["divergence"], found["beta"]) == (divergence, 0.25)


def test_loss_defaults_are_those_of_the_function():
    parts = kd_loss_parts(np.load("S.npy"), np.load("T.npy"), np.load("y.npy"))
    assert plain(*LOSS).stdout.startswith(f"loss  {parts.loss!r}\n")


def test_loss_per_row():
    parts = kd_loss_parts(np.load("S.npy"), np.load("T.npy"), np.load("y.npy"), reduction="none")
    lines = plain(*LOSS, "--per-row").stdout.split("\n\n")[1].splitlines()
    assert lines[0] == "row\tloss\thard\tsoft"
    found = np.array([line.split("\t") for line in lines[1:]], float)
    np.testing.assert_array_equal(found, np.column_stack([range(60), *parts]))


def test_loss_json():
    # The student masks class 0 in row 0, where it is the label: an infinite loss.
    S, y = np.load("S.npy"), np.load("y.npy")
    y[0], S[0, 0] = 0, -np.inf
    np.save("S.npy", S), np.save("y.npy", y)
    found = json.loads(plain(*LOSS, "--per-row", "--json").stdout)
    assert found["loss"] == "Infinity"
    assert found["per_row"]["hard"][0] == "Infinity"
    assert found["per_row"]["hard"][40] is None
    assert found["rows"] == {"labelled": 48, "unlabelled": 10, "padding": 2, "classes": 3}
    assert (found["alpha"], found["tau"]) == (0.5, 4.0)
    parts = kd_loss_parts(S, np.load("T.npy"), y, reduction="none")
    assert found["per_row"]["loss"][1:] == parts.loss[1:].tolist()


def test_loss_of_labels_alone_and_of_a_teacher_alone():
    S, T, y = (
        np.load("S.npy"),
        np.load("T.npy"),
        np.where(np.load("y.npy") < 0, 1, np.load("y.npy")),
    )
    np.save("y.npy", y)
    alone = plain("loss", "--student", "S.npy", "--labels", "y.npy", "--alpha", 1).stdout
    assert f"loss  {kd_loss_parts(S, None, y, alpha=1).loss!r}\n" in alone
    alone = plain("loss", "--student", "S.npy", "--teacher", "T.npy", "--alpha", 0).stdout
    assert f"loss  {kd_loss_parts(S, T, None, alpha=0).loss!r}\n" in alone
    assert "rows  0 labelled, 60 unlabelled, 0 padding" in alone


def test_formats_give_the_same():
    expected = plain(*LOSS).stdout
    same = set_flags(LOSS, student="all.npz:S", teacher="T.csv", labels="y.csv")
    assert with_tables(*same).stdout == expected


def test_loss_stops_quietly_when_its_reader_has_enough():
    np.save("S.npy", np.zeros((100_000, 3)))
    code = [sys.executable, "-m", "kdloss", "loss", "--student", "S.npy", "--teacher", "S.npy"]
    with subprocess.Popen(
        [*code, "--alpha", "0", "--per-row"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        set_flags(LOSS, teacher="P.npy"),
        set_flags(TRAIN, teacher_logits="P.npy"),
        set_flags(TUNE, teacher_logits="P.npy"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_warns_once_of_a_teacher_that_looks_like_probabilities(arguments):
    err = plain(*arguments).stderr
    assert err.count("kdloss: warning:") == err.count("like probabilities") == 1
    teacher = "teacher" if arguments[0] == "loss" else "teacher_logits"
    assert "warning" not in plain(*set_flags(arguments, **{teacher: "T.npy"})).stderr


def test_loss_warns_of_a_student_that_looks_like_probabilities(data):
    err = plain(*set_flags(LOSS, student="P.npy")).stderr
    assert err.count("kdloss: warning: --student P.npy looks like probabilities") == 1


def test_train_leaves_the_student_of_the_python_api(data):
    X, y, T = data
    result = succeeds(*TRAIN)
    assert result.stderr == f"{ROWS}epoch 1/3\nepoch 2/3\nepoch 3/3\n"
    assert sorted(os.listdir("run")) == [
        "best.npz",
        "history.json",
        "settings.json",
        "student.npz",
        "training.png",
    ]
    expected = LinearStudent(epochs=3, standardize=True).fit(X, y, T, validation=0.2)
    found = LinearStudent.load("run/student.npz")
    np.testing.assert_array_equal(found.weights, expected.weights)
    np.testing.assert_array_equal(found.bias, expected.bias)
    assert json.loads(Path("run/history.json").read_text()) == expected.history
    assert Path("run/training.png").read_bytes().startswith(PNG)
    assert f"{expected.history[-1]['val_nll']:.4g}" in result.stdout

    settings = json.loads(Path("run/settings.json").read_text())
    assert settings["settings"] == dataclasses.asdict(expected.settings) | {"validation": 0.2}
    assert settings["files"]["teacher_logits"] == "T.npy"
    assert settings["shapes"] == {"features": [60, 4], "labels": [60], "teacher_logits": [60, 3]}
    assert settings["versions"]["numpy"] == np.__version__


def test_train_names_the_command_that_predicts(data):
    command = plain(*TRAIN).stdout.splitlines()[-1].removeprefix("next: kdloss ")
    plain(*shlex.split(command))
    expected = LinearStudent.load("run/student.npz").predict_proba(data[0])
    np.testing.assert_array_equal(np.load("predictions.npy"), expected)


def test_train_by_lbfgs(data):
    X, y, T = data
    train = ("train", *FILES, "--out", "run")
    succeeds(*train, "--solver", "lbfgs", "--tolerance", "1e-3", "--l2", "0.01")
    settings = {"solver": "lbfgs", "tolerance": 1e-3, "l2": 0.01, "standardize": True}
    expected = LinearStudent(**settings).fit(X, y, T, validation=0.2)
    found = LinearStudent.load("run/student.npz")
    np.testing.assert_array_equal(found.weights, expected.weights)


@pytest.mark.parametrize(
    ("flags", "solver", "l2"),
    [((), "lbfgs", 1e-3), (("--l2", "0.1"), "lbfgs", 0.1), (("--epochs", "2"), "sgd", 0.0)],
)
def test_tune_needs_no_learning_rate(data, flags, solver, l2):
    tune = ("tune", *FILES, "--out", "tune", "--alphas", "0.5", "--taus", "2", "--seeds", "1")
    succeeds(*tune, *flags)
    settings = json.loads(Path("tune/results.json").read_text())["settings"]
    assert (settings["solver"], settings["l2"]) == (solver, l2)
    assert "SciPy is not installed, so the students are trained by sgd" in plain(*tune).stderr


def test_train_has_every_setting_of_the_trainer(data):
    X, y, T = data
    settings = {
        "alpha": 0.25,
        "tau": 2.0,
        "learning_rate": 0.05,
        "epochs": 4,
        "batch_size": 16,
        "schedule": "cosine",
        "momentum": 0.5,
        "l2": 0.01,
        "bias": False,
        "shuffle": False,
        "seed": 7,
        "patience": 2,
        "standardize": False,
        "solver": "sgd",
        "tolerance": 1e-4,
        "divergence": "js",
        "beta": 0.25,
    }
    assert settings.keys() == {field.name for field in dataclasses.fields(Settings)}
    flags = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        flags += [f"--no-{flag}"] if value is False else [f"--{flag}", value]
    plain(*TRAIN, *flags, "--validation", "0.3")
    expected = LinearStudent(**settings).fit(X, y, T, validation=0.3)
    found = LinearStudent.load("run/student.npz")
    np.testing.assert_array_equal(found.weights, expected.weights)
    assert found.settings == expected.settings


def test_train_reports_the_epoch_that_patience_kept():
    out = plain(*TRAIN, "--patience", 2, "--epochs", 60, "--learning-rate", 9).stdout
    history = json.loads(Path("run/history.json").read_text())
    best = history[-1]["best_epoch"]
    assert best < len(history)
    assert out.startswith(f"run: the student of epoch {best}, out of {len(history)}\n")
    assert f"{history[best - 1]['val_loss']:.4g}" in out


def test_train_on_all_rows(data):
    X, y, T = data
    out = plain(*TRAIN, "--validation", 0).stdout
    assert "validation" not in out
    expected = LinearStudent(epochs=3, standardize=True).fit(X, y, T)
    np.testing.assert_array_equal(LinearStudent.load("run/student.npz").weights, expected.weights)


def test_train_from_a_teacher_alone_writes_null_for_what_is_not_defined():
    plain(*set_flags(TRAIN, labels=None), "--alpha", 0)
    history = json.loads(Path("run/history.json").read_text())
    assert history[0]["accuracy"] is None
    assert history[0]["soft"] > 0


def test_train_from_labels_alone():
    np.save("y.npy", np.maximum(np.load("y.npy"), 0))
    plain(*set_flags(TRAIN, teacher_logits=None), "--alpha", 1)
    assert json.loads(Path("run/history.json").read_text())[0]["soft"] is None


@pytest.mark.parametrize("arguments", [TRAIN, TUNE], ids=["train", "tune"])
def test_numpy_alone_is_enough_but_for_the_picture(arguments):
    result = succeeds(*arguments, without=EXTRAS)
    lines = [line for line in result.stderr.splitlines() if "kdloss[demo]" in line]
    assert len(lines) == 1
    assert ".png" in lines[0]
    assert not list(Path().rglob("*.png"))
    assert list(Path().rglob("run/student.npz" if arguments is TRAIN else "tune/results.json"))


def test_an_earlier_run_is_replaced():
    succeeds(*TRAIN)
    first = Path("run/student.npz").read_bytes()
    # Without matplotlib there is no picture; the picture of the earlier run must not remain.
    succeeds(*TRAIN, "--seed", 1, without=EXTRAS)
    assert Path("run/student.npz").read_bytes() != first
    files = ["best.npz", "history.json", "settings.json", "student.npz"]
    assert sorted(os.listdir("run")) == files


def test_predict(data):
    student = LinearStudent.load("student.npz")
    out = plain(*PREDICT).stdout
    assert "(60, 3)" in out
    np.testing.assert_array_equal(np.load("out.npy"), student.predict_proba(data[0]))
    plain(*set_flags(PREDICT, out="out.csv"))
    assert Path("out.csv").read_text().startswith("0,1,2\n")
    found = np.loadtxt("out.csv", delimiter=",", skiprows=1)
    np.testing.assert_array_equal(found, student.predict_proba(data[0]))


def test_predict_classes(data):
    student = LinearStudent.load("student.npz")
    plain(*PREDICT, "--labels")
    np.testing.assert_array_equal(np.load("out.npy"), student.predict(data[0]))
    plain(*set_flags(PREDICT, out="out.csv"), "--labels")
    classes = [str(c) for c in student.predict(data[0])]
    assert Path("out.csv").read_text().split() == ["class", *classes]


def test_predict_float32_to_csv_and_back(data):
    X, y, T = data
    student = LinearStudent(epochs=2).fit(X.astype(np.float32), y, T)
    student.save("student.npz")
    plain(*set_flags(PREDICT, out="out.csv"))
    found = np.loadtxt("out.csv", delimiter=",", dtype=np.float32, skiprows=1)
    np.testing.assert_array_equal(found, student.predict_proba(X))


@pytest.mark.parametrize(("metric", "choose"), [("nll", min), ("brier", min), ("accuracy", max)])
def test_tune_finds_the_best_cell(data, metric, choose):
    X, y, T = data
    result = succeeds(*TUNE, "--metric", metric, "--seeds", 2, "--validation", 0.4)
    results = json.loads(Path("tune/results.json").read_text())
    cells = results["cells"]
    assert [(c["alpha"], c["tau"]) for c in cells] == [(0.2, 1), (0.2, 3), (0.8, 1), (0.8, 3)]
    for cell in cells:
        scores = []
        for seed in (0, 1):
            settings = {"alpha": cell["alpha"], "tau": cell["tau"], "seed": seed}
            student = LinearStudent(epochs=3, standardize=True, **settings)
            scores.append(student.fit(X, y, T, validation=0.4).history[-1][f"val_{metric}"])
        assert cell["scores"] == scores
        assert cell["mean"] == np.mean(scores)
        assert cell["spread"] == np.std(scores, ddof=1)
        assert f"{cell['mean']:.4f} ± {cell['spread']:.4f}" in result.stdout
    assert "about 19 labelled validation rows per seed" in result.stderr
    best = choose(cells, key=lambda cell: cell["mean"])
    assert results["best"] == {"alpha": best["alpha"], "tau": best["tau"]}
    assert Path("tune/tune.png").read_bytes().startswith(PNG)


def test_tune_names_the_command_that_trains():
    result = plain(*TUNE, "--seeds", 1, "--l2", 0.01, "--no-bias", "--validation", 0.3)
    assert "±" not in result.stdout  # one seed has no spread
    assert "warning" not in result.stderr
    best = json.loads(Path("tune/results.json").read_text())["best"]
    command = result.stdout.splitlines()[-1].removeprefix("next: kdloss ")
    plain(*shlex.split(command))
    found = json.loads(Path("run/settings.json").read_text())["settings"]
    expected = {"epochs": 3, "l2": 0.01, "bias": False, "validation": 0.3}
    assert expected.items() | best.items() <= found.items()


def test_tune_leaves_out_what_diverges():
    np.save("T.npy", 1e300 * np.load("T.npy"))
    out = plain(*set_flags(TUNE, alphas="0.5", taus="2,1e155"), "--seeds", 1).stdout
    results = json.loads(Path("tune/results.json").read_text())
    assert [cell["mean"] is None for cell in results["cells"]] == [False, True]
    assert results["best"] == {"alpha": 0.5, "tau": 2}
    assert "nan: the training diverged" in out


def test_demo(tmp_path):
    result = succeeds("demo", "--seeds", 1, "--labels", 20)
    assert (tmp_path / "demo.png").read_bytes().startswith(PNG)
    rows = re.findall(
        r"^ *(.+?)  +(\d+\.\d) +(\d\.\d{3}) +\d\.\d{3} +\d+\.\d *$", result.stdout, re.M
    )
    accuracy = {name: float(value) for name, value, _ in rows}
    nll = {name: float(value) for name, _, value in rows}
    alone, same, more, every, teacher = accuracy
    assert alone == "20 labels"
    assert accuracy[teacher] > 95
    assert accuracy[alone] < accuracy[same] < accuracy[more]
    assert nll[alone] > nll[same] > nll[more]
    assert accuracy[every] > 94
