"""The command line with teachers that give probabilities, or one column for two classes."""

import json

import numpy as np
import pandas
import pytest

import tolerances
from command_line import LOSS, TRAIN, TUNE, plain, refuses, set_flags, with_tables, write_task
from kdloss import kd_loss_parts, logits_from_probs, softmax_temp
from kdloss.trainer import LinearStudent

COMMANDS = {
    "train": set_flags(TRAIN, teacher_logits="P.npy"),
    "tune": (*set_flags(TUNE, teacher_logits="P.npy"), "--seeds", "1"),
    "loss": set_flags(LOSS, teacher="P.npy"),
}


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_task()


@pytest.fixture(params=COMMANDS)
def arguments(request):
    return (*COMMANDS[request.param], "--teacher-probabilities")


def round_the_probabilities():
    P = np.load("P.npy").round(1)
    P[:, 0] += 1 - P.sum(axis=1)
    P[P[:, 0] < 1e-9, 0] = 0
    np.save("P.npy", P)
    return P


def found(arguments):
    """The loss that a command printed, or that of the first epoch of its student."""
    if arguments[0] == "loss":
        return json.loads(plain(*arguments, "--json").stdout)["loss"]
    plain(*arguments)
    if arguments[0] == "train":
        return LinearStudent.load("run/student.npz").history[-1]["loss"]
    with open("tune/results.json") as file:
        return json.load(file)["cells"][0]["scores"][0]


def expected(arguments, X, y, T):
    if arguments[0] == "loss":
        return kd_loss_parts(np.load("S.npy"), T, y).loss
    settings = {"alpha": 0.2, "tau": 1} if arguments[0] == "tune" else {}
    student = LinearStudent(epochs=3, standardize=True, **settings)
    last = student.fit(X, y, T, validation=0.2).history[-1]
    return last["loss" if arguments[0] == "train" else "val_nll"]


def test_probabilities(arguments, data):
    X, y, _ = data
    T = logits_from_probs(np.load("P.npy"))
    assert found(arguments) == pytest.approx(expected(arguments, X, y, T), rel=tolerances.ROUNDING)
    assert "warning" not in plain(*arguments).stderr


@pytest.mark.filterwarnings("ignore:.* are logarithms of probabilities")  # of expected() itself
@pytest.mark.parametrize("zeros", ["0.01", "mask"])
def test_zeros_by_choice(arguments, data, zeros):
    X, y, _ = data
    P = round_the_probabilities()
    assert (P == 0).any()
    T = logits_from_probs(P, zeros=zeros if zeros == "mask" else float(zeros))
    with_zeros = (*arguments, "--zeros", zeros)
    loss = expected(arguments, X, y, T)
    assert found(with_zeros) == pytest.approx(loss, rel=tolerances.ROUNDING)
    assert "zeros" not in plain(*with_zeros).stderr


def test_zeros_without_a_choice_are_told(arguments):
    round_the_probabilities()
    err = plain(*arguments).stderr
    assert err.count("zeros, read as rounded") == 1
    assert "--zeros 0.001 confirms this; --zeros mask is for impossible" in err


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_one_column_is_the_second_of_two_classes(data, kind):
    _, y, T = data
    z = T[:, 1] - T[:, 0]
    y = np.where(y == 2, -1, y)
    np.save("y.npy", y)
    S = np.load("S.npy")[:, :2]
    np.save("S.npy", S)
    two = np.column_stack([np.zeros_like(z), z])
    column = z
    if kind == "probabilities":
        column = softmax_temp(two)[:, 1]
        two = logits_from_probs(column[:, None])
    pandas.DataFrame({"p": column}).to_csv("T.csv", index=False)
    flags = [] if kind == "logits" else ["--teacher-probabilities"]
    result = with_tables(*set_flags(LOSS, teacher="T.csv"), *flags, "--json")
    loss = kd_loss_parts(S, two, y).loss
    assert json.loads(result.stdout)["loss"] == pytest.approx(loss, rel=tolerances.ROUNDING)
    told = "--teacher T.csv has one column: read as the logit of the second of two classes"
    assert (told in result.stderr) == (kind == "logits")
    train = set_flags(TRAIN, teacher_logits="T.csv")
    with_tables(*train, *flags)
    assert LinearStudent.load("run/student.npz").weights.shape == (4, 2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--zeros", "mask"], "--zeros is mask, expected it only with --teacher-prob"),
        (["--teacher-probabilities", "--zeros", "few"], "--zeros.*expected a number or mask, not"),
        (["--teacher-probabilities", "--zeros", "2"], r"P.npy: zeros is 2.0, expected a share in"),
    ],
)
def test_refuses(flags, message):
    for arguments in COMMANDS.values():
        refuses((*arguments, *flags), message)


def test_logits_are_no_probabilities():
    arguments = (*set_flags(LOSS), "--teacher-probabilities")
    refuses(arguments, r"--teacher T.npy: probs\[0, 1\] is .*, expected a probability >= 0")


def test_what_looks_like_probabilities_is_told_with_the_flag(arguments):
    err = plain(*arguments[:-1]).stderr
    assert "(here: --teacher-probabilities)" in err
