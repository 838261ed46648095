"""The promise on the golden cases: every part, layout and instruction set of this machine."""

import numpy as np
import pytest

import golden
import kdloss
from reference import exact_row
from tolerances import EXACT, PROMISE

ISAS = kdloss.show_config()["available_isas"]
FUSED = [isa for isa in ISAS if isa != "baseline"]


@pytest.mark.parametrize("place", [np.ascontiguousarray, np.asfortranarray], ids=["C", "F"])
@pytest.mark.parametrize("case", golden.CASES, ids=lambda case: case.name)
def test_promise(case, place):
    promise = PROMISE[case.student.dtype.name]
    broken = {name: e for name, e in golden.errors(case, place).items() if not e <= promise}
    assert not broken


@pytest.mark.parametrize("case", golden.CASES, ids=lambda case: case.name)
def test_sum_and_mean(case):
    arguments = case.student, case.teacher, case.labels
    exact = np.sum(0.3 * case.hard + 0.7 * case.soft)
    promise = PROMISE[case.student.dtype.name]
    for reduction, divisor in (("sum", 1), ("mean", len(case.labels))):
        loss = kdloss.kd_loss_batch(*arguments, alpha=0.3, tau=case.tau, reduction=reduction)
        assert type(loss) is float
        assert loss == pytest.approx(exact / divisor, rel=promise, abs=0)


@pytest.fixture(scope="module")
def told(child):
    """The reports of a child process for each instruction set."""
    code = "import golden, json; print(json.dumps(golden.worst()))"
    return {isa: child(code, KDLOSS_ISA=isa) for isa in ISAS}


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set(isa, told):
    assert told[isa]["isa"] == isa
    for name, error in told[isa]["worst"].items():
        assert error <= PROMISE[name]


def test_forced_instruction_set_is_the_one_that_ran(told):
    """Without fused multiply-adds the bits differ; with them they are the same everywhere."""
    digests = {isa: told[isa]["digest"] for isa in ISAS}
    assert len({digests[isa] for isa in FUSED}) <= 1
    if "baseline" in digests:
        assert digests["baseline"] not in {digests[isa] for isa in FUSED}


HARD_CASES = [case for case in golden.CASES if case.grad_hard is not None]


@pytest.mark.parametrize(
    "case", [case for case in HARD_CASES if case.student.size < 60], ids=lambda case: case.name
)
def test_exact_row_agrees_with_the_golden_numbers(case):
    for i, label in enumerate(case.labels):
        row = exact_row(case.student[i], case.teacher[i], label, case.tau)
        assert row.hard == pytest.approx(case.hard[i], rel=EXACT, abs=0)
        assert row.soft == pytest.approx(case.soft[i], rel=EXACT, abs=0)
        for ours, theirs in (row.grad_hard, case.grad_hard[i]), (row.grad_soft, case.grad_soft[i]):
            assert np.abs(ours - theirs).max() <= EXACT * np.abs(theirs).max()
