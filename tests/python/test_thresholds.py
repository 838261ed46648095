"""Rows that each limit of the plain path protects, on every instruction set."""

import re
from pathlib import Path

import pytest

import kdloss
from thresholds_rows import GUARDS

TABLE = Path(__file__).parents[2] / "cpp/src/kernels/loss/thresholds.hpp"
NO_LIMIT = ("0", "__builtin_inf()")


@pytest.mark.parametrize("isa", kdloss.show_config()["available_isas"])
def test_promise(isa, child):
    code = "import json, thresholds_rows; print(json.dumps(thresholds_rows.broken()))"
    assert child(code, KDLOSS_ISA=isa) == []


def test_each_limit_has_a_guard():
    """A limit of one type has a row of that type; one of both types has a row of float32."""
    text = TABLE.read_text()
    limits = {(name, "float32") for name in re.findall(r"\nconstexpr double (k\w+)", text)}
    for dtype, name in (("float32", "float"), ("float64", "double")):
        block = text.partition(f"struct Threshold<{name}> {{")[2].partition("\n};")[0]
        entries = re.findall(r"(k\w+) = ([^;]+);", block)
        assert entries
        limits |= {(entry, dtype) for entry, value in entries if value not in NO_LIMIT}
    assert limits == {(guard.threshold, guard.dtype) for guard in GUARDS}
