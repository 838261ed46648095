"""Reading tables: headers, names, ids, text, missing cells, and all refusals."""

import argparse
import gzip
import io
import re
import sys
from pathlib import Path

import numpy as np
import pandas
import polars
import pytest

from kdloss.cli import reading
from kdloss.cli.reading import Reader


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def reader(*flags):
    parser = argparse.ArgumentParser()
    reading.add_flags(parser)
    return Reader(parser.parse_args(flags))


def matrix(file, *flags):
    return reader(*flags).matrix(str(file), "--features")


def text(content, file="X.csv"):
    Path(file).write_bytes(content.encode())
    return file


def values(table):
    return np.asarray(table).tolist()


@pytest.mark.parametrize(
    ("content", "flags"),
    [
        ("1,2\n3,4\n", ["--no-header"]),
        ("1,2\n3,4", ["--no-header"]),
        ("\ufeff1,2\n3,4\n", ["--no-header"]),
        (" 1, 2\n3, 4.0\n", ["--no-header"]),
        ("1;2\n3;4\n", ["--no-header", "--delimiter", ";"]),
        ('"1","2"\n"3","4"\n', ["--no-header"]),
        ("a,b\n1,2\n3,4\n", []),
        ("a,b\n1,2\n3,4\n", ["--header"]),
        ("# a,b\n1,2\n3,4\n", []),
        ("\ufeffa,b\r\n1,2\r\n3,4\r\n", []),
        ('a,"b"\n1,2\n3,4\n', []),
        ("a\tb\n1\t2\n3\t4\n", ["--delimiter", "\t"]),
        ("0,1\n1,2\n3,4\n", ["--header"]),
    ],
)
def test_text(content, flags):
    found = matrix(text(content), *flags)
    assert values(found) == [[1, 2], [3, 4]]
    assert hasattr(found, "columns") == ("--no-header" not in flags)


def test_names_are_kept():
    assert matrix(text('a,"b, c"\n1,2\n')).columns == ["a", "b, c"]
    assert matrix(text("0,1\n5,2\n"), "--header").columns == ["0", "1"]


@pytest.mark.parametrize("name", ["X.tsv", "X.csv.gz", "X.tsv.gz", "X.parquet"])
def test_other_formats(name):
    frame = polars.DataFrame({"a": [1.0, 3.0], "b": [2, 4]})
    if name == "X.parquet":
        frame.write_parquet(name)
    else:
        content = frame.write_csv(separator="\t" if ".tsv" in name else ",").encode()
        Path(name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    found = matrix(name)
    assert found.columns == ["a", "b"]
    assert values(found) == [[1, 2], [3, 4]]


def test_single_precision_of_parquet_is_kept():
    polars.DataFrame({"a": [0.5]}, schema={"a": polars.Float32}).write_parquet("X.parquet")
    assert np.asarray(matrix("X.parquet")).dtype == np.float32


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "npy"])
def test_standard_input(kind, monkeypatch):
    frame, raw = polars.DataFrame({"a": [1.0, 3.0], "b": [2.0, 4.0]}), io.BytesIO()
    if kind == "npy":
        np.save(raw, frame.to_numpy())
    elif kind == "parquet":
        frame.write_parquet(raw)
    else:
        frame.write_csv(raw, separator="," if kind == "csv" else "\t")
    raw.seek(0)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw))
    source = reader("--stdin-format", kind)
    assert values(source.matrix("-", "--features")) == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match=r"--labels -: cannot be read: .* was already read"):
        source.labels("-", "--labels")


def test_a_float_is_read_to_the_nearest_double():
    rng = np.random.default_rng(0)
    array = rng.integers(0, 2**63, 20_000).view(np.float64)
    array = array[np.isfinite(array)]
    np.savetxt("X.csv", array, fmt="%.17g", header="x", comments="")
    np.testing.assert_array_equal(matrix("X.csv").to_numpy()[:, 0], array)


def test_a_npy_file_is_memory_mapped():
    np.save("X.npy", np.arange(6.0).reshape(3, 2))
    array = matrix("X.npy")
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable


def test_one_column_or_one_row_keeps_its_shape():
    assert matrix(text("\ufeff1\n2\n3\n"), "--no-header").shape == (3, 1)
    assert matrix(text("1,2,3\n"), "--no-header").shape == (1, 3)


def test_empty_lines_at_the_end_are_told():
    with pytest.warns(UserWarning, match=r"--features X.csv: 2 empty lines at the end"):
        assert values(matrix(text("a,b\n1,2\n3,4\n\n\n"))) == [[1, 2], [3, 4]]


def test_a_missing_cell_is_nan():
    found = matrix(text("a,b\n1,\nnan,4\n"))
    np.testing.assert_array_equal(found.to_numpy(), [[1, np.nan], [np.nan, 4]])


@pytest.mark.parametrize(
    ("content", "flags", "problem"),
    [
        # The first line
        ("0,1,2\n5,6,7\n", [], r"only numbers \(0, 1, 2\): give --header if .* --no-header if"),
        ("id,7\n1,2\n", [], r"also numbers \(id, 7\): give --header .* --no-header"),
        ("", [], "it is empty"),
        ("\na,b\n1,2\n", [], "its first line is empty"),
        ("a,b\n", [], "it has column names but no rows"),
        ("a,b\n1,2,3\n", [], "it has 2 column names, but its first row has 3 cells"),
        ("a,a\n1,2\n", [], "two of its columns have the name 'a'"),
        ("a,,\n1,2,3\n", [], "two of its columns have no name"),
        # Columns that may be an index
        (",a,b\n7,1,2\n", [], "its first column has no name, .*--drop-columns '' .*--id-column ''"),
        ("Unnamed: 0,a\n7,2\n", [], "its first column has the name 'Unnamed: 0'"),
        ("row,a\n0,5\n1,2\n2,2\n", [], r"column 'row', the first, counts .*--drop-columns 'row'"),
        ("row,a\n1,5\n2,2\n3,2\n", [], "column 'row', the first, counts its rows"),
        ("0,5\n1,2\n2,2\n", ["--no-header"], "column 0, the first, counts .*--index-is-feature"),
        # Cells
        ("a,b\n1,2\n3,four\n", [], r"column 'b' holds 'four' in row 1 \(from 0\), expected numb"),
        (
            "a,b\n1,x\n",
            [],
            "encode it as numbers, .* --drop-columns 'b', or say .*--id-column",
        ),
        ("1,2\n3,four\n", ["--no-header"], "column 1 holds 'four' in row 1"),
        ("a;b\n1;2\n", [], "column 'a;b' holds '1;2' in row 0 .* give it as --delimiter"),
        ("a,b\n1,2\n3,4,5\n", [], "a line has more cells than the first line, expected 2"),
        ("a,b\n1,2\n\n3,4\n", [], r"row 1 \(from 0\) is empty"),
        ("a,b\n,\n,\n", [], "it holds no values"),
        ('a,b\n"1,2\n3,4\n', [], "cannot be read"),
        # Flags
        ("a,b\n1,2\n", ["--drop-columns", "c"], "--drop-columns is 'c', expected columns"),
        ("a,b\n1,2\n", ["--drop-columns", "a,b"], "no column is left"),
        ("a,b\n1,2\n", ["--id-column", "c"], "--id-column is 'c', expected one of .*: 'a', 'b'"),
        ("a,b\n1,2\n1,3\n", ["--id-column", "a"], "id '1' occurs twice, again in row 1"),
        ("a,b\n1,2\n,3\n", ["--id-column", "a"], "column 'a' has no id in row 1"),
        ("a,b\n1,2\n", ["--delimiter", ";;"], "--delimiter is ';;', expected one character"),
    ],
)
def test_refuses(content, flags, problem):
    text(content)

    def read():
        source = reader(*flags)
        source.matrix("X.csv", "--features")
        source.finish()

    with pytest.raises(ValueError, match=problem):
        read()


def test_standard_input_needs_its_format():
    with pytest.raises(ValueError, match=r"--features -: .* needs a format, .*--stdin-format"):
        matrix("-")


def test_dates_are_no_numbers():
    polars.DataFrame({"day": ["2020-01-01"]}).with_columns(
        polars.col("day").str.to_date()
    ).write_parquet("X.parquet")
    with pytest.raises(ValueError, match="column 'day' has type Date, expected numbers"):
        matrix("X.parquet")


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("names", [[0, 1, 2], ["a", "b", "c"]])
def test_what_pandas_writes_is_read_right_or_refused(index, names):
    frame = pandas.DataFrame(np.arange(10, 25.0).reshape(5, 3), columns=names)
    frame.to_csv("X.csv", index=index)
    if index or names[0] == 0:
        with pytest.raises(ValueError, match=r"--header|--drop-columns"):
            matrix("X.csv")
    found = matrix("X.csv", "--header", *(["--drop-columns", ""] if index else []))
    np.testing.assert_array_equal(found.to_numpy(), frame.to_numpy())
    assert found.columns == [str(name) for name in names]


def test_an_index_may_be_a_feature():
    assert matrix(text("t,a\n0,5\n1,2\n2,2\n"), "--index-is-feature").shape == (3, 2)
    source = reader()
    assert source.features(text(",a\n7,5\n"), labels_elsewhere=True, known=("", "a"))[0].shape[1]


# Labels


@pytest.mark.parametrize(
    ("content", "expected", "kind"),
    [
        ("label\n0\n-1\n2\n", [0, -1, 2], "i"),
        ("label\n0.0\n-1\n2\n", [0, -1, 2], "i"),
        ('label\ncat\ndog\n""\n', ["cat", "dog", ""], "U"),
        ("label\ntrue\nfalse\ntrue\n", ["true", "false", "true"], "U"),
        ("label\n007\n010\n7\n", ["007", "010", "7"], "U"),
    ],
)
def test_labels(content, expected, kind):
    np.save("X.npy", np.zeros((3, 2)))
    source = reader()
    source.matrix("X.npy", "--features")
    labels = source.labels(text(content, "y.csv"), "--labels")
    assert labels.tolist() == expected
    assert labels.dtype.kind == kind


def test_labels_of_parquet():
    frame = polars.DataFrame({"a": ["x", "y"], "b": [3, 4]})
    frame.with_columns(polars.col("a").cast(polars.Categorical)).write_parquet("y.parquet")
    assert reader("--label-column", "a").labels("y.parquet", "--labels").tolist() == ["x", "y"]
    assert reader("--label-column", "b").labels("y.parquet", "--labels").tolist() == [3, 4]


def test_soft_labels_keep_their_names():
    labels = reader().labels(text("cat,dog\n0.25,0.75\n0,1\n", "y.csv"), "--labels")
    assert labels.columns == ["cat", "dog"]
    assert values(labels) == [[0.25, 0.75], [0, 1]]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("label\n0\n0.5\n", "row 1 holds 0.5, expected an integer"),
        ("label\n0\nnan\n", "row 1 holds nan, expected an integer"),
        ('label\n0\n""\n', r"row 1 \(from 0\) has no label, expected .* -1"),
        ("a,b\nx,1\ny,2\n", "column 'a' holds 'x' .* expected soft labels.* --label-column with"),
        ("row,label\n0,1\n1,1\n2,0\n", "column 'row', the first, counts its rows"),
        (",label\n8,1\n9,1\n", "its first column has no name"),
    ],
)
def test_labels_are_refused(content, problem):
    with pytest.raises(ValueError, match=f"--labels y.csv: {problem}"):
        reader().labels(text(content, "y.csv"), "--labels")


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
def test_the_first_label_that_is_no_integer_is_named(value):
    np.save("y.npy", [0, 1, value, value])
    with pytest.raises(ValueError, match=f"--labels y.npy: row 2 holds {value}, expected an integ"):
        reader().labels("y.npy", "--labels")


def test_names_in_a_npy_file():
    np.save("y.npy", ["cat", "dog"])
    assert reader().labels("y.npy", "--labels").tolist() == ["cat", "dog"]


def test_a_label_column_is_no_feature():
    text("a,label,b\n1,x,2\n3,y,4\n")
    features, labels = reader("--label-column", "label").features("X.csv", labels_elsewhere=False)
    assert features.columns == ["a", "b"]
    assert labels.tolist() == ["x", "y"]
    source = reader("--label-column", "label")
    features, labels = source.features("X.csv", labels_elsewhere=True)
    assert features.columns == ["a", "b"]
    assert labels is None
    assert source.labels("X.csv", "--labels").tolist() == ["x", "y"]


def test_a_label_column_needs_a_table_that_has_it():
    np.save("X.npy", np.zeros((3, 2)))
    with pytest.raises(ValueError, match="is an array, expected a table for --label-column"):
        reader("--label-column", "label").features("X.npy", labels_elsewhere=False)
    with pytest.raises(ValueError, match=r"--label-column is 'label', expected .*: 'a'"):
        reader("--label-column", "label").features(text("a\n1.5\n"), labels_elsewhere=False)


# Ids


def test_rows_are_matched_by_their_ids():
    source = reader("--id-column", "id")
    features = source.matrix(text("id,a\n007,1\nx,2\n7,3\n"), "--features")
    labels = source.labels(text("id,label\n7,2\n007,0\nx,1\n", "y.csv"), "--labels")
    teacher = source.matrix(text("p,q,id\n2,3,x\n0,1,007\n4,5,7\n", "T.csv"), "--teacher-logits")
    weight = source.column(text("w,id\n.5,7\n.25,007\n1,x\n", "w.csv"), "--sample-weight")
    assert values(features) == [[1], [2], [3]]
    assert labels.tolist() == [0, 1, 2]
    assert values(teacher) == [[0, 1], [2, 3], [4, 5]]
    assert weight.tolist() == [0.25, 1, 0.5]
    assert list(source.ids) == ["007", "x", "7"]


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        ("id,label\na,1\n", r"--labels y.csv lacks 1 of the ids of --features X.csv, .*: 'b'"),
        (
            "id,label\na,1\nb,1\nc,1\n",
            r"--features X.csv lacks 1 of the ids of --labels y.csv, .*: 'c'",
        ),
        ("id,label\na,1\na,2\n", "--labels y.csv: id 'a' occurs twice"),
    ],
)
def test_ids_that_do_not_match_are_named(other, problem):
    source = reader("--id-column", "id")
    source.matrix(text("id,f\na,1\nb,2\n"), "--features")
    with pytest.raises(ValueError, match=problem):
        source.labels(text(other, "y.csv"), "--labels")


def test_ids_need_tables():
    np.save("T.npy", np.zeros((2, 2)))
    source = reader("--id-column", "id")
    source.matrix(text("id,f\na,1\nb,2\n"), "--features")
    with pytest.raises(ValueError, match=r"--teacher-logits T.npy is an array, .*--id-column"):
        source.matrix("T.npy", "--teacher-logits")


def test_numbers_of_rows_are_compared():
    source = reader()
    source.matrix(text("a,b\n5,1\n6,2\n"), "--features")
    message = re.escape("--labels y.csv has shape (1,), expected 2 rows, as --features X.csv has")
    with pytest.raises(ValueError, match=message):
        source.labels(text("y\n1\n", "y.csv"), "--labels")


def test_polars_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'kdloss[tables]'")):
        matrix(text("a\n1\n"))
