"""A row for each threshold of the kernels that fails if it is moved, on every instruction set."""

import pytest

import kdloss


@pytest.mark.parametrize("isa", kdloss.show_config()["available_isas"])
def test_promise(isa, child):
    code = "import json, thresholds_rows; print(json.dumps(thresholds_rows.broken()))"
    assert child(code, KDLOSS_ISA=isa) == {}
