"""The promise on rows that break cheaper formulas, on every instruction set of this machine."""

import numpy as np
import pytest

import hard_rows
import kdloss
import reference
from errors import gradient_error, loss_error
from tolerances import PROMISE


@pytest.mark.parametrize("kind", list(hard_rows.KINDS), ids=lambda kind: kind.__name__)
def test_promise(kind, dtype):
    promise = PROMISE[dtype.name]
    found = hard_rows.errors(kind, dtype)
    assert not {part: worst for part, worst in found.items() if not worst[0] <= promise}


@pytest.mark.parametrize("isa", kdloss.show_config()["available_isas"])
def test_every_instruction_set(isa, child):
    code = "import hard_rows, json; print(json.dumps(hard_rows.worst()))"
    told = child(code, KDLOSS_ISA=isa)
    assert told["isa"] == isa
    assert not [x for x in told["worst"] if not x[2][0] <= PROMISE[x[1]]]


@pytest.mark.parametrize("classes", [10_000, 1_000_000])
def test_classes_that_agree_but_for_rounding(classes):
    """One class is the largest; relative to it all others have v near 1, where float32 is coarse.

    The others are of two kinds, thousands of units of rounding apart, each half a unit off a float.
    """
    unit = np.float32(2**-23)
    for apart in (16_000, 50_000):
        student, teacher = np.empty((2, 1, classes), np.float32)
        half = classes // 2
        teacher[0, :half] = -(2**-10) - 0.47 * unit
        teacher[0, half:] = -(2**-10) - 0.53 * unit
        student[0, :half] = 1 - 2**-10
        student[0, half:] = student[0, 0] + apart * unit
        student[0, 0] = teacher[0, 0] = 2
        exact = reference.soft_part(student[0], teacher[0], 1.0)
        found = kdloss.kd_loss_and_grad(student, teacher, None, alpha=0, tau=1.0, reduction="none")
        assert loss_error(found.loss, exact.loss, "float32") <= PROMISE["float32"]
        grad = exact.grad[None, :]
        assert gradient_error(found.grad_logits, grad, "float32") <= PROMISE["float32"]
