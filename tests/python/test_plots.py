"""The figures: what is drawn, and that the caller's matplotlib settings do not change."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from kdloss import metrics, plots
from kdloss.trainer import LinearStudent


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4))
    T = 3 * X @ rng.normal(size=(4, 3))
    y = (T + rng.gumbel(size=T.shape)).argmax(axis=1)
    return X, y, T


def saved(figure, tmp_path):
    """Draw the figure; return the bytes of the picture."""
    figure.savefig(tmp_path / "figure.png")
    return (tmp_path / "figure.png").read_bytes()


def test_training_curves(task, tmp_path):
    student = LinearStudent(epochs=5).fit(*task, validation=0.2)
    figure = plots.training_curves(student.history)
    drawn = {
        (axes.get_ylabel(), line.get_label()): line.get_ydata()
        for axes in figure.axes
        for line in axes.lines
    }
    assert len(drawn) == 10
    for (ylabel, label), name, scale in (
        (("loss (nats)", "soft, training"), "soft", 1),
        (("loss (nats)", "hard, validation"), "val_hard", 1),
        (("accuracy (%)", "validation"), "val_accuracy", 100),
        (("calibration error (%)", "training"), "ece", 100),
    ):
        expected = [scale * record[name] for record in student.history]
        np.testing.assert_array_equal(drawn[ylabel, label], expected)
    assert saved(figure, tmp_path).startswith(b"\x89PNG")


def test_training_curves_draw_what_there_is(task, tmp_path):
    X, _, T = task
    history = LinearStudent(epochs=1, alpha=0).fit(X, None, T).history
    figure = plots.training_curves(history)
    assert [len(axes.lines) for axes in figure.axes] == [2, 0, 0]
    assert figure.axes[0].lines[0].get_markersize() > 0  # a line of one epoch would be invisible
    saved(figure, tmp_path)


def test_reliability_diagram_shows_the_bins(task, tmp_path):
    X, y, T = task
    probabilities = LinearStudent(epochs=3).fit(X, y, T).predict_proba(X)
    figure = Figure()
    axes = figure.subplots()
    plots.reliability_diagram(axes, probabilities, y)
    bins = metrics.reliability_bins(probabilities, y, bins=10)
    (points, _, _) = axes.containers[1]
    told = bins.count >= 10
    assert 3 <= told.sum() < (bins.count > 0).sum()
    np.testing.assert_array_equal(points.get_xdata(), 100 * bins.confidence[told])
    np.testing.assert_array_equal(points.get_ydata(), 100 * bins.accuracy[told])
    heights = [bar.get_height() for bar in axes.containers[0]]
    np.testing.assert_array_equal(heights, 100 * bins.count / 300)
    saved(figure, tmp_path)


def test_reliability_diagram_of_no_labelled_row(tmp_path):
    figure = Figure()
    plots.reliability_diagram(figure.subplots(), np.full((3, 2), 0.5), [-1, -1, -100])
    saved(figure, tmp_path)


def test_comparison(task, tmp_path):
    X, y, T = task
    students = [
        LinearStudent(epochs=4, seed=seed).fit(X, y, T, validation=(X, y, T)) for seed in (0, 1)
    ]
    models = {
        "student": [plots.Model(s.history, s.predict_proba(X), y) for s in students],
        "teacher": [plots.Model([], np.eye(3)[T.argmax(axis=1)], y)] * 2,
    }
    figure = plots.comparison(models, "title")
    accuracy, nll, *diagrams = figure.axes
    expected = np.mean([[r["val_nll"] for r in s.history] for s in students], axis=0)
    np.testing.assert_array_equal(nll.lines[0].get_ydata(), expected)
    level = 100 * metrics.accuracy(models["teacher"][0].probabilities, y)
    assert accuracy.lines[1].get_ydata()[0] == level
    assert [len(axes.collections) for axes in (accuracy, nll)] == [1, 1]  # the band of the student
    ece = np.mean([metrics.expected_calibration_error(s.predict_proba(X), y) for s in students])
    assert [axes.get_title().split("\n") for axes in diagrams] == [
        ["student", f"calibration error {100 * ece:.1f} %"],
        ["teacher", f"calibration error {100 - level:.1f} %"],
    ]
    saved(figure, tmp_path)


def test_heat_map(tmp_path):
    mean = np.array([[0.25, 0.5, 0.75], [1.0, np.nan, 0.125]])
    spread = np.array([[0.01, 0.02, 0.03], [0.04, np.nan, np.nan]])
    figure = plots.heat_map([0.1, 0.9], [1, 2, 4], mean, spread, best=(1, 2), title="score")
    axes = figure.axes[0]
    assert {(*text.get_position(), text.get_text()) for text in axes.texts} == {
        (0, 0, "0.2500\n± 0.0100"),
        (1, 0, "0.5000\n± 0.0200"),
        (2, 0, "0.7500\n± 0.0300"),
        (0, 1, "1.0000\n± 0.0400"),
        (2, 1, "0.1250"),
    }
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "4"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0.1", "0.9"]
    (frame,) = axes.lines
    assert (set(frame.get_xdata()), set(frame.get_ydata())) == ({1.5, 2.5}, {0.5, 1.5})
    saved(figure, tmp_path)


def test_the_callers_matplotlib_stays_as_it_is():
    code = """
import sys, io, numpy as np
from kdloss import plots
assert "matplotlib" not in sys.modules
figure = plots.heat_map([0.5], [1.0], np.ones((1, 1)), np.ones((1, 1)), best=(0, 0), title="")
figure.savefig(io.BytesIO())
assert "matplotlib.pyplot" not in sys.modules
import matplotlib
changed = [
    name for name in matplotlib.rcParams
    if name != "backend" and matplotlib.rcParams[name] != matplotlib.rcParamsOrig[name]
]
assert not changed, changed
"""
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=True)


def test_without_matplotlib_the_extra_is_named():
    code = """
import sys
sys.modules["matplotlib"] = None
from kdloss import plots
try:
    plots.training_curves([])
except ImportError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout == "pictures need matplotlib: pip install 'kdloss[demo]'\n"
