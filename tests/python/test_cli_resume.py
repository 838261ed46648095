"""Stopped trainings: the files and the message that `train` leaves, and --resume."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from command_line import (
    EXTRAS,
    PREDICT,
    TRAIN,
    TUNE,
    plain,
    refuses,
    set_flags,
    tree,
    write_task,
)
from kdloss.cli import checkpoints
from kdloss.cli.output import new_folder
from kdloss.trainer import LinearStudent

LONG = (*TRAIN, "--epochs", "1000000")


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_task()


def stopped(arguments, number, when):
    """Start the command line, send a signal at a line with this beginning; return the result."""
    # Background jobs of a shell, and their children, ignore Ctrl-C.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    hide = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS!r}))"
    code = [sys.executable, "-c", f"{hide}; from kdloss.cli import main; sys.exit(main())"]
    with subprocess.Popen(
        [*code, *arguments], stderr=subprocess.PIPE, text=True, preexec_fn=heed
    ) as process:
        for line in process.stderr:
            if line.startswith(when):
                break
        process.send_signal(number)
        last = [line, *process.stderr][-1]
    return process.returncode, last.rstrip("\n")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_stopped_run_leaves_its_last_epoch_and_says_how_to_continue(number, status):
    np.save("X.npy", np.load("X.npy"))
    arguments = set_flags(LONG, epochs="200000")
    code, last = stopped(arguments, number, "epoch 20000/")
    assert code == status
    student = LinearStudent.load("run/student.npz")
    done = len(student.history)
    assert last == (
        f"kdloss: interrupted: run/student.npz is the student after epoch {done} of 200000; "
        "the same command with --resume continues"
    )
    assert 20000 <= done < 200000
    files = ["best.npz", "history.json", "settings.json", "student.npz"]
    assert sorted(os.listdir("run")) == files
    assert json.loads(Path("run/history.json").read_text()) == student.history
    plain(*set_flags(PREDICT, student="run"))


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_other_commands_leave_nothing_when_they_are_stopped(number, status):
    before = tree()
    arguments = set_flags(TUNE, epochs="20000")
    assert stopped(arguments, number, "kdloss: rows") == (status, "kdloss: interrupted")
    assert tree() == before


def test_a_stop_before_the_first_epoch_leaves_an_earlier_run_alone(data):
    plain(*TRAIN)
    before = tree()
    X, y, T = data
    np.save("X.npy", np.repeat(X, 20000, axis=0))
    np.save("y.npy", np.repeat(y, 20000))
    np.save("T.npy", np.repeat(T, 20000, axis=0))
    changed = tree().keys() - {Path("X.npy"), Path("y.npy"), Path("T.npy")}
    code, last = stopped((*LONG, "--batch-size", "1"), signal.SIGTERM, "kdloss: rows")
    assert (code, last) == (143, "kdloss: interrupted")
    after = tree()
    assert {path: after[path] for path in changed} == {path: before[path] for path in changed}


def test_a_resumed_run_is_the_run_without_a_stop():
    plain(*TRAIN, "--epochs", 6, "--out", "whole")
    plain(*TRAIN)
    result = plain(*TRAIN, "--epochs", 6, "--resume")
    assert [line for line in result.stderr.splitlines() if line.startswith("epoch")] == [
        "epoch 4/6",
        "epoch 5/6",
        "epoch 6/6",
    ]
    for name in ("student.npz", "best.npz"):
        found, expected = (LinearStudent.load(f"{run}/{name}") for run in ("run", "whole"))
        np.testing.assert_array_equal(found.weights, expected.weights)
        assert found.history == expected.history
    for name in ("settings.json", "history.json"):
        assert Path("run", name).read_bytes() == Path("whole", name).read_bytes()


def test_resume_keeps_the_best_of_the_epochs_behind():
    # A learning rate that is too large: the first epochs are the best.
    arguments = (*TRAIN, "--learning-rate", 9)
    plain(*arguments, "--epochs", 10)
    best = Path("run/best.npz").read_bytes()
    epoch = LinearStudent.load("run/student.npz").history[-1]["best_epoch"]
    assert epoch < 10
    assert len(LinearStudent.load("run/best.npz").history) == epoch
    out = plain(*arguments, "--epochs", 11, "--resume").stdout
    assert LinearStudent.load("run/student.npz").history[-1]["best_epoch"] == epoch
    assert Path("run/best.npz").read_bytes() == best
    assert f"run/best.npz: the student of epoch {epoch}, which has the lowest validation" in out


@pytest.mark.parametrize("flags", [("--patience", "2"), ("--validation", "0")])
def test_there_is_no_best_student_beside_patience_or_without_validation(flags):
    plain(*TRAIN)
    plain(*TRAIN, *flags)
    assert not Path("run/best.npz").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": "other"}, "--resume: --out other: no run to continue: cannot be read: No such"),
        ({"epochs": "2"}, "--resume: --out run has finished 3 epochs, and --epochs is 2"),
        ({"epochs": "3"}, "has finished 3 epochs, and --epochs is 3; expected a larger --epochs"),
        ({"l2": "0.1"}, r"--resume: --out run was made with l2 0.0 \(settings\), not 0.1"),
        ({"teacher_logits": "S.npy"}, r"was made with teacher_logits T.npy \(files\), not S.npy"),
        ({"sample_weight": "w.npy"}, r"was made with sample_weight None \(files\), not w.npy"),
    ],
)
def test_resume_refuses_other_settings_and_files(changes, message):
    np.save("w.npy", np.ones(60))
    plain(*TRAIN)
    refuses([*set_flags(TRAIN, **{"epochs": "6"} | changes), "--resume"], message)


def test_resume_refuses_other_rows():
    plain(*TRAIN)
    for name in ("X", "y", "T"):
        np.save(name, np.load(f"{name}.npy")[:-1])
    arguments = [*set_flags(TRAIN, epochs="6"), "--resume"]
    refuses(arguments, r"was made with features \[60, 4\] \(shapes\), not \[59, 4\]")


def test_checkpoints_are_written_by_finished_epochs(data, monkeypatch):
    X, y, T = data
    monkeypatch.setattr(checkpoints, "SECONDS", 0)
    student = LinearStudent(epochs=3)
    found = []
    with new_folder("run", checkpoints.FILES) as folder:
        kept = checkpoints.Checkpoints(folder, student, {}, resumed=False)

        def progress(record):
            kept.add(record)
            found.append(len(LinearStudent.load("run/student.npz").history))

        student.fit(X, y, T, validation=0.2, progress=progress)
    assert found == [1, 2, 3]


def test_checkpoints_are_not_written_more_often_than_that(data, monkeypatch):
    X, y, T = data
    monkeypatch.setattr(checkpoints, "SECONDS", 1e9)
    student = LinearStudent(epochs=3)
    with new_folder("run", checkpoints.FILES) as folder:
        kept = checkpoints.Checkpoints(folder, student, {}, resumed=False)
        student.fit(X, y, T, validation=0.2, progress=kept.add)
        assert not Path("run/student.npz").exists()


def test_a_killed_run_can_be_continued(monkeypatch):
    arguments = set_flags(LONG, epochs="1000000")
    code = "from kdloss.cli import checkpoints, main; checkpoints.SECONDS = 0.05; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stderr=subprocess.DEVNULL
    ) as process:
        while not Path("run/student.npz").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert len(list(Path("run").glob(".kdloss-partial-*"))) == 1
    done = len(LinearStudent.load("run/student.npz").history)
    plain(*set_flags(TRAIN, epochs=done + 2), "--resume")
    assert len(LinearStudent.load("run/student.npz").history) == done + 2
    assert not list(Path("run").glob(".kdloss-partial-*"))


def test_a_divergence_keeps_the_epochs_before(monkeypatch):
    def fit(self, *arguments, progress, **options):
        original(self, *arguments, progress=progress, **options)
        raise FloatingPointError("the loss is not finite")

    original = LinearStudent.fit
    monkeypatch.setattr(LinearStudent, "fit", fit)
    from kdloss.cli import main

    assert main([*map(str, TRAIN)]) == 2
    assert len(LinearStudent.load("run/student.npz").history) == 3


@pytest.mark.parametrize("arguments", [TRAIN, PREDICT], ids=["train", "predict"])
def test_a_full_disk_names_the_file_and_what_it_needs(arguments):
    np.save("X.npy", np.zeros((60, 3000)))
    student = LinearStudent(epochs=1, alpha=0).fit(np.load("X.npy"), None, np.load("T.npy"))
    student.save("student.npz")
    limit = 100_000 if arguments is TRAIN else 1000
    code = (
        "import resource, sys; from kdloss.cli import main; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); sys.exit(main())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True
    )
    assert result.returncode == 2
    name, size = ("best.npz", "216,072") if arguments is TRAIN else ("", "1,440")
    last = result.stderr.splitlines()[-1]
    out = "run" if arguments is TRAIN else "out.npy"
    assert last.startswith(f"kdloss: error: --out {out}: {name}")
    assert "cannot be written: " in last
    assert f"it needs about {size} bytes, and the disk has " in last
    assert not list(Path().rglob(".kdloss-partial-*"))
