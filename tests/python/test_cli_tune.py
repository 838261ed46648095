"""`kdloss tune`: the baseline, and notes about the edges of the grid."""

import json

import numpy as np
import pytest

import tolerances
from command_line import TUNE, plain, set_flags, write_task
from kdloss.cli import baseline
from kdloss.trainer import LinearStudent


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_task()


def tune(*arguments):
    result = plain(*arguments)
    with open("tune/results.json") as file:
        return result, json.load(file)


def labels_alone(X, y, seed, *, weight=None, soft=None):
    """The baseline, computed independently: labelled rows, split as `fit` splits all rows."""
    weight = np.ones(len(y)) if weight is None else weight
    rows = np.flatnonzero((y != -100) & (weight > 0))
    order = np.random.default_rng((seed, 0)).permutation(rows)
    held_out, rest = np.split(order, [round(0.2 * len(rows))])
    labelled = y >= 0
    train, test = (np.sort(part[labelled[part]]) for part in (rest, held_out))
    student = LinearStudent(alpha=1, epochs=3, standardize=True, seed=seed, shuffle=False)
    targets = y if soft is None else soft
    validation = (X[test], targets[test], None, weight[test])
    student.fit(X[train], targets[train], None, sample_weight=weight[train], validation=validation)
    return student.history[-1]["val_nll"]


def test_the_baseline_is_the_labels_alone_on_the_same_validation_rows(data):
    X, y, _ = data
    result, results = tune(*TUNE, "--seeds", 2, "--no-shuffle")
    expected = [labels_alone(X, y, seed) for seed in (0, 1)]
    assert results["baseline"]["scores"] == pytest.approx(expected, rel=tolerances.ROUNDING)
    assert results["baseline"]["mean"] == np.mean(results["baseline"]["scores"])
    mean, spread = results["baseline"]["mean"], results["baseline"]["spread"]
    line = f"      1   {mean:.4f} ± {spread:.4f}  the labels alone, without the teacher, at any tau"
    assert line in result.stdout.splitlines()


def test_the_baseline_of_soft_labels_and_weights(data):
    X, y, _ = data
    rng = np.random.default_rng(0)
    soft = np.where((y >= 0)[:, None], np.eye(3)[y.clip(0)] * 0.8 + 0.2 / 3, 0)
    weight = rng.random(60)
    weight[55:] = 0
    np.save("soft.npy", soft), np.save("w.npy", weight)
    arguments = (*set_flags(TUNE, labels="soft.npy", sample_weight="w.npy"), "--no-shuffle")
    _, results = tune(*arguments, "--seeds", 1)
    known = np.where(y >= 0, y, -1)
    expected = labels_alone(X, known, 0, weight=weight, soft=soft)
    assert results["baseline"]["scores"] == pytest.approx([expected], rel=tolerances.ROUNDING)


def test_alpha_1_is_the_baseline_and_no_row_of_the_grid():
    _, results = tune(*set_flags(TUNE, alphas="0.5,1"), "--seeds", 1)
    assert {cell["alpha"] for cell in results["cells"]} == {0.5}


def test_the_gain_is_that_of_the_best_pair_by_seed():
    result, results = tune(*TUNE, "--seeds", 3)
    best = min(results["cells"], key=lambda cell: cell["mean"])
    gain = np.subtract(results["baseline"]["scores"], best["scores"])
    assert results["gain"] == {"mean": gain.mean(), "spread": gain.std(ddof=1)}
    assert baseline.verdict(gain, "NLL (nats)") in result.stdout.splitlines()


@pytest.mark.parametrize(
    ("gain", "message"),
    [
        (
            [0.2, 0.4],
            "pair beats the labels alone by 0.3000 ± 0.1414 in NLL, more than the seeds d",
        ),
        ([0.1, 0.5], "beats the labels alone by 0.3000 ± 0.2828 in NLL, more than the seeds diff"),
        ([-0.1, 0.5], "beats the labels alone by 0.2000 ± 0.4243 in NLL, no more than the seeds"),
        ([-0.1, -0.5], "does not beat the labels alone, which are better by 0.3000 ± 0.2828 in"),
        ([0.0, 0.0], "does not beat the labels alone"),
        ([0.25], "against the labels alone: +0.2500 in NLL; one seed shows no spread"),
        ([np.nan, 0.1], "baseline: none"),
    ],
)
def test_verdict(gain, message):
    assert message in baseline.verdict(np.array(gain), "NLL")


def test_a_teacher_of_noise_does_not_beat_the_labels():
    np.save("T.npy", 20 * np.random.default_rng(0).normal(size=(60, 3)))
    result, results = tune(*set_flags(TUNE, epochs="30", taus="1"), "--seeds", 3)
    assert results["gain"]["mean"] < 0
    assert "does not beat the labels alone" in result.stdout


ALPHA = ("alpha", "0.2", "smallest", "0 and 0.1")
TAU = ("tau", "3", "largest", "6 and 12")


@pytest.mark.parametrize(
    ("alphas", "taus", "told"),
    # The labels are drawn from the teacher, so smaller alphas are better; so are larger taus.
    [("0.2,0.8", "1,3", [ALPHA, TAU]), ("0.2", "3", []), ("0,0.8", "3", [])],
)
def test_the_edges_of_the_grid_are_told(alphas, taus, told):
    result, results = tune(*set_flags(TUNE, alphas=alphas, taus=taus), "--seeds", 1)
    lines = [line for line in result.stderr.splitlines() if "may lie outside" in line]
    assert lines == [
        f"kdloss: the best {axis}, {value}, is the {side} of --{axis}s: a better one may lie "
        f"outside; add {more}"
        for axis, value, side, more in told
    ]
    assert results["best"]["alpha"] == float(alphas.split(",")[0])


def test_warnings_of_one_kind_come_once():
    np.save("T.npy", np.load("T.npy")[:, [1, 2, 0]])
    result, _ = tune(*TUNE, "--seeds", 3)
    assert result.stderr.count("agrees with") == 1
    result, _ = tune(*TUNE, "--learning-rate", 50)
    assert result.stderr.count("the loss ends at") == 1
