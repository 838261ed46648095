"""One self-contained HTML page of a comparison: it opens offline and makes no request."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from . import metrics, plots
from .comparison import ALONE, MORE, SCORES, TEACHER, Comparison, Cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = {  # by heading: the score, the factor to its unit, the digits to show
    "accuracy, %": ("accuracy", 100, 1),
    "NLL, nats": ("nll", 1, 3),
    "Brier score": ("brier", 1, 3),
    "calibration error, %": ("ece", 100, 1),
}
STYLE = """
:root { color-scheme: light; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; color: #1a1a1a; background: #fff;
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2rem; }
h3 { font-size: 1rem; }
.verdict { border-left: 0.4rem solid #555; background: #f3f3f3; padding: 0.75rem 1rem; }
.helped { border-color: #009e73; } .did-not-help { border-color: #d55e00; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; }
.note, figcaption { font-size: 0.9rem; color: #444; margin-bottom: 0.3rem; }
th, td { padding: 0.25rem 0.75rem 0.25rem 0; border-bottom: 1px solid #ddd; text-align: right;
  vertical-align: bottom; font-variant-numeric: tabular-nums; }
td { white-space: nowrap; } th { max-width: 9rem; } th:first-child { text-align: left; }
tbody th { min-width: 6rem; max-width: 16rem; }
.facts th, .facts td { text-align: left; white-space: normal; vertical-align: top; }
figure { margin: 0; } img { max-width: 100%; height: auto; display: block; }
.pictures { display: flex; flex-wrap: wrap; gap: 1.25rem; margin-top: 1rem; }
.wide figure { flex: 1 1 20rem; max-width: 29rem; } .small figure { flex: 0 1 10.5rem; }
code, pre { font-family: ui-monospace, monospace; font-size: 0.9em; }
pre { white-space: pre-wrap; background: #f3f3f3; padding: 0.5rem 0.75rem; }
@media (max-width: 30rem) { .small figure { flex: 0 1 10rem; } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; }
  h2, h2 + p { break-after: avoid; }
  .small figure { flex-basis: 8rem; } .pictures { gap: 0.75rem; }
  figure, tr { break-inside: avoid; } .scroll { overflow: visible; }
  th, td { padding: 0.15rem 0.5rem 0.15rem 0; } td { white-space: normal; } }
"""


def page(
    found: Comparison,
    classes: Sequence[str],
    *,
    title: str,
    facts: Sequence[tuple[str, str]],
    notes: Sequence[str],
    command: str,
) -> str:
    """Return the page as text.

    Parameters
    ----------
    found : Comparison
        What to show.
    classes : sequence of str
        The names of the classes.
    title : str
        What was compared.
    facts : sequence of pairs
        How it was measured: names and values.
    notes : sequence of str
        Remarks on the results.
    command : str
        The command that makes this page.
    """
    verdict = found.verdict()
    kind = verdict.outcome.replace(" ", "-")
    models = {found.names[way]: repetitions for way, repetitions in found.models.items()}
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict {kind}"><strong>{escape(verdict.sentence)}</strong></p>',
        "<h2>Scores on held-out rows</h2>",
        _table(
            ["trained on", *COLUMNS],
            score_rows(found),
            f"Mean ± standard deviation of {len(found.splits)} seeds. Higher accuracy is better; "
            "for the others, lower is better.",
        ),
        _pictures("wide", (_scores_picture(models, panel) for panel in plots.PANELS[::-1])),
        *_curves(found, models),
        "<h2>Calibration</h2>",
        "<p>Accuracy by confidence, with whiskers of one standard error; bars are the share of "
        "rows (%). On the dotted line a model is calibrated; below it, overconfident. Rows of all "
        "seeds together.</p>",
        _pictures("small", _reliability_pictures(found)),
        "<h2>Confusion</h2>",
        "<p>Percent of the true class's rows, of all seeds together.</p>",
        _pictures("wide", (_confusion_picture(found, way, classes) for way in (MORE, TEACHER))),
        "<h2>Accuracy by class</h2>",
        _by_class(found, classes),
        "<h2>Prediction time and size</h2>",
        _table(
            ["model", "time for a row, µs", "file, kB"],
            [[found.names[way], *_cost(cost)] for way, cost in found.costs.items()],
            "All held-out rows are predicted at once, on this machine; means over the seeds.",
        ),
        "<h2>How it was measured</h2>",
        _table(["what", "value"], facts, kind="facts"),
        "<h2>Remarks</h2>",
        "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>",
        f"<p>The command that made this page:</p><pre>{escape(command)}</pre>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # With this policy the browser refuses any request.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def score_rows(found: Comparison) -> list[list[str]]:
    """Return a row of text for each way: its name, and each score of `COLUMNS`."""
    columns = []
    for name, factor, digits in COLUMNS.values():
        cells = []
        for values in found.scores(name).values():
            text = f"{factor * values.mean():.{digits}f}"
            if len(values) > 1:
                with np.errstate(invalid="ignore"):  # of infinite scores
                    text += f" ± {factor * values.std(ddof=1):.{digits}f}"
            cells.append(text)
        columns.append(cells)
    return [[found.names[way], *row] for way, *row in zip(found.models, *columns, strict=True)]


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str]], note: str = "", kind: str = ""
) -> str:
    first = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = (
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    note = f'<p class="note">{escape(note)}</p>' if note else ""
    return (
        f'{note}<div class="scroll" tabindex="0"><table class="{kind}"><thead><tr>{first}</tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _pictures(kind: str, pictures: Iterable[str]) -> str:
    return f'<div class="pictures {kind}">{"".join(pictures)}</div>'


def _picture(figure: Figure, text: str, caption: str = "") -> str:
    """The figure as SVG within the page, with `text` for screen readers."""
    import matplotlib

    buffer = io.BytesIO()
    # Without a date and with fixed ids, the same comparison gives the same page.
    with matplotlib.rc_context({"svg.hashsalt": "kdloss"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    caption = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    source = f"data:image/svg+xml;base64,{data}"
    return f'<figure><img alt="{escape(text)}" src="{source}">{caption}</figure>'


def _scores_picture(models: dict[str, list[plots.Model]], panel: plots.Panel) -> str:
    means = ", ".join(
        f"{name} {np.mean([panel.scale * panel.score(*m[1:]) for m in repetitions]):.3g}"
        for name, repetitions in models.items()
    )
    return _picture(
        plots.scores_by_seed(models, panel),
        f"The {panel.label} of each seed as dots, for each way to train. Means: {means}.",
        "A dot for each seed, a line at the mean.",
    )


def _curves(found: Comparison, models: dict[str, list[plots.Model]]) -> list[str]:
    if not found.models[ALONE][0].history:  # a booster
        return []
    first, last = (
        ", ".join(
            f"{found.names[way]} {np.mean([m.history[at]['val_nll'] for m in repetitions]):.3g}"
            for way, repetitions in found.models.items()
            if way != TEACHER
        )
        for at in (0, -1)
    )
    text = f"by epoch, a curve for each way to train. NLL after the first epoch: {first}; "
    text += f"after the last: {last}."
    return [
        "<h2>Learning curves</h2>",
        "<p>Means over the seeds, in bands of one standard deviation.</p>",
        _pictures(
            "wide",
            (
                _picture(plots.learning_curves(models, panel), f"{panel.label} {text}")
                for panel in plots.PANELS[::-1]
            ),
        ),
    ]


def _reliability_pictures(found: Comparison) -> Iterable[str]:
    for (way, repetitions), colour in zip(found.models.items(), plots.COLOURS, strict=False):
        errors = [
            metrics.expected_calibration_error(m.probabilities, m.labels) for m in repetitions
        ]
        probabilities, labels = plots.pooled(repetitions)
        sure, right = probabilities.max(axis=1).mean(), metrics.accuracy(probabilities, labels)
        name = f"{found.names[way]}: calibration error {np.mean(errors):.1%}"
        yield _picture(
            plots.reliability_figure(repetitions, colour),
            f"Reliability diagram of {name}. Its mean confidence is {sure:.1%}, and it is right in "
            f"{right:.1%} of the rows.",
            name,
        )


def _confusion_picture(found: Comparison, way: str, classes: Sequence[str]) -> str:
    repetitions = found.models[way]
    share = np.nan_to_num(plots.confusion(repetitions, len(classes)))
    np.fill_diagonal(share, 0)
    true, predicted = divmod(int(share.argmax()), len(classes))
    name = found.names[way]
    worst = share[true, predicted]
    return _picture(
        plots.confusion_matrix(repetitions, classes),
        f"Confusion matrix of {name}. Its most frequent mistake: {worst:.1%} of the rows of class "
        f"{classes[true]} are predicted as class {classes[predicted]}.",
        name,
    )


def _by_class(found: Comparison, classes: Sequence[str]) -> str:
    recalls = [
        np.diagonal(plots.confusion(repetitions, len(classes)))
        for repetitions in found.models.values()
    ]
    count = np.bincount(plots.pooled(found.models[TEACHER])[1], minlength=len(classes))
    rows = [
        [classes[c], f"{count[c]:,}", *(f"{100 * recall[c]:.1f}" for recall in recalls)]
        for c in np.flatnonzero(count).tolist()
    ]
    return _table(
        ["class", "rows", *(found.names[way] for way in found.models)],
        rows,
        "Percent of the class's held-out rows that are predicted as this class; rows of all seeds "
        "together.",
    )


def _cost(cost: Cost) -> Sequence[str]:
    time = "not known" if cost.seconds is None else f"{1e6 * cost.seconds:.3g}"
    size = "not known" if cost.size is None else f"{cost.size / 1e3:,.1f}"
    return time, size


def as_json(found: Comparison) -> dict[str, Any]:
    """Return the numbers of the page, for a file."""
    verdict = found.verdict()
    scores = {name: found.scores(name) for name in SCORES}
    return {
        "verdict": verdict._asdict(),
        "ways": {
            way: {
                "name": name,
                "scores": {score: values[way] for score, values in scores.items()},
                "seconds_for_a_row": found.costs[way].seconds,
                "bytes": found.costs[way].size,
            }
            for way, name in found.names.items()
        },
        "rows": {
            "labelled": len(found.splits[0].few),
            "training": len(found.splits[0].pool),
            "held_out": len(found.splits[0].held_out),
        },
        "budget": found.budget,
    }
