"""Teach a linear student to tell more than seventy languages apart, from few labels and a teacher.

The rows are translated messages from the catalogues inside the Django wheel: short texts, each
labelled with its language. The teacher is py3langid, whose model ships in its wheel. The student is
linear in hashed character n-grams. Four students are compared on held-out messages with the teacher
itself; they take the same number of gradient steps and learn from:

- few labels alone;
- the same labels, and the teacher on the same rows;
- the same labels, and the teacher on many more rows;
- labels for all these rows, the ceiling.

    python examples/languages.py --out languages.png
"""

from __future__ import annotations

import argparse
import gettext
import itertools
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from kdloss import LinearStudent, metrics, softmax_temp
from kdloss.plots import reliability_diagram

try:
    import django
    import py3langid
    from matplotlib.figure import Figure
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    from rich.table import Table
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.model_selection import GroupKFold
    from threadpoolctl import threadpool_limits
except ImportError as error:
    print(f"languages.py: error: {error}; pip install 'kdloss[examples]'", file=sys.stderr)
    raise SystemExit(2) from None

Array = npt.NDArray[Any]

# Catalogues are named by locale (pt_BR, sr_Latn, zh_Hans); the language is the part before "_",
# except that py3langid knows Norwegian Bokmål as Norwegian.
TEACHER_NAMES = {"nb": "no"}
# Placeholders, markup and digits are the same in every language.
NOT_LANGUAGE = re.compile(r"%(\(\w+\))?[.\d]*[a-z]?|\{\w*\}|<[^>]*>|&\w+;|[\d\s]+")
SHORTEST = 8  # characters; below, texts are mostly abbreviations and single words
FEWEST = 100  # texts of a language, so that every part of the split has some

FEATURES = 2048
BATCH = 64
# Validation rows choose each student's settings among these. Each of the rates was the best for one
# of the students; 1 was no better than 3 for any, and 100 was worse than 30.
LEARNING_RATES = (3.0, 10.0, 30.0)
LABELS_ALONE = [{"alpha": 1.0, "learning_rate": rate} for rate in LEARNING_RATES]
WITH_TEACHER = [
    {"alpha": alpha, "tau": tau, "learning_rate": rate}
    for alpha, tau, rate in itertools.product((0.0, 0.5), (1.0, 2.0, 4.0), LEARNING_RATES)
]


class Row(NamedTuple):
    """A translated text, its language, and the message that it translates."""

    text: str
    language: str
    message: str


class Rows(NamedTuple):
    """Features (N, FEATURES), labels (N,) and teacher logits (N, C)."""

    X: Array
    labels: Array
    teacher_logits: Array

    def first(self, count: int) -> Rows:
        return Rows(*(array[:count] for array in self))


def read_catalogues() -> list[Row]:
    """Return every translated text once, without those that occur in more than one language."""
    py3langid.set_languages(None)
    known = {language for language, _ in py3langid.rank("")}
    found: dict[str, Row] = {}
    shared: set[str] = set()
    for path in sorted(Path(django.__file__).parent.glob("**/locale/*/LC_MESSAGES/django.mo")):
        code = path.parts[-3].split("_")[0]
        language = TEACHER_NAMES.get(code, code)
        if language not in known:
            continue
        for message, translation in read_catalogue(path):
            text = " ".join(NOT_LANGUAGE.sub(" ", translation).split())
            untranslated = translation == message and language != "en"
            if len(text) < SHORTEST or untranslated:
                continue
            key = text.casefold()
            if found.setdefault(key, Row(text, language, message)).language != language:
                shared.add(key)
    rows = [row for key, row in found.items() if key not in shared]
    count = Counter(row.language for row in rows)
    return [row for row in rows if count[row.language] >= FEWEST]


def read_catalogue(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each message of a compiled catalogue with its translation; plural forms one by one."""
    with path.open("rb") as file:
        # gettext has no public way to list a catalogue; Django reads this attribute too.
        catalogue: dict[Any, str] = vars(gettext.GNUTranslations(file))["_catalog"]
    for key, translation in catalogue.items():
        message = key if isinstance(key, str) else key[0]  # (message, number of the plural form)
        message = message.rpartition("\x04")[2]  # what precedes it tells translators the context
        if message:  # the empty one is the catalogue's header
            yield message, translation


def split(rows: list[Row], seed: int) -> tuple[list[Row], ...]:
    """Return training, validation and test rows, 3 : 1 : 1, in random order.

    All translations of a message, into any language, fall into the same part.
    """
    messages = [row.message for row in rows]
    folds = GroupKFold(5, shuffle=True, random_state=seed).split(rows, groups=messages)
    test, validation, *training = [fold for _, fold in folds]
    shuffle = np.random.default_rng(seed).permutation
    parts = np.concatenate(training), validation, test
    return tuple([rows[i] for i in shuffle(part)] for part in parts)


def hashed_ngrams(texts: list[str]) -> Array:
    """Return features (N, FEATURES): counts of hashed 1- to 3-grams, rows of length 1."""
    vectorizer = HashingVectorizer(
        analyzer="char", ngram_range=(1, 3), n_features=FEATURES, dtype=np.float32
    )
    return np.asarray(vectorizer.transform(texts).toarray())


def ask_teacher(texts: list[str], languages: list[str]) -> Array:
    """Return the teacher's logits (N, C), one column for each of `languages`.

    py3langid's scores are log-likelihoods, up to a constant per row. They grow with the text, and
    py3langid divides them by the square root of its length in bytes for its own probabilities.
    """
    py3langid.set_languages(languages)
    logits = np.empty((len(texts), len(languages)), np.float32)
    for row, text in zip(logits, texts, strict=True):
        score = dict(py3langid.rank(text))
        row[:] = [score[language] for language in languages]
        row -= row.max()
        row /= math.sqrt(len(text.encode()))
    return logits


def prepare(rows: list[Row], languages: list[str]) -> Rows:
    """Return what a student and its teacher see of `rows`; labels are places in `languages`."""
    texts = [row.text for row in rows]
    labels = np.array([languages.index(row.language) for row in rows])
    return Rows(hashed_ngrams(texts), labels, ask_teacher(texts, languages))


class Course(NamedTuple):
    """What one student learns from, and the settings among which validation rows choose."""

    name: str
    X: Array
    labels: Array
    teacher_logits: Array | None
    candidates: list[dict[str, Any]]

    @property
    def batches(self) -> int:
        return math.ceil(len(self.labels) / BATCH)

    def epochs(self, steps: int) -> int:
        return max(1, round(steps / self.batches))

    def best_student(
        self, validation: Rows, *, steps: int, seed: int, advance: Callable[[int], object]
    ) -> LinearStudent:
        """Train a student per candidate; return the likeliest one on the validation rows."""

        def train(settings: dict[str, Any]) -> LinearStudent:
            student = LinearStudent(
                **settings,
                epochs=self.epochs(steps),
                batch_size=BATCH,
                schedule="cosine",
                momentum=0.9,
                seed=seed,
            )
            return student.fit(
                self.X,
                self.labels,
                self.teacher_logits,
                n_classes=validation.teacher_logits.shape[1],
                progress=lambda record: advance(self.batches),
            )

        def surprise(student: LinearStudent) -> float:
            probabilities = student.predict_proba(validation.X)
            return metrics.negative_log_likelihood(probabilities, validation.labels)

        # A step is two products of a fraction of a millisecond. Threads pay off between students,
        # not within such a product: there they wait for each other, on a busy machine for long.
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
            return min(pool.map(train, self.candidates), key=surprise)


def courses(rows: Rows, labelled: int) -> list[Course]:
    """Return the four courses, of which three know the labels of the first `labelled` rows only."""
    few = rows.first(labelled)
    partly = rows.labels.copy()
    partly[labelled:] = -1
    teacher, total = rows.teacher_logits, len(partly)
    return [
        Course(f"{labelled:,} labels", few.X, few.labels, None, LABELS_ALONE),
        Course(f"{labelled:,} labels, teacher on {labelled:,}", *few, WITH_TEACHER),
        Course(f"{labelled:,} labels, teacher on {total:,}", rows.X, partly, teacher, WITH_TEACHER),
        Course(f"{total:,} labels", rows.X, rows.labels, None, LABELS_ALONE),
    ]


def results_table(results: dict[str, tuple[Array, str]], labels: Array) -> Table:
    """Return a table that fits into 80 columns."""
    title = f"{len(labels):,} test rows"
    table = Table(title=title, box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("rows learnt from")
    for name in ("accuracy", "NLL", "Brier", "ECE", "alpha/tau/rate"):
        table.add_column(name, justify="right")
    for name, (probabilities, settings) in results.items():
        table.add_row(
            name,
            f"{metrics.accuracy(probabilities, labels):.1%}",
            f"{metrics.negative_log_likelihood(probabilities, labels):.3f}",
            f"{metrics.brier_score(probabilities, labels):.3f}",
            f"{metrics.expected_calibration_error(probabilities, labels):.3f}",
            settings,
        )
    return table


def draw(results: dict[str, tuple[Array, str]], labels: Array) -> Figure:
    """Return a picture of how sure each one is, and how far that can be trusted."""
    figure = Figure(figsize=(16, 4), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(results))
    for axes, (name, (probabilities, _)) in zip(panels, results.items(), strict=True):
        reliability_diagram(axes, probabilities, labels)
        right = metrics.accuracy(probabilities, labels)
        axes.set_title(f"{name}\n{right:.1%} right", fontsize=10)
    return figure


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[int], object]]:
    """Show progress on standard error; call what is yielded with the steps just done."""
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("gradient steps", total=total)
        yield lambda steps: progress.advance(task, steps)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison and print it."""
    parser = Parser(
        prog="languages.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option, default, meaning in (
        ("--labels", 300, "rows with a label"),
        ("--unlabelled", 6000, "more rows, without a label"),
        ("--held-out", 4000, "test rows at most, and as many validation rows"),
        ("--steps", 1500, "gradient steps of each student"),
        ("--seed", 0, "of the split, the order of rows and the students"),
    ):
        parser.add_argument(
            option, type=int, default=default, metavar="N", help=f"{meaning} (default: {default})"
        )
    parser.add_argument("--out", type=Path, metavar="PNG", help="also draw the results")
    args = parser.parse_args(arguments)
    for name in ("labels", "unlabelled", "held_out", "steps"):
        if getattr(args, name) < 1:
            parser.error(
                f"--{name.replace('_', '-')} must be at least 1, not {getattr(args, name)}"
            )
    if not 0 <= args.seed < 2**32:
        parser.error(f"--seed must be in [0, 2**32), not {args.seed}")
    if args.out and (args.out.is_dir() or not args.out.parent.is_dir()):
        parser.error(f"--out {args.out} cannot be written: not a file in a folder that exists")

    texts = read_catalogues()
    languages = sorted({row.language for row in texts})
    training_texts, validation_texts, test_texts = split(texts, args.seed)
    total = args.labels + args.unlabelled
    if total > len(training_texts):
        parser.error(
            f"--labels and --unlabelled together must be at most {len(training_texts)}, the number "
            f"of training rows, not {total}"
        )
    training = prepare(training_texts[:total], languages)
    validation = prepare(validation_texts[: args.held_out], languages)
    test = prepare(test_texts[: args.held_out], languages)
    print(
        f"{len(texts):,} texts in {len(languages)} languages: {total:,} training, "
        f"{len(validation.labels):,} validation and {len(test.labels):,} test rows"
    )

    results: dict[str, tuple[Array, str]] = {}
    plan = courses(training, args.labels)
    steps = sum(len(c.candidates) * c.epochs(args.steps) * c.batches for c in plan)
    with progress_bar(steps) as advance:
        for course in plan:
            student = course.best_student(
                validation, steps=args.steps, seed=args.seed, advance=advance
            )
            chosen = student.settings
            tau = "-" if course.teacher_logits is None else f"{chosen.tau:g}"
            results[course.name] = (
                student.predict_proba(test.X),
                f"{chosen.alpha:g}/{tau}/{chosen.learning_rate:g}",
            )
    results["the teacher itself"] = softmax_temp(test.teacher_logits), ""
    Console().print(results_table(results, test.labels))
    if args.out:
        try:
            draw(results, test.labels).savefig(args.out, format="png")
        except OSError as error:
            parser.error(f"--out {args.out} cannot be written: {error}")
        print(f"picture: {args.out}")


if __name__ == "__main__":
    main()
