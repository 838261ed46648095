"""The command line as a child process: bad input gives a one-line error and writes no file."""

import re
from pathlib import Path

import numpy as np
import pytest

from command_line import LOSS, PREDICT, TRAIN, TUNE, refuses, set_flags, write_task


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_task()


def broken_files():
    whole = Path("X.npy").read_bytes()
    Path("short.npy").write_bytes(whole[:500])
    Path("header.npy").write_bytes(whole[:40])
    Path("empty.npy").touch()
    Path("bracket.npy").write_bytes(whole[:10] + b"(" + whole[11:])
    Path("text.npy").write_text("not an array")
    np.save("pickled.npy", np.array([{}, 1], dtype=object))
    np.save("words.npy", np.array([["a", "b"]]))
    np.save("flat.npy", np.zeros(60))
    np.save("cube.npy", np.zeros((60, 2, 2)))
    np.save("few.npy", np.load("X.npy")[:50])
    np.save("y_few.npy", np.load("y.npy")[:50])
    np.save("wide.npy", np.zeros((60, 5)))
    np.save("nan.npy", np.full((60, 4), np.nan))
    np.save("unlabelled.npy", np.full(60, -1))
    for name, value in (("class", 3), ("half", 0.5), ("nan", np.nan)):
        y = np.load("y.npy").astype(type(value))
        y[17] = value
        np.save(f"y_{name}.npy", y)
    archive = Path("all.npz").read_bytes()
    Path("short.npz").write_bytes(archive[:500])
    for name, save in (("damaged", np.savez), ("mangled", np.savez_compressed)):
        save(f"{name}.npz", X=np.load("X.npy"))
        archive = bytearray(Path(f"{name}.npz").read_bytes())
        # The entry's first byte: a local header has 30 bytes and two texts of variable length.
        entry = 30 + archive[26] + archive[28]
        archive[entry] = 0xFF
        Path(f"{name}.npz").write_bytes(archive)
    Path("words.csv").write_text("a,b\n1,2\n3,four\n")
    Path("ragged.csv").write_text("a,b\n1,2\n3\n" + "3,4\n" * 58)
    Path("hole.csv").write_text("a,b\n1,2\n\n3,4\n")
    Path("empty.csv").touch()
    Path("X.txt").touch()
    Path("folder.npy").mkdir()
    Path("mine").mkdir()
    Path("mine/thesis.tex").touch()
    Path("file").touch()


UNREADABLE = {
    "none.npy": "cannot be read: no such file",
    "folder.npy": "cannot be read: it is a folder",
    "x" * 300 + ".npy": "cannot be read: File name too long",
    "short.npy": "cannot be read",
    "header.npy": "cannot be read",
    "empty.npy": "cannot be read",
    "bracket.npy": "cannot be read",
    "text.npy": "cannot be read",
    "pickled.npy": "cannot be read.*Python objects",
    "words.npy": "expected real numbers, found dtype <U1",
    "flat.npy": r"expected shape \(rows, columns\), found \(60,\)",
    "cube.npy": r"expected shape \(rows, columns\), found \(60, 2, 2\)",
    "all.npz": "no key was given, .* X, T, y, S",
    "all.npz:Z": "no key 'Z', .* X, T, y, S",
    "none.npz:X": "no such file",
    "short.npz:X": "not an .npz archive",
    "damaged.npz:X": "cannot be read",
    "mangled.npz:X": "cannot be read: Error -3 while decompressing",
    "words.csv": "column 'b' holds 'four' in row 1 .from 0., expected numbers",
    "hole.csv": "cannot be read: row 1 .from 0. is empty, expected values",
    "ragged.csv": "row 1, column 1 .from 0. .column 'b'. is nan, expected a finite number",
    "empty.csv": "cannot be read: it is empty",
    "X.txt": "expected a name that ends in one of .npy, .npz:key, .csv",
}

REFUSED = [
    ([], "COMMAND"),
    (["distil"], "distil"),
    (["train"], "--features"),
    ([*TRAIN, "--alpha", "much"], "--alpha.*much"),
    ([*TRAIN, "--what", "1"], "--what"),
    # Shapes: the message has both
    (set_flags(TRAIN, labels="y_few.npy"), r"y_few.npy.*\(50,\).* 60 rows.*X.npy"),
    (
        set_flags(TRAIN, labels="T.npy"),
        r"--labels T.npy: labels\[0, 1\] is .*, expected a probability >= 0",
    ),
    (set_flags(TRAIN, labels="cube.npy"), r"--labels cube.npy.*\(60, 2, 2\)"),
    (set_flags(TRAIN, teacher_logits="few.npy"), r"few.npy.*\(50, 4\).* 60 rows.*X.npy"),
    (set_flags(TUNE, teacher_logits="few.npy"), r"few.npy.*\(50, 4\).* 60 rows.*X.npy"),
    (set_flags(LOSS, teacher="wide.npy"), r"wide.npy.*\(60, 5\).*\(60, 3\).*S.npy"),
    (set_flags(LOSS, labels="y_few.npy"), r"y_few.npy.*\(50,\).* 60 rows.*S.npy"),
    (set_flags(PREDICT, features="wide.npy"), r"wide.npy.*\(60, 5\).*\(rows, 4\).*student.npz"),
    # Labels: the message has the first bad row and its value
    *(
        (set_flags(arguments, labels=file), rf"{row}.*{value}")
        for arguments in (TRAIN, TUNE, LOSS)
        for file, row, value in (
            ("y_class.npy", r"(row 17|labels\[17\])", "3"),
            ("y_half.npy", "row 17", "0.5"),
            ("y_nan.npy", "row 17", "nan"),
        )
    ),
    # Values
    *(
        ([*arguments, flag, value], rf"{name}.*{value}")
        for arguments in (TRAIN, LOSS)
        for flag, name, value in (("--alpha", "alpha", "1.5"), ("--tau", "tau", "-1"))
    ),
    ([*TRAIN, "--epochs", "0"], "epochs.*0"),
    ([*TRAIN, "--validation", "1.5"], "validation.*1.5"),
    ([*TRAIN, "--validation", "0", "--patience", "3"], "patience is 3, expected validation"),
    (set_flags(TRAIN, labels=None), "--labels is missing, expected it unless --alpha is 0"),
    (set_flags(TRAIN, teacher_logits=None), "--teacher-logits is missing.* unless --alpha is 1"),
    (set_flags(LOSS, labels=None), "--labels is missing, expected it unless --alpha is 0"),
    (set_flags(LOSS, teacher=None), "--teacher is missing, expected it unless --alpha is 1"),
    (set_flags(TRAIN, features="nan.npy"), "--features nan.npy: row 0, column 0 .from 0. is nan"),
    (set_flags(TUNE, alphas="0.5,2"), "alpha.*2"),
    (set_flags(TUNE, taus="0,1"), "tau.*0"),
    (set_flags(TUNE, taus="1;2"), "--taus.*1;2"),
    ([*TUNE, "--metric", "loss"], "--metric.*loss"),
    ([*TUNE, "--seeds", "0"], "--seeds.*0"),
    ([*TUNE, "--validation", "0"], "validation.*0"),
    (set_flags(TUNE, labels="unlabelled.npy"), "no pair .*no validation row has a label"),
    (set_flags(TUNE, features="nan.npy"), "--features nan.npy: row 0, column 0 .from 0. is nan"),
    (set_flags(TUNE, labels=None), "--labels is missing, expected it or --label-column"),
    (set_flags(TUNE, alphas="1"), "--alphas is 1, the baseline, expected others"),
    (["demo", "--labels", "9"], r"--labels is 9, expected a number in \[10, 1287\]"),
    (["demo", "--seeds", "0"], "--seeds.*0"),
    # Students
    (set_flags(PREDICT, student="none"), "--student none"),
    (set_flags(PREDICT, student="mine"), "--student mine.*student.npz"),
    (set_flags(PREDICT, student="all.npz"), "all.npz"),
    (set_flags(PREDICT, student="text.npy"), "text.npy"),
    (set_flags(PREDICT, student="mangled.npz"), "--student mangled.npz: cannot be read"),
    # Places to write
    *(
        (set_flags(arguments, out=place), rf"--out {place}.*{problem}")
        for arguments in (TRAIN, TUNE)
        for place, problem in (
            ("none/run", "no folder none"),
            ("file", "is a file"),
            ("file/run", "no folder file"),
            ("mine", "thesis.tex"),
            ("x" * 300, "cannot be written"),
        )
    ),
    *(
        (set_flags(arguments, out=place), rf"--out {place}.*{problem}")
        for arguments, suffix in ((PREDICT, ".npy"), (["demo"], ".png"))
        for place, problem in (
            ("none/P" + suffix, "no folder none"),
            ("mine", "expected a name that ends in " + suffix),
            ("x" * 300 + suffix, "cannot be written"),
        )
    ),
    (set_flags(PREDICT, out="folder.npy"), "--out folder.npy.*is a folder"),
    (set_flags(PREDICT, out="X.npy"), "--out X.npy.*--features"),
]


@pytest.mark.parametrize(("file", "problem"), UNREADABLE.items(), ids=[f[-20:] for f in UNREADABLE])
def test_refuses_a_file_it_cannot_read(file, problem):
    broken_files()
    refuses(set_flags(TRAIN, features=file), f"--features {re.escape(file)}: .*{problem}")


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (TRAIN, "labels"),
        (TRAIN, "teacher-logits"),
        (TUNE, "features"),
        (PREDICT, "features"),
        (LOSS, "student"),
        (LOSS, "teacher"),
        (LOSS, "labels"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_names_the_flag_of_a_missing_file(arguments, flag):
    refuses(
        set_flags(arguments, **{flag.replace("-", "_"): "none.npy"}),
        f"--{flag} none.npy: .*no such",
    )


@pytest.mark.parametrize(
    ("arguments", "message"), REFUSED, ids=[" ".join([*a[:1], m])[:60] for a, m in REFUSED]
)
def test_refuses(arguments, message):
    broken_files()
    refuses(arguments, message)


@pytest.mark.parametrize("package", ["rich", "matplotlib", "sklearn"])
def test_demo_names_the_extra(package):
    refuses(["demo"], re.escape(f"needs {package}: pip install 'kdloss[demo]'"), without=(package,))
