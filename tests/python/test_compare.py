"""`kdloss compare`: files in, verdict and page out; the page in a browser."""

import base64
import json
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from command_line import plain, refuses, set_flags, succeeds, write_csv
from kdloss.comparison import Linear, compare

COMPARE = ("compare", "--features", "X.npy", "--labels", "y.npy", "--teacher-logits", "T.npy")
SHORT = ("--seeds", 3, "--epochs", 8, "--labelled", 24, "--seed", 1)
FILES = ["report.html", "results.json"]
NAMES = ["ant", "bee", "cat <script>"]

# Runs in the page, opened at a phone's width, and reports its properties.
WRAPPER = """<!DOCTYPE html><body><iframe id="page" src="PAGE" width="390" height="800"></iframe>
<pre id="found"></pre><script>
onload = () => {
  const view = document.getElementById("page").contentWindow, page = view.document;
  const images = [...page.images];
  document.getElementById("found").textContent = JSON.stringify({
    title: page.title,
    hidden: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    images: images.length,
    drawn: images.filter((i) => i.complete && i.naturalWidth > 0 && i.width <= 390).length,
    requests: view.performance.getEntriesByType("resource").map((r) => r.name),
    scripts: page.scripts.length,
    tables: page.querySelectorAll(".scroll > table").length,
  });
};
</script></body>"""


@pytest.fixture(autouse=True)
def task(tmp_path, monkeypatch):
    """Write a task to the current folder, with a good teacher."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    X = rng.normal(size=(400, 5))
    T = 2 * X @ rng.normal(size=(5, 3))
    P = np.exp(T) / np.exp(T).sum(axis=1, keepdims=True)
    y = (P.cumsum(axis=1) < rng.random((400, 1))).sum(axis=1)
    arrays = {"X": X, "T": T, "y": y, "P": P, "N": rng.normal(size=T.shape)}
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)
    return X, y, T


class Page(HTMLParser):
    """The attributes of each tag, and the text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(Path(path).read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_files(task):
    result = succeeds(*COMPARE, *SHORT, "--out", "found")
    assert sorted(path.name for path in Path("found").iterdir()) == FILES
    results = json.loads(Path("found/results.json").read_text())
    expected = compare(*task, student=Linear(epochs=8), labelled=24, seeds=3, seed=1)
    for way, found in results["ways"].items():
        for name, values in found["scores"].items():
            np.testing.assert_array_equal(values, expected.scores(name)[way])
    assert results["verdict"]["sentence"] == expected.verdict().sentence
    assert results["settings"]["epochs"] == 8
    assert results["files"]["teacher_logits"] == "T.npy"
    nll = expected.scores("nll")["more_rows"]
    for text in (result.stdout, Page("found/report.html").text):
        assert f"{nll.mean():.3f} ± {nll.std(ddof=1):.3f}" in text
        assert " ".join(expected.verdict().sentence.split()) in " ".join(text.split())
    assert [f"training {k * 96 // 10 + bool(k * 96 % 10)}/96" for k in range(1, 11)] == (
        result.stderr.splitlines()[1:]
    )


def test_a_divergence(task):
    flags = ("--divergence", "js", "--beta", 0.2)
    succeeds(*COMPARE, *SHORT, *flags, "--out", "found")
    results = json.loads(Path("found/results.json").read_text())
    options = {"labelled": 24, "seeds": 3, "seed": 1, "divergence": "js", "beta": 0.2}
    expected = compare(*task, student=Linear(epochs=8), **options)
    assert (
        results["ways"]["more_rows"]["scores"]["nll"]
        == expected.scores("nll")["more_rows"].tolist()
    )
    assert (
        expected.scores("nll")["more_rows"][0]
        != compare(*task, student=Linear(epochs=8), labelled=24, seeds=1, seed=1).scores("nll")[
            "more_rows"
        ][0]
    )
    assert results["settings"]["divergence"] == "js"


def test_the_next_command_trains():
    result = succeeds(*COMPARE, "--seeds", 5, "--epochs", 8, "--labelled", 9, "--out", "found")
    assert "Distilling helped" in result.stdout
    command = result.stdout.split("next: kdloss ")[1]
    plain(*shlex.split(command))
    settings = json.loads(Path("run/settings.json").read_text())["settings"]
    assert settings["l2"] == Linear().l2
    assert settings["learning_rate"] == Linear().learning_rate


def test_tables_and_probabilities_give_the_same_as_arrays(task):
    import polars

    X, y, _ = task
    polars.DataFrame({f"f{k}": X[:, k] for k in range(5)}).with_columns(
        polars.Series("kind", [NAMES[k] for k in y])
    ).write_csv("rows.csv")
    # Columns in another order than that of the names: matched by name.
    P = np.load("P.npy")
    polars.DataFrame({NAMES[k]: P[:, k] for k in (2, 0, 1)}).write_parquet("P.parquet")
    succeeds(
        "compare", "--features", "rows.csv", "--label-column", "kind", "--teacher-logits",
        "P.parquet", "--teacher-probabilities", *SHORT, "--out", "table",
    )  # fmt: skip
    succeeds(*COMPARE, *SHORT, "--out", "array")
    table, array = (
        json.loads(Path(name, "results.json").read_text())["ways"] for name in ("table", "array")
    )
    nll = [ways["labels"]["scores"]["nll"] for ways in (table, array)]
    # With another order of the classes, other rows are drawn: the results are similar, not equal.
    assert abs(np.mean(nll[0]) - np.mean(nll[1])) < 0.25
    assert np.mean(table["more_rows"]["scores"]["accuracy"]) > 0.7
    page = Page("table/report.html")
    assert NAMES[2] in page.text  # escaped
    assert not page.all("script")


def test_csv_equals_npy(task):
    for name, array in zip(("X", "T"), (task[0], task[2]), strict=True):
        write_csv(f"{name}.csv", array)
    succeeds(*set_flags(COMPARE, features="X.csv", teacher_logits="T.csv"), *SHORT, "--out", "csv")
    succeeds(*COMPARE, *SHORT, "--out", "npy")
    csv, npy = (json.loads(Path(n, "results.json").read_text()) for n in ("csv", "npy"))
    assert csv["verdict"] == npy["verdict"]


def test_a_teacher_of_noise_does_not_help():
    result = succeeds(*set_flags(COMPARE, teacher_logits="N.npy"), *SHORT)
    assert "Distilling did not help: the teacher is right in" in result.stdout
    assert result.stderr.count("agrees with") == 1  # once, not for each training
    assert "--teacher-logits N.npy agrees with" in result.stderr
    assert "next:" not in result.stdout


def test_digits():
    result = succeeds("compare", "--example", "digits", "--seeds", 3, "--out", "found")
    assert "Distilling helped: " in result.stdout
    results = json.loads(Path("found/results.json").read_text())
    assert results["rows"] == {"labelled": 50, "training": 1297, "held_out": 500}
    assert results["ways"]["teacher"]["bytes"] > 10_000


@pytest.mark.parametrize("student", ["lightgbm", "xgboost"])
def test_boosters(student):
    result = succeeds(*COMPARE, "--student", student, "--rounds", 5, "--seeds", 2, "--out", "found")
    assert "5 rounds of trees" in result.stdout
    page = Page("found/report.html")
    assert "Learning curves" not in page.text
    assert len(page.all("img")) == 2 + 5 + 2


def test_unlabelled_rows_belong_to_the_teacher(task):
    _, y, _ = task
    y[100:], y[:10] = -1, -100
    np.save("y.npy", y)
    result = succeeds(*COMPARE, "--epochs", 2, "--seeds", 2, "--out", "found")
    rows = json.loads(Path("found/results.json").read_text())["rows"]
    assert rows == {"labelled": 68, "training": 368, "held_out": 22}
    assert "68 labels" in result.stdout
    assert not re.search(r"^ *all \d+ labels", result.stdout, re.M)  # all labels are the few


def test_what_the_teacher_costs_is_shown_where_known():
    Path("teacher.bin").write_bytes(bytes(12_300))
    costs = ("--teacher-file", "teacher.bin", "--teacher-microseconds", 45)
    succeeds(*COMPARE, *SHORT, *costs, "--out", "found")
    teacher = json.loads(Path("found/results.json").read_text())["ways"]["teacher"]
    assert teacher["bytes"] == 12_300
    assert teacher["seconds_for_a_row"] == pytest.approx(45e-6)
    assert re.search(r"the teacher itself\s*4512\.3", Page("found/report.html").text)
    succeeds(*COMPARE, *SHORT, "--out", "found")
    assert "not known" in Page("found/report.html").text


def test_the_page_holds_all_it_needs():
    succeeds(*COMPARE, *SHORT, "--out", "found")
    text, page = Path("found/report.html").read_text(), Page("found/report.html")
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )
    assert "@media print" in text
    # The page refers to nothing outside: no address, link, script, font or import.
    assert not re.search(r"https?:|//|@import|url\(", re.sub(r"base64,[\w+/=]+", "", text))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "video"})
    images = page.all("img")
    assert len(images) == 2 + 2 + 5 + 2
    for image in images:
        assert len(image["alt"]) > 60
        kind, data = image["src"].split(",")
        assert kind == "data:image/svg+xml;base64"
        svg = base64.b64decode(data).decode()
        assert not re.search(r'href="(?!#|data:)', svg)
    assert len({image["alt"] for image in images}) == len(images)


def test_the_same_comparison_is_the_same_page_but_for_its_times():
    pages = []
    for _ in range(2):
        succeeds(*COMPARE, *SHORT, "--out", "found")
        pages.append(
            re.sub(
                r"<h2>Prediction time.*?<h2>", "", Path("found/report.html").read_text(), flags=re.S
            )
        )
    assert pages[0] == pages[1]


def visit(name, folder):
    """Open a page in chromium, at a phone's width and without DNS; return its properties."""
    chromium = shutil.which("chromium")
    assert chromium, "this test needs chromium: apt-get install chromium"
    wrapper = Path(f"phone-{Path(name).name}").absolute()
    wrapper.write_text(WRAPPER.replace("PAGE", Path(name).absolute().as_uri()))
    done = subprocess.run(
        [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-default-apps", "--disable-extensions", f"--user-data-dir={folder}",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--allow-file-access-from-files",
            "--virtual-time-budget=10000", "--dump-dom", wrapper.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return json.loads(re.search(r'<pre id="found">(.*?)</pre>', done.stdout)[1])


def test_the_page_in_a_browser(tmp_path):
    succeeds(*COMPARE, *SHORT, "--out", "found")
    assert visit("found/report.html", tmp_path / "profile") == {
        "title": "Does distilling help? X.npy",
        "hidden": 0,  # nothing is wider than the screen; tables scroll
        "images": 11,
        "drawn": 11,
        "requests": [],
        "scripts": 0,
        "tables": 4,
    }
    # A request to any server would be listed here; the page's own policy forbids them.
    text = Path("found/report.html").read_text()
    pixel = "http://elsewhere.invalid/pixel.png"
    policy = re.compile("<meta http-equiv=.*?>")
    asking = text.replace("<main>", f'<main><img src="{pixel}">')
    Path("asking.html").write_text(policy.sub("", asking))
    assert visit("asking.html", tmp_path / "profile")["requests"] == [pixel]


REFUSED = [
    ((*COMPARE, "--seeds", 0), "--seeds is 0, expected at least 1"),
    ((*COMPARE, "--rounds", 5), "--rounds is not a setting of .* linear, expected one of --epochs"),
    ((*COMPARE, "--student", "lightgbm", "--l2", 1), "--l2 is not a setting of --student lightgbm"),
    ((*COMPARE, "--student", "xgboost", "--rounds", 0), "rounds is 0, expected a number > 0"),
    ((*COMPARE, "--labelled", 2), "--labelled 2 means 2 of 300 training rows with a label"),
    ((*COMPARE, "--held-out", 1), r"--held-out is 1.0, expected a share in \(0, 1\)"),
    ((*COMPARE, "--alpha", 2), "alpha.*2"),
    ((*COMPARE, "--tau", 0), "tau.*0"),
    ((*COMPARE, "--epochs", 0), "epochs.*0"),
    ((*COMPARE, "--teacher-file", "none"), "--teacher-file none: No such file"),
    ((*COMPARE, "--example", "digits"), "--features and --example digits are both given"),
    (set_flags(COMPARE, features=None), "--features is missing, expected it or --example"),
    (set_flags(COMPARE, teacher_logits=None), "--teacher-logits is missing, expected it or --ex"),
    (set_flags(COMPARE, labels=None), "--labels is missing, expected it or --label-column"),
    (set_flags(COMPARE, labels="P.npy"), r"--labels P.npy holds soft labels of shape \(400, 3\)"),
    (set_flags(COMPARE, labels="zeros.npy"), "labels have 1 classes, expected at least 2"),
    (set_flags(COMPARE, features="nan.npy"), "--features nan.npy: row 7, column 2 .from 0. is nan"),
    (set_flags(COMPARE, teacher_logits="nanT.npy"), "--teacher-logits nanT.npy: row 9 .* is nan"),
    (set_flags(COMPARE, features="none.npy"), "--features none.npy: .*no such"),
    ((*COMPARE, "--out", "none/found"), "no folder none"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[m[:50] for _, m in REFUSED])
def test_refuses(task, arguments, message):
    X, y, T = task
    X[7, 2], T[9, 1] = np.nan, np.nan
    np.save("nan.npy", X)
    np.save("nanT.npy", T)
    np.save("zeros.npy", 0 * y)
    refuses(arguments, message)


@pytest.mark.parametrize("package", ["matplotlib", "rich", "scipy"])
def test_names_the_extra(package):
    message = f"compare needs {package}: pip install 'kdloss.compare.'"
    refuses(COMPARE, message, without=(package,))


@pytest.mark.parametrize("package", ["lightgbm", "xgboost"])
def test_names_the_extra_of_a_booster(package):
    message = f"kdloss.{package} needs {package}: pip install 'kdloss.{package}.'"
    refuses((*COMPARE, "--student", package), message, without=(package,))
