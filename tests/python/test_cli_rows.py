"""The command line on rows with weights, per-row alphas, soft labels and several teachers."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

import kdloss
import tolerances
from command_line import (
    LOSS,
    TRAIN,
    TUNE,
    plain,
    refuses,
    set_flags,
    with_tables,
    write_csv,
    write_task,
)
from kdloss import ensemble_logits, kd_loss_parts
from kdloss.trainer import LinearStudent

ROWS = ("--sample-weight", "w.npy", "--alpha-column", "a.npy")
TEACHERS = ("T.npy", "half.npy", "S.npy")
WEIGHTS = (2, 1, 0.5)


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """The small task, with files for weights, alphas, soft labels and teachers."""
    monkeypatch.chdir(tmp_path)
    X, y, T = write_task()
    rng = np.random.default_rng(1)
    weight, alpha = rng.gamma(1, size=60), rng.random(60)
    weight[55:] = 0
    soft = kdloss.softmax_temp(T + 2 * rng.normal(size=T.shape))
    soft[40:50] = 0
    half = (T + rng.normal(size=T.shape)).astype(np.float16)
    for name, array in {"w": weight, "a": alpha, "soft": soft, "half": half}.items():
        np.save(name, array)
        write_csv(f"{name}.csv", array)
    return X, y, T


def load(*names):
    return [np.load(name) for name in names]


def trained(**options):
    X, y, T, w, a = load("X.npy", "y.npy", "T.npy", "w.npy", "a.npy")
    arguments = {"X": X, "labels": y, "teacher_logits": T, "validation": 0.2} | options
    arguments |= {k: v for k, v in {"sample_weight": w, "alpha_per_row": a}.items() if k in options}
    return LinearStudent(epochs=3, standardize=True).fit(**arguments)


def same(student, other):
    np.testing.assert_array_equal(student.weights, other.weights)
    np.testing.assert_array_equal(student.bias, other.bias)


# train


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
def test_train_with_weights_and_alphas(suffix):
    with_tables(*TRAIN, "--sample-weight", f"w{suffix}", "--alpha-column", f"a{suffix}")
    same(LinearStudent.load("run/student.npz"), trained(sample_weight=1, alpha_per_row=1))
    settings = json.loads(Path("run/settings.json").read_text())
    assert settings["files"]["sample_weight"] == f"w{suffix}"
    assert settings["shapes"]["alpha_column"] == [60]
    assert "alpha" not in settings["settings"]


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
def test_train_on_soft_labels(suffix):
    with_tables(*set_flags(TRAIN, labels=f"soft{suffix}"))
    same(LinearStudent.load("run/student.npz"), trained(labels=np.load("soft.npy")))


def test_train_from_several_teachers():
    plain(*set_flags(TRAIN, teacher_logits=TEACHERS[0]), "--teacher-logits", *TEACHERS[1:])
    found = LinearStudent.load("run/student.npz")
    same(found, trained(teacher_logits=load(*TEACHERS)))
    weighted = (*set_flags(TRAIN, teacher_logits=None), "--teacher-logits", *TEACHERS)
    plain(*weighted, "--teacher-weights", "2,1,.5")
    found = LinearStudent.load("run/student.npz")
    same(found, trained(teacher_logits=load(*TEACHERS), teacher_weights=WEIGHTS))
    settings = json.loads(Path("run/settings.json").read_text())
    assert settings["files"]["teacher_logits"] == list(TEACHERS)
    assert settings["shapes"]["teacher_logits"] == [[60, 3]] * 3
    assert settings["settings"]["teacher_weights"] == list(WEIGHTS)


def test_train_from_a_teacher_of_halves():
    plain(*set_flags(TRAIN, teacher_logits="half.npy"))
    expected = trained(teacher_logits=np.load("half.npy").astype(np.float64))
    same(LinearStudent.load("run/student.npz"), expected)


def test_alphas_decide_what_may_be_absent():
    np.save("a.npy", np.zeros(60))
    plain(*set_flags(TRAIN, labels=None), "--alpha-column", "a.npy")
    student = LinearStudent(epochs=3, alpha=0, standardize=True)
    student.fit(np.load("X.npy"), None, np.load("T.npy"), validation=0.2)
    same(LinearStudent.load("run/student.npz"), student)


# tune


def test_tune_with_weights_soft_labels_and_several_teachers():
    arguments = set_flags(TUNE, labels="soft.npy", sample_weight="w.npy", teacher_logits=None)
    out = plain(
        *arguments, "--teacher-logits", *TEACHERS, "--teacher-weights", "2,1,0.5", "--seeds", 1
    ).stdout
    results = json.loads(Path("tune/results.json").read_text())
    student = LinearStudent(epochs=3, alpha=0.2, tau=1, standardize=True).fit(
        np.load("X.npy"),
        np.load("soft.npy"),
        load(*TEACHERS),
        sample_weight=np.load("w.npy"),
        teacher_weights=WEIGHTS,
        validation=0.2,
    )
    assert results["cells"][0]["scores"] == [student.history[-1]["val_nll"]]
    plain(*shlex.split(out.splitlines()[-1].removeprefix("next: kdloss ")))
    settings = json.loads(Path("run/settings.json").read_text())
    assert settings["files"] == results["files"]
    assert settings["settings"]["teacher_weights"] == list(WEIGHTS)


def test_tune_chooses_tau_alone_where_rows_have_their_alphas():
    arguments = (*set_flags(TUNE, alphas=None), *ROWS, "--seeds", 2)
    result = plain(*arguments)
    results = json.loads(Path("tune/results.json").read_text())
    assert [cell["tau"] for cell in results["cells"]] == [1, 3]
    assert not any("alpha" in cell for cell in (*results["cells"], results["best"]))
    assert "\n column  " in result.stdout
    assert f"best: tau {results['best']['tau']:g}\n" in result.stdout
    plain(*shlex.split(result.stdout.splitlines()[-1].removeprefix("next: kdloss ")))
    settings = json.loads(Path("run/settings.json").read_text())
    assert settings["files"]["alpha_column"] == "a.npy"
    assert settings["settings"]["tau"] == results["best"]["tau"]


# loss


@pytest.mark.parametrize("labels", ["y.npy", "soft.npy", "soft.csv"])
def test_loss_with_weights_and_alphas(labels):
    S, T, w, a = load("S.npy", "T.npy", "w.npy", "a.npy")
    y = np.load(Path(labels).with_suffix(".npy"))
    parts = kd_loss_parts(S, T, y, alpha=a, sample_weight=w)
    out = with_tables(*set_flags(LOSS, labels=labels), *ROWS).stdout
    unlabelled, padding = (10, 7) if labels == "y.npy" else (10, 5)
    assert out.splitlines() == [
        f"loss  {parts.loss!r}",
        f"hard  {parts.hard!r}",
        f"soft  {parts.soft!r}",
        f"rows  {60 - unlabelled - padding} labelled, {unlabelled} unlabelled, {padding} padding; "
        "3 of 3 classes occur",
    ]


def test_loss_against_several_teachers():
    S, y = load("S.npy", "y.npy")
    arguments = (*set_flags(LOSS, teacher=None), "--teacher", *TEACHERS[:2], "--tau", "2")
    for weights in (None, [3, 1]):
        parts = kd_loss_parts(S, ensemble_logits(load(*TEACHERS[:2]), weights, tau=2), y, tau=2)
        flags = () if weights is None else ("--teacher-weights", "3,1")
        assert plain(*arguments, *flags).stdout.startswith(f"loss  {parts.loss!r}\n")


def test_loss_against_a_teacher_of_halves():
    S, T, y = load("S.npy", "half.npy", "y.npy")
    parts = kd_loss_parts(S, T.astype(np.float64), y)
    found = json.loads(plain(*set_flags(LOSS, teacher="half.npy"), "--json").stdout)
    assert found["loss"] == pytest.approx(parts.loss, rel=tolerances.ROUNDING)


def test_loss_per_row_has_each_rows_weight():
    S, T, y, w, a = load("S.npy", "T.npy", "y.npy", "w.npy", "a.npy")
    parts = kd_loss_parts(S, T, y, alpha=a, sample_weight=w, reduction="none")
    found = json.loads(plain(*LOSS, *ROWS, "--per-row", "--json").stdout)
    assert found["per_row"]["loss"] == parts.loss.tolist()
    assert found["alpha"] == "a.npy"


@pytest.mark.parametrize("arguments", [TRAIN, LOSS], ids=lambda arguments: arguments[0])
def test_any_teacher_that_looks_like_probabilities_is_warned_of(arguments):
    flag = "--teacher" if arguments is LOSS else "--teacher-logits"
    err = plain(*arguments, flag, "P.npy").stderr
    assert err.count("kdloss: warning:") == err.count("logits_from_probs") == 1


# Refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            ((*arguments, flag, file), rf"{flag} {file}: {problem}")
            for arguments in (TRAIN, TUNE, LOSS)
            for flag in ("--sample-weight", "--alpha-column")
            for file, problem in (
                ("none.npy", "cannot be read: no such file"),
                ("T.npy", r"expected one number per row, found shape \(60, 3\)"),
            )
            if not (arguments is TUNE and flag == "--alpha-column")  # beside --alphas
        ),
        (
            (*TRAIN, "--sample-weight", "few.npy"),
            r"few.npy has shape \(50,\), expected 60 rows, as --features X.npy",
        ),
        ((*LOSS, "--alpha-column", "few.npy"), r"few.npy has shape \(50,\), expected 60 rows"),
        ((*TRAIN, "--sample-weight", "minus.npy"), r"sample_weight\[17\] is -1, expected a finite"),
        ((*TRAIN, "--alpha-column", "minus.npy"), r"alpha_per_row\[17\] is -1, expected a number"),
        ((*LOSS, "--sample-weight", "minus.npy"), r"sample_weight\[17\] is -1, expected a finite"),
        ((*LOSS, "--alpha-column", "minus.npy"), r"alpha\[17\] is -1, expected a number in"),
        *(
            (set_flags(arguments, labels="bad.npy"), r"labels\[17\] sums to 0.5, expected probab")
            for arguments in (TRAIN, TUNE, LOSS)
        ),
        ((*TRAIN, *ROWS, "--alpha", "0.3"), "--alpha is 0.3 and --alpha-column is given too"),
        ((*LOSS, *ROWS, "--alpha", "0.3"), "--alpha is 0.3 and --alpha-column is given too"),
        ((*TUNE, *ROWS), r"--alphas is \[0.2, 0.8\] and --alpha-column is given"),
        (
            (*TRAIN, "--teacher-logits", "X.npy"),
            r"X.npy has shape \(60, 4\), expected .*, the shape of .*T.npy",
        ),
        ((*LOSS, "--teacher", "X.npy"), r"--teacher X.npy has shape \(60, 4\), expected"),
        (
            (*TRAIN, "--teacher-weights", "1,2"),
            r"teacher_weights has shape \(2,\), expected \(1,\)",
        ),
        ((*TRAIN, "--teacher-weights", "1;2"), "--teacher-weights.*1;2"),
        ((*LOSS, "--teacher-weights", "0"), "weights are all 0, expected at least one > 0"),
    ],
    ids=lambda value: value[:50] if isinstance(value, str) else value[0],
)
def test_refuses(arguments, message):
    minus, bad = np.zeros(60), np.load("soft.npy")
    minus[17] = -1
    bad[17] = 0.5, 0, 0
    np.save("minus.npy", minus), np.save("bad.npy", bad), np.save("few.npy", np.ones(50))
    refuses(arguments, message)
