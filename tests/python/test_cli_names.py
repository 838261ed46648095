"""The command line on tables: names of columns and classes, ids, scores by true labels."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import polars
import pytest

import tolerances
from command_line import kdloss, plain, refuses, set_flags, with_tables, write_task
from kdloss import kd_loss_parts
from kdloss.trainer import LinearStudent

NAMES = np.array(["cat", "dog", "emu"])
FEATURES = ["age", "height", "size", "weight"]
FILES = ("--features", "X.csv", "--labels", "y.csv", "--teacher-logits", "T.csv")
TRAIN = ("train", *FILES, "--out", "run", "--epochs", "3")
PREDICT = ("predict", "--student", "run", "--features", "X.csv", "--out", "out.csv")
LOSS = ("loss", "--student", "S.csv", "--teacher", "T.csv", "--labels", "y.csv")


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """The small task as data frames; the teacher's columns have another order than the classes.

    Returns X, labels (names, "" where there is none), T.
    """
    monkeypatch.chdir(tmp_path)
    X, y, T = write_task()
    X, y, T, S = (array[y != -100] for array in (X, y, T, np.load("S.npy")))
    for name, array in {"X": X, "y": y, "T": T, "S": S}.items():
        np.save(name, array)
    labels = np.where(y < 0, "", NAMES[y])
    pandas.DataFrame(X, columns=FEATURES).to_csv("X.csv", index=False)
    pandas.DataFrame({"animal": labels}).to_csv("y.csv", index=False)
    order = [2, 0, 1]
    pandas.DataFrame(T[:, order], columns=NAMES[order]).to_csv("T.csv", index=False)
    pandas.DataFrame(S, columns=NAMES).to_csv("S.csv", index=False)
    return X, labels, T


def expected(data, **options):
    X, labels, T = data
    student = LinearStudent(epochs=3, standardize=True)
    return student.fit(X, labels, T, validation=0.2, **{"classes": NAMES} | options)


def by_name(student, names=NAMES):
    """Weights with their columns in the order of these names."""
    return student.weights[:, [student.classes_.tolist().index(name) for name in names]]


def same(found, student):
    np.testing.assert_allclose(by_name(found), by_name(student), rtol=tolerances.ROUNDING)


def test_a_teachers_columns_are_matched_to_the_labels_by_name(data):
    err = with_tables(*TRAIN).stderr
    assert err.startswith("kdloss: rows: 48 labelled, 10 unlabelled, 0 padding; 3 of 3 classes occ")
    found = LinearStudent.load("run/student.npz")
    assert found.classes_.tolist() == ["emu", "cat", "dog"]
    assert found.feature_names_in_ == tuple(FEATURES)
    same(found, expected(data))


def test_a_second_teachers_columns_are_put_into_the_first_ones_order(data):
    X, labels, T = data
    pandas.read_csv("T.csv")[["dog", "emu", "cat"]].to_csv("T2.csv", index=False)
    with_tables(*TRAIN, "--teacher-logits", "T2.csv")
    same(LinearStudent.load("run/student.npz"), expected((X, labels, [T, T])))


def test_several_teachers_that_share_some_names_are_refused():
    frame = pandas.read_csv("T.csv").rename(columns={"dog": "wolf"})
    frame.to_csv("T2.csv", index=False)
    message = "--teacher-logits T2.csv has the columns .*, of which it lacks 'dog'"
    refuses((*TRAIN, "--teacher-logits", "T2.csv"), message)


def test_several_teachers_that_share_no_names_are_taken_by_position(data):
    X, labels, T = data
    frame = pandas.DataFrame(T[:, [2, 0, 1]], columns=["a", "b", "c"])
    frame.to_csv("T2.csv", index=False)
    err = with_tables(*TRAIN, "--teacher-logits", "T2.csv").stderr
    assert "T2.csv and --teacher-logits T.csv share no column name" in err
    same(LinearStudent.load("run/student.npz"), expected((X, labels, [T, T])))


def test_a_label_that_is_no_class_is_named():
    text = Path("y.csv").read_text().replace("cat", "cow", 1)
    Path("y.csv").write_text(text)
    refuses(TRAIN, r"--labels y.csv: labels\[\d+\] is 'cow', expected one of the classes 'emu'")


def test_classes_name_the_columns_of_an_array(data):
    arguments = set_flags(TRAIN, teacher_logits="T.npy")
    with_tables(*arguments, "--classes", "cat,dog,emu")
    found = LinearStudent.load("run/student.npz")
    assert found.classes_.tolist() == NAMES.tolist()
    same(found, expected(data))
    refuses([*arguments, "--classes", "cat,dog"], "--classes has 2 names, expected 3")


def test_minus_one_may_be_a_class():
    X = np.load("X.npy")
    np.save("y.npy", np.where(X[:, 0] > 0, 1, -1))
    np.save("T.npy", np.column_stack([-X[:, 0], X[:, 0]]))
    train = set_flags(TRAIN, features="X.npy", labels="y.npy", teacher_logits="T.npy")
    refuses(train, r"-1 is a class.* \(here: --n-classes N, --classes=NAME,...\)")
    plain(*train, "--classes=-1,1")
    assert LinearStudent.load("run/student.npz").classes_.tolist() == [-1, 1]
    plain(*set_flags(train, epochs="5"), "--classes=-1,1", "--resume")
    assert len(LinearStudent.load("run/student.npz").history) == 5
    tune = set_flags(train, out="tune")[1:]
    out = plain("tune", *tune, "--classes=-1,1", "--alphas", "0.5", "--taus", "1").stdout
    plain(*shlex.split(out.splitlines()[-1].removeprefix("next: kdloss ")))
    with_tables(*set_flags(PREDICT, features="X.npy"), "--labels")
    assert set(Path("out.csv").read_text().split()) == {"class", "-1", "1"}


def test_soft_labels_are_matched_to_the_teachers_columns_by_name(data):
    X, labels, T = data
    soft = (labels[:, None] == NAMES).astype(float)
    pandas.DataFrame(soft, columns=NAMES).to_csv("y.csv", index=False)
    err = with_tables(*TRAIN).stderr
    assert err.startswith("kdloss: rows: 48 labelled, 10 unlabelled, 0 padding; 3 of 3 classes occ")
    student = LinearStudent(epochs=3, standardize=True).fit(X, soft, T, validation=0.2)
    found = LinearStudent.load("run/student.npz")
    np.testing.assert_allclose(by_name(found), student.weights, rtol=tolerances.ROUNDING)
    loss = kd_loss_parts(np.load("S.npy"), T, soft).loss
    printed = float(re.search("loss  (.*)", with_tables(*LOSS).stdout)[1])
    assert printed == pytest.approx(loss, rel=tolerances.ROUNDING)
    arrays = set_flags(LOSS, student="S.npy", teacher="T.npy")
    assert float(re.search("loss  (.*)", with_tables(*arrays).stdout)[1]) == pytest.approx(loss)


def test_features_are_matched_by_name_at_prediction(data):
    with_tables(*TRAIN)
    pandas.read_csv("X.csv")[FEATURES[::-1]].to_csv("X.csv", index=False)
    with_tables(*PREDICT)
    found = pandas.read_csv("out.csv")
    assert found.columns.tolist() == ["emu", "cat", "dog"]
    student = LinearStudent.load("run/student.npz")
    np.testing.assert_allclose(
        found.to_numpy(), student.predict_proba(data[0]), rtol=tolerances.ROUNDING
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="age"), "--features X.csv: .* lacks 'age'"),
        (lambda frame: frame.assign(other=1.0), "--features X.csv: .* has the unknown 'other'"),
        (
            lambda frame: frame.assign(age=np.where(frame.index == 7, np.nan, 0)),
            r"--features X.csv: row 7, column 0 \(from 0\) \(column 'age'\) is nan",
        ),
    ],
    ids=["missing", "extra", "nan"],
)
def test_prediction_refuses_other_features_by_name(change, message):
    with_tables(*TRAIN)
    change(pandas.read_csv("X.csv")).to_csv("X.csv", index=False)
    refuses(PREDICT, message)
    if "nan" in message:
        refuses(TRAIN, message)


def test_a_text_column_is_refused_or_dropped(data):
    pandas.read_csv("X.csv").assign(town="Rome").to_csv("X.csv", index=False)
    refuses(TRAIN, "column 'town' holds 'Rome' in row 0 .*leave it out with --drop-columns 'town'")
    with_tables(*TRAIN, "--drop-columns", "town")
    same(LinearStudent.load("run/student.npz"), expected(data))


def test_one_table_with_ids_labels_and_features(data):
    ids = np.array([f"r{k:02}" for k in range(58)])
    frame = pandas.read_csv("X.csv").assign(id=ids, animal=data[1])
    frame.to_csv("X.csv", index=False)
    shuffled = np.random.default_rng(0).permutation(58)
    teacher = pandas.read_csv("T.csv").assign(id=ids).iloc[shuffled]
    teacher.to_csv("T.csv", index=False)
    flags = ("--id-column", "id", "--label-column", "animal")
    out = with_tables(*set_flags(TRAIN, labels=None), *flags).stdout
    same(LinearStudent.load("run/student.npz"), expected(data))
    settings = json.loads(Path("run/settings.json").read_text())["settings"]
    assert (settings["id_column"], settings["label_column"]) == ("id", "animal")

    command = out.splitlines()[-1].removeprefix("next: kdloss ")
    words = set_flags(shlex.split(command), out="out.csv")
    with_tables(*words, "--labels")
    found = pandas.read_csv("out.csv")
    assert found.columns.tolist() == ["id", "class"]
    assert found["id"].tolist() == ids.tolist()
    assert (
        found["class"].tolist() == LinearStudent.load("run/student.npz").predict(data[0]).tolist()
    )


def test_the_formats_of_tables_give_the_same(data):
    for name in ("X", "y", "T"):
        frame = polars.read_csv(f"{name}.csv")
        frame.write_parquet(f"{name}.parquet")
        frame.write_csv(f"{name}.tsv", separator="\t")
    with_tables(*TRAIN)
    expected = LinearStudent.load("run/student.npz")
    for suffix in (".parquet", ".tsv"):
        with_tables(*[word.replace(".csv", suffix) for word in TRAIN])
        found = LinearStudent.load("run/student.npz")
        np.testing.assert_array_equal(found.weights, expected.weights)
        assert found.feature_names_in_ == expected.feature_names_in_
    words = set_flags(PREDICT, features="-", out="out.parquet", stdin_format="csv")
    code = [sys.executable, "-m", "kdloss", *words]
    with open("X.csv") as file:
        subprocess.run(code, stdin=file, check=True, stdout=subprocess.DEVNULL)
    found = polars.read_parquet("out.parquet")
    assert found.columns == expected.classes_.tolist()
    np.testing.assert_array_equal(found.to_numpy(), expected.predict_proba(data[0]))


def test_predict_prints_the_scores_of_true_labels(data):
    X, labels, _ = data
    with_tables(*TRAIN)
    out = with_tables(*PREDICT, "--true-labels", "y.csv").stdout.splitlines()
    scores = LinearStudent.load("run/student.npz").evaluate(X, labels)
    assert out[1:] == [
        "rows      48 labelled, 10 unlabelled, 0 padding; 3 of 3 classes occur",
        *(f"{name:9} {score:.4g}" for name, score in scores.items()),
    ]
    assert list(scores) == ["accuracy", "nll", "brier", "ece"]
    Path("y.csv").write_text(Path("y.csv").read_text().replace("cat", "cow", 1))
    refuses((*PREDICT, "--true-labels", "y.csv"), "--true-labels y.csv: labels.* is 'cow', exp")


def test_loss_matches_names(data):
    _, labels, T = data
    y = np.array([NAMES.tolist().index(name) if name else -1 for name in labels])
    parts = kd_loss_parts(np.load("S.npy"), T, y)
    out = with_tables(*LOSS).stdout
    assert float(re.search("loss  (.*)", out)[1]) == pytest.approx(
        parts.loss, rel=tolerances.ROUNDING
    )
    assert "rows  48 labelled, 10 unlabelled, 0 padding; 3 of 3 classes occur" in out


@pytest.mark.parametrize(
    ("student", "teacher"), [("abc", "cab"), ("201", "201"), ("201", "120"), ("012", "201")]
)
def test_loss_matches_columns_where_labels_are_numbers(data, student, teacher):
    """Column names that are numbers are classes; others are matched between student and teacher."""
    S, T, y = np.load("S.npy"), data[2], np.load("y.npy")
    parts = kd_loss_parts(S, T, y)
    for name, array, columns in (("S", S, student), ("T", T, teacher)):
        order = ["abc".find(c) + "012".find(c) + 1 for c in columns]
        frame = pandas.DataFrame(array[:, order], columns=list(columns))
        frame.to_csv(f"{name}.csv", index=False)
    arguments = set_flags(LOSS, labels="y.npy")
    out = with_tables(*arguments, *([] if student == "abc" else ["--header"])).stdout
    assert float(re.search("loss  (.*)", out)[1]) == pytest.approx(parts.loss)


def test_a_known_feature_is_no_index_at_prediction():
    pandas.read_csv("X.csv").assign(age=range(58)).to_csv("X.csv", index=False)
    refuses(TRAIN, "column 'age', the first, counts its rows")
    with_tables(*TRAIN, "--index-is-feature")
    with_tables(*PREDICT)


def test_loss_warns_of_a_teacher_that_does_not_fit():
    np.save("T.npy", np.load("T.npy")[:, [1, 2, 0]])
    err = plain("loss", "--student", "S.npy", "--teacher", "T.npy", "--labels", "y.npy").stderr
    assert err.count("kdloss: warning: --teacher T.npy agrees with") == 1
    assert "permuted" in err


def test_a_teacher_that_does_not_fit_is_told_before_training():
    np.save("T.npy", np.load("T.npy")[:, [1, 2, 0]])
    arguments = ("--features", "X.npy", "--labels", "y.npy", "--teacher-logits", "T.npy")
    err = plain("train", *arguments, "--out", "run", "--epochs", "3").stderr
    assert err.count("agrees with") == 1
    assert err.index("agrees with") < err.index("epoch 1/3")


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (("train", "--what", "1"), "train"),
        (("train",), "train"),
        ((*TRAIN, "--what"), "train"),
        (("predict", "--alpha", "1"), "predict"),
        (("tune", "--taus", "x"), "tune"),
        (("loss", "--student"), "loss"),
    ],
)
def test_a_usage_error_points_to_the_commands_own_help(arguments, command):
    last = kdloss(*arguments).stderr.splitlines()[-1]
    assert re.fullmatch(rf"kdloss: error: .* \(see \S+ {command} --help\)", last), last


@pytest.mark.parametrize("command", ["train", "predict", "tune", "loss"])
def test_help_has_its_options_in_groups(command):
    out = plain(command, "--help").stdout
    assert "\ntables:\n" in out
    assert "\nfiles:\n" in out
    options = out.split("\noptions:\n")[1].split("\n\n")[0]
    assert options.split() == ["-h,", "--help", "show", "this", "help", "message", "and", "exit"]
