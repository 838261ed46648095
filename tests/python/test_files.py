"""The command line's files: CSV in its varieties, JSON, results that are whole or absent."""

import json
import math
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from kdloss.cli.files import (
    new_file,
    new_folder,
    read_labels,
    read_matrix,
    to_json,
    write_array,
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_npy_file_is_memory_mapped():
    np.save("X.npy", np.arange(6.0).reshape(3, 2))
    array = read_matrix("X.npy", "--features")
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable


@pytest.mark.parametrize(
    "text",
    [
        "1,2\n3,4\n",
        "1,2\n3,4",
        "a,b\n1,2\n3,4\n",
        "# a,b\n1,2\n3,4\n",
        "\ufeff1,2\n3,4\n",
        "\ufeffa,b\r\n1,2\r\n3,4\r\n",
        " 1, 2\n3, 4.0\n\n",
    ],
)
def test_csv(text):
    Path("X.csv").write_bytes(text.encode())
    np.testing.assert_array_equal(read_matrix("X.csv", "--features"), [[1, 2], [3, 4]])


def test_csv_of_one_column_or_one_row_keeps_its_shape():
    Path("column.csv").write_text("\ufeff1\n2\n3\n", encoding="utf-8")
    Path("row.csv").write_text("1,2,3\n")
    assert read_matrix("column.csv", "--features").shape == (3, 1)
    assert read_matrix("row.csv", "--features").shape == (1, 3)


def test_csv_with_a_number_in_its_first_line_has_no_header():
    Path("X.csv").write_text("id,7\n1,2\n")
    with pytest.raises(ValueError, match="id"):
        read_matrix("X.csv", "--features")


def test_labels_of_a_csv_are_integers():
    Path("y.csv").write_text("label\n0\n-1\n2\n")
    labels = read_labels("y.csv", "--labels", ("X", np.zeros((3, 2))))
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, -1, 2]


@pytest.mark.parametrize("value", [0.5, math.nan, math.inf])
def test_the_first_label_that_is_no_integer_is_named(value):
    np.save("y.npy", [0, 1, value, value])
    with pytest.raises(ValueError, match=f"--labels y.npy: row 2 holds {value}, expected an integ"):
        read_labels("y.npy", "--labels", ("X", np.zeros((4, 2))))


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
def test_csv_keeps_every_bit(dtype):
    array = np.random.default_rng(0).random((20, 3)).astype(dtype)
    write_array(Path("P.csv"), array)
    np.testing.assert_array_equal(np.loadtxt("P.csv", delimiter=",", dtype=dtype), array)


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
    with place as partial:
        write(partial)
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_new_file_keeps_the_old_one_after_a_failure(error):
    Path("P.npy").write_text("old")
    with pytest.raises(error):
        fail_half_way(new_file("P.npy", (".npy",)), lambda partial: partial.write_text("h"), error)
    assert os.listdir() == ["P.npy"]
    assert Path("P.npy").read_text() == "old"


def test_new_folder_appears_with_its_files():
    with new_folder("run", ("a", "b")) as partial:
        (partial / "a").write_text("new")
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
    with new_folder(".", ("a",)) as partial:
        (partial / "a").touch()
    assert os.listdir() == ["a"]


@pytest.mark.parametrize("name", ["/proc/P{}", "x" * 300 + "{}"])  # where nobody can write
@pytest.mark.parametrize("place", ["file", "folder"])
def test_a_place_that_cannot_be_written_is_known_before_the_work(name, place):
    opened = {
        "file": new_file(name.format(".npy"), (".npy",)),
        "folder": new_folder(name.format("run"), ()),
    }
    with pytest.raises(ValueError, match=rf"--out {name[:6]}.*: cannot be written"):
        fail_half_way(opened[place], lambda partial: None, AssertionError("the work began"))


def test_new_folder_ignores_what_a_killed_process_left():
    with new_folder("run", ("a",)) as partial:
        (partial / "a").touch()
    Path("run", partial.name + "0").mkdir()
    with new_folder("run", ("a",)) as partial:
        (partial / "a").write_text("new")
    assert Path("run/a").read_text() == "new"
