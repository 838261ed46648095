"""examples/languages.py: its rows, its split, its teacher, and small runs as a child process."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from kdloss import softmax_temp
from tolerances import TEACHER_PROBABILITY

EXAMPLE = Path(__file__).parents[2] / "examples" / "languages.py"
SMALL = ("--labels", "100", "--unlabelled", "500", "--held-out", "500", "--steps", "50")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def languages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("languages", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows(languages: ModuleType) -> list:
    return languages.read_catalogues()


def test_rows_carry_the_teachers_name_of_their_language(languages, rows):
    found = {row.text: row.language for row in rows}
    assert found["Ce champ est obligatoire."] == "fr"
    assert found["Feltet er påkrevet."] == "no"  # nb
    assert found["Este campo é obrigatório."] == "pt"  # pt and pt_BR
    assert found["Ово поље се мора попунити."] == "sr"
    assert found["Unesite ispravan ceo broj."] == "sr"  # sr_Latn
    count = Counter(row.language for row in rows)
    assert len(count) > 60
    assert min(count.values()) >= languages.FEWEST


def test_no_text_is_there_twice_in_any_language(rows):
    texts = [row.text.casefold() for row in rows]
    assert len(set(texts)) == len(texts)


def test_a_text_of_two_languages_is_in_neither(languages, rows):
    import django

    locale = Path(django.__file__).parent / "conf" / "locale"
    danish, norwegian = (
        {text for _, text in languages.read_catalogue(locale / code / "LC_MESSAGES" / "django.mo")}
        for code in ("da", "nb")
    )
    assert {text for text in danish & norwegian if len(text) > languages.SHORTEST}
    assert not danish & norwegian & {row.text for row in rows}


def test_texts_are_free_of_placeholders_and_markup(rows):
    assert not [row.text for row in rows if re.search(r"%|<a |</a>|\{\w|\d", row.text)]


def test_all_translations_of_a_message_are_on_one_side(languages, rows):
    parts = languages.split(rows, seed=0)
    assert sorted(row for part in parts for row in part) == sorted(rows)
    training, validation, test = ({row.message for row in part} for part in parts)
    assert not training & validation
    assert not training & test
    assert not validation & test
    assert len(parts[0]) > 2 * max(len(parts[1]), len(parts[2]))


def test_the_seed_decides_the_split(languages, rows):
    first, again, other = (languages.split(rows, seed) for seed in (1, 1, 2))
    assert first == again
    assert set(first[2]) != set(other[2])


def test_the_teachers_columns_are_the_languages(languages):
    texts = ["Ce champ est obligatoire.", "Detta fält måste fyllas i."]
    names = ["en", "fr", "it", "sv"]
    logits = languages.ask_teacher(texts, names)
    assert [names[i] for i in logits.argmax(axis=1)] == ["fr", "sv"]
    np.testing.assert_array_equal(languages.ask_teacher(texts, names[::-1]), logits[:, ::-1])


def test_the_teachers_probabilities_are_its_own(languages):
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    texts = ["поле", "Адрес имеет", "fält"]
    names = ["bg", "da", "mk", "ru", "sv", "uk"]
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(names)
    own = [[dict(identifier.rank(text))[name] for name in names] for text in texts]
    ours = softmax_temp(languages.ask_teacher(texts, names))
    assert ours.max() < 1 - 10 * TEACHER_PROBABILITY  # near 1, a wrong temperature would not show
    np.testing.assert_allclose(ours, own, atol=TEACHER_PROBABILITY)


def test_a_text_that_the_teacher_cannot_read_tells_nothing(languages):
    logits = languages.ask_teacher(["?!"], ["de", "en", "fr"])
    np.testing.assert_array_equal(logits, [[0, 0, 0]])


def test_only_the_ceiling_sees_more_than_the_few_labels(languages):
    rows = languages.Rows(np.ones((5, 2)), np.arange(5), np.ones((5, 5)))
    alone, same, more, ceiling = languages.courses(rows, labelled=2)
    assert alone.labels.tolist() == same.labels.tolist() == [0, 1]
    assert more.labels.tolist() == [0, 1, -1, -1, -1]
    assert ceiling.labels.tolist() == [0, 1, 2, 3, 4]
    assert alone.teacher_logits is ceiling.teacher_logits is None
    assert len(same.teacher_logits) == 2
    assert len(more.teacher_logits) == 5
    assert rows.labels.tolist() == [0, 1, 2, 3, 4]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory) -> tuple[subprocess.CompletedProcess[str], Path]:
    picture = tmp_path_factory.mktemp("small_run") / "languages.png"
    return run(*SMALL, "--out", str(picture), PYTHONHASHSEED="1"), picture


def test_unlabelled_rows_teach_and_the_picture_is_drawn(small_run):
    result, picture = small_run
    assert result.returncode == 0, result.stderr
    alone, same, more, ceiling, teacher = map(float, re.findall(r"([\d.]+)%", result.stdout))
    assert alone + 10 < more < teacher
    assert alone < same < more
    assert ceiling < teacher
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_run_can_be_repeated_in_another_process(small_run):
    # Python's own hash of strings differs between processes.
    first, again = small_run[0], run(*SMALL, PYTHONHASHSEED="2")
    assert first.stdout.partition("picture:")[0] == again.stdout


@pytest.mark.parametrize("package", ["django", "sklearn"])
def test_a_missing_package_is_one_line_that_names_the_extra(tmp_path, package):
    (tmp_path / f"{package}.py").write_text(f"raise ImportError(\"No module named '{package}'\")")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    result = run(PYTHONPATH=path)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        f"languages.py: error: No module named '{package}'; pip install 'kdloss[examples]'"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--labels", "0"), "--labels must be at least 1, not 0"),
        (("--unlabelled", "-5"), "--unlabelled must be at least 1, not -5"),
        (("--held-out", "0"), "--held-out must be at least 1, not 0"),
        (("--steps", "0"), "--steps must be at least 1, not 0"),
        (("--labels", "ten"), "argument --labels: invalid int value: 'ten'"),
        (("--seed", "-1"), "--seed must be in [0, 2**32), not -1"),
        (("--labels", "1000000"), "--labels and --unlabelled together must be at most"),
        (("--out", "no/such/folder.png"), "--out no/such/folder.png cannot be written"),
        (("--out", "."), "--out . cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_bad_argument_is_one_line(languages, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        languages.main(arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"languages.py: error: {message}")
