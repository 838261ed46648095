"""The command line's results: JSON, arrays, tables, and atomic writing."""

import json
import math
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import polars
import pytest

from kdloss.cli.output import OURS, naming_out, new_file, new_folder, to_json, write_array


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_json_is_what_every_reader_takes():
    value = {"a": [1.0, math.nan], "b": (math.inf, -math.inf), "c": np.array([[1, 2]]), "d": None}
    value |= {"e": np.float64("nan"), "f": np.int64(3)}

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads(to_json(value), parse_constant=refuse)
    assert found == {
        "a": [1.0, None],
        "b": ["Infinity", "-Infinity"],
        "c": [[1, 2]],
        "d": None,
        "e": None,
        "f": 3,
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_text_keeps_every_bit(dtype):
    array = np.random.default_rng(0).random((20, 3)).astype(dtype)
    write_array(Path("P.csv"), array, names=("a", "b", "c"))
    found = np.loadtxt("P.csv", delimiter=",", dtype=dtype, skiprows=1)
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_a_table_has_names_and_ids(suffix):
    names, ids = ("a,b", 'the "other"'), ["x1", "x2"]
    write_array(Path("P" + suffix), np.eye(2), names=names, ids=ids, id_name="key")
    if suffix == ".parquet":
        found = polars.read_parquet("P.parquet")
        rows = found.rows()
    else:
        found = pandas.read_csv("P" + suffix, sep="," if suffix == ".csv" else "\t")
        rows = found.itertuples(index=False, name=None)
    assert list(found.columns) == ["key", *names]
    assert list(rows) == [("x1", 1, 0), ("x2", 0, 1)]


def test_classes_are_written_under_their_name():
    write_array(Path("c.csv"), np.array(["cat", "dog"]), names=("class",))
    assert Path("c.csv").read_text() == "class\ncat\ndog\n"
    write_array(Path("c.npy"), np.array(["cat", "dog"]), names=("class",))
    assert np.load("c.npy").tolist() == ["cat", "dog"]


def test_new_file_appears_at_the_end_with_the_usual_permissions():
    Path("usual.npy").touch()
    with new_file("P.npy", (".npy",)) as partial:
        np.save(partial, np.eye(2))
        assert not Path("P.npy").exists()
    assert sorted(os.listdir()) == ["P.npy", "usual.npy"]
    np.testing.assert_array_equal(np.load("P.npy"), np.eye(2))
    modes = [stat.S_IMODE(Path(name).stat().st_mode) for name in ("P.npy", "usual.npy")]
    assert modes[0] == modes[1]


def fail_half_way(place, write, error):
    with place as result:
        write(getattr(result, "partial", result))
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_new_file_keeps_the_old_one_after_a_failure(error):
    Path("P.npy").write_text("old")
    with pytest.raises(error):
        fail_half_way(new_file("P.npy", (".npy",)), lambda partial: partial.write_text("h"), error)
    assert os.listdir() == ["P.npy"]
    assert Path("P.npy").read_text() == "old"


def test_new_folder_appears_with_its_files():
    with new_folder("run", ("a", "b")) as folder:
        (folder.partial / "a").write_text("new")
    assert os.listdir() == ["run"]
    assert os.listdir("run") == ["a"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("earlier", [None, [], ["a", "b"]])
def test_new_folder_leaves_what_was_there_after_a_failure(error, earlier):
    if earlier is not None:
        Path("run").mkdir()
        for name in earlier:
            Path("run", name).write_text("old")
    place = new_folder("run", ("a", "b"))
    with pytest.raises(error):
        fail_half_way(place, lambda partial: (partial / "a").write_text("half"), error)
    assert Path("run").exists() == (earlier is not None)
    for name in earlier or []:
        assert Path("run", name).read_text() == "old"
    assert earlier is None or sorted(os.listdir("run")) == earlier


def test_new_folder_may_be_the_current_one():
    with new_folder(".", ("a",)) as folder:
        (folder.partial / "a").touch()
    assert os.listdir() == ["a"]


@pytest.mark.parametrize("name", ["/proc/P{}", "x" * 300 + "{}"])  # not writable
@pytest.mark.parametrize("place", ["file", "folder"])
def test_a_place_that_cannot_be_written_is_known_before_the_work(name, place):
    opened = {
        "file": new_file(name.format(".npy"), (".npy",)),
        "folder": new_folder(name.format("run"), ()),
    }
    with pytest.raises(ValueError, match=rf"--out {name[:6]}.*: cannot be written"):
        fail_half_way(opened[place], lambda partial: None, AssertionError("the work began"))


def test_what_is_published_stays_after_a_failure_and_an_earlier_runs_files_go():
    Path("run").mkdir()
    for name in "abc":
        Path("run", name).write_text("old")

    def publish():
        with new_folder("run", ("a", "b", "c")) as folder:
            (folder.partial / "a").write_text("new")
            folder.publish(kept=("b",))
            (folder.partial / "c").write_text("half")
            raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        publish()
    assert sorted(os.listdir("run")) == ["a", "b"]
    assert Path("run/a").read_text() == "new"


def dead_process():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


@pytest.mark.parametrize("place", ["file", "folder"])
def test_what_a_killed_process_left_is_removed_by_the_next(place):
    ours = OURS.rpartition("-")[0]
    Path("run").mkdir()
    parent = Path("." if place == "file" else "run")
    names = {
        "dead": f"{ours}-{dead_process()}",
        "alive": f"{ours}-{os.getppid()}",
        "elsewhere": ".kdloss-partial-another.machine-1",
    }
    for name in names.values():
        Path(parent, name).mkdir()
        Path(parent, name, "a").touch()
    Path(parent, names["dead"] + "-P.npy").touch()
    with new_file("P.npy", (".npy",)) if place == "file" else new_folder("run", ("a",)):
        pass
    left = {path.name for path in parent.glob(".kdloss-*")}
    assert left == {names["alive"], names["elsewhere"]}


def test_a_full_disk_names_the_file_and_what_it_needs():
    # A limit on file sizes simulates a full disk: NumPy reports both as missing items.
    code = (
        "import resource, numpy as np\n"
        "from kdloss.cli.output import naming_out\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "with naming_out('run', 'student.npz', 8_000_000): np.save('X.npy', np.zeros(1_000_000))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = result.stderr.splitlines()[-1]
    assert last.startswith("ValueError: --out run: student.npz: cannot be written: ")
    assert "needs about 8,000,000 bytes, and the disk has " in last


def test_an_error_of_the_system_keeps_its_reason():
    with (
        pytest.raises(ValueError, match=r"--out P.npy: cannot be written: No space left"),
        naming_out("P.npy"),
    ):
        raise OSError(28, "No space left on device")
