"""Runs the command line as a child process, on a small task."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from kdloss.trainer import LinearStudent

COMMANDS = ("demo", "compare", "train", "predict", "tune", "loss")
EXTRAS = ("rich", "matplotlib", "sklearn", "scipy", "polars")
FILES = ("--features", "X.npy", "--labels", "y.npy", "--teacher-logits", "T.npy")
TRAIN = ("train", *FILES, "--out", "run", "--epochs", "3")
TUNE = ("tune", *FILES, "--out", "tune", "--epochs", "3", "--alphas", "0.2,0.8", "--taus", "1,3")
PREDICT = ("predict", "--student", "student.npz", "--features", "X.npy", "--out", "out.npy")
LOSS = ("loss", "--student", "S.npy", "--teacher", "T.npy", "--labels", "y.npy")
PNG = b"\x89PNG"


def kdloss(*arguments, without=()):
    """Run the command line in the current folder, optionally with some packages hidden."""
    code = ["-m", "kdloss"]
    if without:
        hide = f"import sys; sys.modules.update(dict.fromkeys({without!r}))"
        code = ["-c", f"{hide}; from kdloss.cli import main; sys.exit(main())"]
    return subprocess.run(
        [sys.executable, *code, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


def succeeds(*arguments, **options):
    result = kdloss(*arguments, **options)
    assert result.returncode == 0, result.stderr
    return result


def plain(*arguments):
    """Like `succeeds`, with NumPy alone: no picture, and no time spent on matplotlib."""
    return succeeds(*arguments, without=EXTRAS)


def with_tables(*arguments):
    """Like `plain`, with polars, which reads tables."""
    return succeeds(*arguments, without=EXTRAS[:-1])


def tree():
    """The files of the current folder with their bytes, and the folders."""
    return {path: path.is_file() and path.read_bytes() for path in Path().rglob("*")}


def set_flags(arguments, **values):
    """The arguments with some flags changed; None removes a flag."""
    arguments = list(arguments)
    for name, value in values.items():
        flag = "--" + name.replace("_", "-")
        if flag in arguments:
            at = arguments.index(flag)
            del arguments[at : at + 2]
        if value is not None:
            arguments += [flag, value]
    return arguments


def refuses(arguments, message, **options):
    """Check that the last line is the only error and matches, with status 2 and no file changed."""
    before = tree()
    result = kdloss(*arguments, **options)
    assert result.returncode == 2
    *progress, line = result.stderr.splitlines()
    assert re.match(rf"kdloss: error: .*({message})", line), line
    usual = r"\w+ \d+/\d+|kdloss: (rows|warning): .*"
    assert all(re.fullmatch(usual, other) for other in progress), progress
    assert result.stdout == ""
    assert tree() == before


def write_csv(name, array):
    names = ",".join(f"c{k}" for k in range(array.reshape(len(array), -1).shape[1]))
    np.savetxt(name, array, fmt="%.17g", delimiter=",", header=names, comments="")


def write_task():
    """Write a small task to the current folder, in every format; return X, y and T.

    The seed is one that gives all classes to training and validation, so that nothing is warned of.
    """
    rng = np.random.default_rng(13)
    X = rng.normal(size=(60, 4))
    T = 3 * X @ rng.normal(size=(4, 3))
    y = T.argmax(axis=1)
    y[40:50], y[50:52] = -1, -100
    S = rng.normal(size=T.shape)
    P = np.exp(T) / np.exp(T).sum(axis=1, keepdims=True)
    for name, array in {"X": X, "T": T, "y": y, "S": S, "P": P}.items():
        np.save(name, array)
    np.savez("all.npz", X=X, T=T, y=y, S=S)
    np.savetxt("y.csv", y, fmt="%d", header="label", comments="")
    write_csv("T.csv", T)
    LinearStudent(epochs=2).fit(X, y, T).save("student.npz")
    return X, y, T
