"""Figures of a training, of calibration, of a comparison and of a tuning, drawn with matplotlib.

Figures are made without pyplot: no window opens, and the caller's matplotlib settings stay as they
are. matplotlib is imported when a figure is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which people with any colour vision can tell apart.
COLOURS = ("#D55E00", "#E69F00", "#0072B2", "#009E73", "#555555")
ORANGE, BLUE, GREEN, GREY = COLOURS[1:]
MOST_NUMBERS, MOST_TICKS = 12, 40  # most classes of a confusion matrix with numbers; with all names
FEWEST = 10  # a point of a reliability diagram needs at least this many rows


class Panel(NamedTuple):
    """One score of a comparison: its axis label, its name in a history, its function and scale."""

    label: str
    name: str
    score: Callable[[npt.NDArray[Any], npt.NDArray[Any]], float]
    scale: float


ACCURACY = Panel("held-out accuracy (%)", "val_accuracy", metrics.accuracy, 100)
NLL = Panel("held-out NLL (nats)", "val_nll", metrics.negative_log_likelihood, 1)
PANELS = (ACCURACY, NLL)


class Model(NamedTuple):
    """The predictions and the history of one trained model, as `comparison` draws them.

    Attributes
    ----------
    history : list of dict
        `LinearStudent.history` with the held-out rows as validation; empty for a model without
        epochs.
    probabilities : (N, C) array
        Predictions for the held-out rows.
    labels : (N,) array
        Their labels.
    """

    history: Sequence[Mapping[str, float]]
    probabilities: npt.NDArray[Any]
    labels: npt.NDArray[Any]


def training_curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Loss, accuracy and calibration error by epoch, from `LinearStudent.history`.

    Parameters
    ----------
    history : sequence of dict
        One record per epoch. Validation scores, if there are any, are dashed.

    Returns
    -------
    matplotlib.figure.Figure
        ``figure.savefig(path)`` writes it.

    Raises
    ------
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> from kdloss.trainer import LinearStudent
    >>> student = LinearStudent(epochs=3).fit(np.eye(3), [0, 1, 2], 5 * np.eye(3))
    >>> [axes.get_ylabel() for axes in training_curves(student.history).axes]
    ['loss (nats)', 'accuracy (%)', 'calibration error (%)']
    """
    figure = _figure(11, 3.4)
    panels = {
        "loss (nats)": {"loss": BLUE, "hard": ORANGE, "soft": GREEN},
        "accuracy (%)": {"accuracy": BLUE},
        "calibration error (%)": {"ece": BLUE},
    }
    for axes, (ylabel, names) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        scale = 100 if "%" in ylabel else 1
        for name, colour in names.items():
            for prefix, rows, line in (("", "training", "o-"), ("val_", "validation", "s--")):
                values = scale * _column(history, prefix + name)
                if not np.isnan(values).all():
                    label = f"{name}, {rows}" if len(names) > 1 else rows
                    axes.plot(
                        _column(history, "epoch"),
                        values,
                        line,
                        color=colour,
                        label=label,
                        # Markers only where there is no line to see.
                        markersize=4 if len(history) == 1 else 0,
                    )
        axes.set(xlabel="epoch", ylabel=ylabel)
        _tidy(axes)
        if axes.lines:
            axes.legend(frameon=False, fontsize=8)
    axes.set_ylim(bottom=0)
    return figure


def reliability_diagram(
    axes: Axes, probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, colour: str = BLUE
) -> None:
    """Draw accuracy against confidence, with bars for the share of rows at each confidence.

    A calibrated model lies on the diagonal; an overconfident one below it. The whiskers are one
    binomial standard error, ``sqrt(a (1 - a) / n)`` for accuracy a of n rows. A bin with fewer than
    10 rows gets a bar but no point.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where to draw.
    probabilities : (N, C) array of floats
        Predicted probabilities.
    labels : (N,) array of integers
        A class, or -1 or -100 for a row that does not count.
    colour : str
        Any matplotlib colour.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> axes = Figure().subplots()
    >>> reliability_diagram(axes, [[0.75, 0.25], [0.5, 0.5]], [0, 1])
    >>> axes.get_xlabel(), axes.get_ylabel()
    ('confidence (%)', 'accuracy (%)')
    """
    bins = metrics.reliability_bins(probabilities, labels, bins=10)
    count, shown = bins.count, bins.count >= FEWEST
    confidence, accuracy = bins.confidence[shown], bins.accuracy[shown]
    error = np.sqrt(accuracy * (1 - accuracy) / count[shown])
    axes.bar(np.arange(5, 100, 10), 100 * count / max(count.sum(), 1), 10, color=colour, alpha=0.2)
    axes.plot([0, 100], [0, 100], ":", color=GREY, linewidth=1)
    axes.errorbar(
        100 * confidence,
        100 * accuracy,
        100 * error,
        fmt="o-",
        color=colour,
        markersize=4,
        clip_on=False,
    )
    axes.set(xlabel="confidence (%)", ylabel="accuracy (%)", aspect="equal")
    axes.set(xlim=(0, 100), ylim=(0, 100), xticks=(0, 50, 100), yticks=(0, 50, 100))
    _tidy(axes)


def comparison(models: Mapping[str, Sequence[Model]], title: str) -> Figure:
    """Compare ways to train on held-out rows: accuracy and NLL by epoch, and calibration.

    Curves are means over the repetitions of a way, in a band of one standard deviation; a model
    without epochs is a horizontal line. A reliability diagram pools the rows of all repetitions;
    the calibration error above it is the mean over the repetitions.

    Parameters
    ----------
    models : dict of sequence of Model
        The repetitions of each way, by its name, in the order of the legend; at most five ways.
    title : str
        What is compared.

    Returns
    -------
    matplotlib.figure.Figure
        ``figure.savefig(path)`` writes it.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    figure = _figure(12, 8.2)
    figure.suptitle(title, fontsize=14)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.6, 1))[:, 0]
    curves = upper.subplots(1, 2)
    diagrams = lower.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for (way, repetitions), diagram, colour in zip(models.items(), diagrams, COLOURS, strict=False):
        for axes, panel in zip(curves, PANELS, strict=True):
            _curve(axes, _by_epoch(repetitions, panel), colour, way)
        reliability_diagram(diagram, *pooled(repetitions), colour=colour)
        errors = [
            metrics.expected_calibration_error(model.probabilities, model.labels)
            for model in repetitions
        ]
        diagram.set_title(f"{way}\ncalibration error {100 * np.mean(errors):.1f} %", fontsize=10)
        diagram.label_outer()
    for axes, panel in zip(curves, PANELS, strict=True):
        axes.set(xlabel="epoch", ylabel=panel.label)
        _tidy(axes)
    upper.legend(
        *curves[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=len(models),
        frameon=False,
        fontsize=11,
    )
    figure.supxlabel(
        "Curves: mean of the seeds, with a band of ± one standard deviation.  Diagrams: the rows "
        "of all seeds; bars: share of rows (%); whiskers: ± one standard error.",
        fontsize=9,
        color=GREY,
    )
    return figure


def scores_by_seed(models: Mapping[str, Sequence[Model]], panel: Panel) -> Figure:
    """Show a score of each way to train: a dot for each seed, and a line at their mean.

    Parameters
    ----------
    models : dict of sequence of Model
        The repetitions of each way, by its name; at most five ways.
    panel : Panel
        `ACCURACY` or `NLL`.

    Returns
    -------
    matplotlib.figure.Figure
        ``figure.savefig(path)`` writes it.

    Raises
    ------
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> seeds = [Model([], np.eye(2), np.array([0, 1])), Model([], np.eye(2), np.array([0, 0]))]
    >>> axes = scores_by_seed({"a student": seeds}, ACCURACY).axes[0]
    >>> axes.get_xlabel(), axes.collections[0].get_offsets()[:, 0].tolist()
    ('held-out accuracy (%)', [100.0, 50.0])
    """
    figure = _figure(6, 0.9 + 0.4 * len(models))
    axes = figure.subplots()
    for row, (repetitions, colour) in enumerate(zip(models.values(), COLOURS, strict=False)):
        values = panel.scale * np.array([panel.score(*model[1:]) for model in repetitions])
        axes.scatter(values, np.full(len(values), row), s=22, color=colour, alpha=0.6)
        axes.plot(np.full(2, values.mean()), [row - 0.3, row + 0.3], color=colour, linewidth=2)
    axes.set(xlabel=panel.label, ylim=(len(models) - 0.5, -0.5))
    axes.set_yticks(range(len(models)), list(models))
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    _tidy(axes)
    return figure


def learning_curves(models: Mapping[str, Sequence[Model]], panel: Panel) -> Figure:
    """Show a held-out score by epoch: means over the seeds, in a band of one standard deviation.

    Parameters and errors are those of `scores_by_seed`; a model without a history is a horizontal
    line.

    Returns
    -------
    matplotlib.figure.Figure
        ``figure.savefig(path)`` writes it.

    Examples
    --------
    >>> model = Model([{"val_nll": 0.7}, {"val_nll": 0.5}], np.eye(2), np.array([0, 1]))
    >>> learning_curves({"a student": [model]}, NLL).axes[0].lines[0].get_ydata()
    array([0.7, 0.5])
    """
    figure = _figure(6, 4)
    axes = figure.subplots()
    for (way, repetitions), colour in zip(models.items(), COLOURS, strict=False):
        _curve(axes, _by_epoch(repetitions, panel), colour, way)
    axes.set(xlabel="epoch", ylabel=panel.label)
    _tidy(axes)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return figure


def reliability_figure(repetitions: Sequence[Model], colour: str = BLUE) -> Figure:
    """Draw the `reliability_diagram` of the rows of all seeds together, in a small figure.

    Parameters
    ----------
    repetitions : sequence of Model
        One way's models.
    colour : str
        Any matplotlib colour.

    Returns
    -------
    matplotlib.figure.Figure
        ``figure.savefig(path)`` writes it.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    figure = _figure(2.8, 2.8)
    reliability_diagram(figure.subplots(), *pooled(repetitions), colour=colour)
    return figure


def confusion_matrix(repetitions: Sequence[Model], names: Sequence[str]) -> Figure:
    """Show which class is predicted (across) for each true class (down), in percent of its rows.

    The numbers are written into the cells for up to 12 classes.

    Parameters
    ----------
    repetitions : sequence of Model
        One way's models, whose rows are taken together.
    names : sequence of str
        The classes.

    Returns
    -------
    matplotlib.figure.Figure
        ``figure.savefig(path)`` writes it.

    Raises
    ------
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> model = Model([], np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]]), np.array([0, 1, 0]))
    >>> [text.get_text() for text in confusion_matrix([model], ["no", "yes"]).axes[0].texts]
    ['50', '50', '0', '100']
    """
    share = 100 * confusion(repetitions, len(names))
    figure = _figure(4.6, 4.4)
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    if len(names) <= MOST_NUMBERS:
        for (row, column), value in np.ndenumerate(share):
            if not np.isnan(value):
                colour = "white" if value > 60 else "black"
                axes.text(
                    column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=9
                )
    step = -(-len(names) // MOST_TICKS)
    ticks = range(0, len(names), step)
    shown = [names[k] if len(names[k]) <= 12 else names[k][:11] + "…" for k in ticks]
    axes.set_xticks(ticks, shown, rotation=90 if max(map(len, shown)) > 2 else 0)
    axes.set_yticks(ticks, shown)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.tick_params(labelsize=8)
    return figure


def confusion(repetitions: Sequence[Model], classes: int) -> npt.NDArray[np.float64]:
    """Return the shares (true classes, predicted classes) of each true class's rows.

    Rows of all seeds are pooled; a class without rows is NaN.

    Examples
    --------
    >>> confusion([Model([], np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]))], 2)
    array([[0.5, 0.5],
           [nan, nan]])
    """
    probabilities, labels = pooled(repetitions)
    counts = np.zeros((classes, classes))
    np.add.at(counts, (labels, probabilities.argmax(axis=1)), 1)
    with np.errstate(invalid="ignore"):
        return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def pooled(repetitions: Sequence[Model]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the probabilities and labels of all seeds' rows together."""
    return (
        np.concatenate([model.probabilities for model in repetitions]),
        np.concatenate([model.labels for model in repetitions]),
    )


def heat_map(
    alphas: Sequence[float | str],
    taus: Sequence[float],
    mean: npt.NDArray[np.float64],
    spread: npt.NDArray[np.float64],
    *,
    best: tuple[int, int],
    title: str,
) -> Figure:
    """Show a score for each alpha (down) and tau (across), with the best setting framed.

    Parameters
    ----------
    alphas, taus : sequence of float
        The A weights, or their names, and the T temperatures.
    mean, spread : (A, T) arrays
        Mean and standard deviation over seeds; NaN is left blank.
    best : pair of int
        Row and column of the best setting.
    title : str
        What the numbers are.

    Returns
    -------
    matplotlib.figure.Figure
        ``figure.savefig(path)`` writes it.

    Raises
    ------
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> nll = np.array([[0.5, 0.4], [0.6, 0.7]])
    >>> figure = heat_map([0.1, 0.9], [1, 4], nll, 0 * nll, best=(0, 1), title="validation NLL")
    >>> figure.axes[0].get_ylabel()
    'alpha'
    """
    figure = _figure(max(6.5, 1.8 + 1.3 * len(taus)), 1.6 + 0.6 * len(alphas))
    axes = figure.subplots()
    image = axes.imshow(mean, cmap="cividis", aspect="auto")
    figure.colorbar(image)
    middle = (np.nanmin(mean) + np.nanmax(mean)) / 2
    for (row, column), value in np.ndenumerate(mean):
        if np.isnan(value):
            continue
        text = f"{value:.4f}"
        if not np.isnan(spread[row, column]):
            text += f"\n± {spread[row, column]:.4f}"
        # White on the dark half of the colours, black on the light half.
        colour = "white" if value < middle else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    row, column = best
    axes.plot(
        column + np.array([-0.5, 0.5, 0.5, -0.5, -0.5]),
        row + np.array([-0.5, -0.5, 0.5, 0.5, -0.5]),
        color=COLOURS[0],
        linewidth=3,
        clip_on=False,
    )
    axes.set(xlabel="tau", ylabel="alpha")
    axes.set_xticks(range(len(taus)), [f"{tau:g}" for tau in taus])
    axes.set_yticks(range(len(alphas)), [a if isinstance(a, str) else f"{a:g}" for a in alphas])
    figure.suptitle(title, fontsize=10)
    return figure


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'kdloss[demo]'") from error
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def _column(history: Sequence[Mapping[str, float]], name: str) -> npt.NDArray[np.float64]:
    return np.array([record.get(name, np.nan) for record in history], dtype=np.float64)


def _by_epoch(repetitions: Sequence[Model], panel: Panel) -> npt.NDArray[np.float64]:
    """A score (repetitions, epochs); without a history (repetitions, 1)."""
    return panel.scale * np.array(
        [
            [record[panel.name] for record in model.history]
            or [panel.score(model.probabilities, model.labels)]
            for model in repetitions
        ]
    )


def _curve(axes: Axes, values: npt.NDArray[np.float64], colour: str, label: str) -> None:
    """Draw mean and spread of values (repetitions, epochs); one epoch as a horizontal line."""
    mean = values.mean(axis=0)
    if len(mean) == 1:
        axes.axhline(mean[0], color=colour, linestyle=":", label=label)
        return
    epochs = np.arange(1, len(mean) + 1)
    axes.plot(epochs, mean, color=colour, label=label)
    if len(values) > 1:
        spread = values.std(axis=0, ddof=1)
        axes.fill_between(
            epochs, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0
        )


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
