"""Every bad option: the error and its message, and that nothing was written."""

import numpy as np
import pytest

import kdloss

ROWS, CLASSES = 8, 10
WEIGHT = "expected a finite number >= 0"
POSITIVE = "expected a finite number > 0"
INVERTIBLE = f"{POSITIVE} with a finite inverse"
SHARE = "expected a number in [0, 1]"
SUM = "expected probabilities that sum to 1 within 0.001 (or all zeros: unlabelled)"
SUM_ALONE = (
    "expected probabilities that sum to 1 within 0.001; "
    "without a teacher an unlabelled row has no loss"
)
INF, NAN = np.inf, np.nan


def good(dtype=np.float32):
    """Valid arguments."""
    logits = np.arange(ROWS * CLASSES, dtype=dtype).reshape(ROWS, CLASSES)
    return {"student_logits": logits % 5, "teacher": logits % 7, "labels": np.arange(ROWS)}


def ones(count, **values):
    """Ones with exceptions: ones(8, at3=5) has 5 at index 3."""
    array = np.ones(count)
    for place, value in values.items():
        array[int(place.removeprefix("at"))] = value
    return array


def soft(dtype=np.float64, rows=ROWS, classes=CLASSES, **values):
    """Soft labels with two classes per row, and exceptions: at3_2 is row 3, class 2."""
    array = np.zeros((rows, classes), dtype)
    array[:, :2] = 0.5
    for place, value in values.items():
        array[tuple(map(int, place.removeprefix("at").split("_")))] = value
    return array


# name of the case: the arguments that are bad, the message of its ValueError
BAD = (
    {
        # ---- one of each row
        "alpha of a row above 1": ({"alpha": ones(8, at3=1.5)}, f"alpha[3] is 1.5, {SHARE}"),
        "alpha of a row below 0": ({"alpha": ones(8, at0=-0.25)}, f"alpha[0] is -0.25, {SHARE}"),
        "alpha of a row nan": ({"alpha": ones(8, at7=NAN)}, f"alpha[7] is nan, {SHARE}"),
        "two bad rows": ({"alpha": ones(8, at4=2, at6=3)}, f"alpha[4] is 2, {SHARE}"),
        "alpha for other rows": (
            {"alpha": np.ones(5)},
            "alpha has shape (5,), expected a number or (8,), one for each row of logits",
        ),
        "alpha of two axes": (
            {"alpha": np.ones((8, 1))},
            "alpha has shape (8, 1), expected a number or (8,), one for each row of logits",
        ),
        "tau of a row 0": ({"tau": ones(8, at3=0)}, f"tau[3] is 0, {POSITIVE}"),
        "tau of a row below 0": ({"tau": ones(8, at3=-2)}, f"tau[3] is -2, {POSITIVE}"),
        "tau of a row inf": ({"tau": ones(8, at3=INF)}, f"tau[3] is inf, {POSITIVE}"),
        "tau of a row nan": ({"tau": ones(8, at3=NAN)}, f"tau[3] is nan, {POSITIVE}"),
        "tau for other rows": (
            {"tau": np.ones(10)},
            "tau has shape (10,), expected a number or (8,), one for each row of logits",
        ),
        # ---- numbers
        "alpha above 1": ({"alpha": 1.5}, f"alpha is 1.5, {SHARE}"),
        "tau 0": ({"tau": 0}, f"tau is 0, {POSITIVE}"),
        "smoothing above 1": ({"label_smoothing": 1.5}, f"label_smoothing is 1.5, {SHARE}"),
        "smoothing below 0": ({"label_smoothing": -0.5}, f"label_smoothing is -0.5, {SHARE}"),
        "smoothing nan": ({"label_smoothing": NAN}, f"label_smoothing is nan, {SHARE}"),
        "normalizer 0": ({"normalizer": 0}, f"normalizer is 0, {INVERTIBLE}"),
        "normalizer below 0": ({"normalizer": -3.0}, f"normalizer is -3, {INVERTIBLE}"),
        "normalizer inf": ({"normalizer": INF}, f"normalizer is inf, {INVERTIBLE}"),
        "normalizer denormal": ({"normalizer": 1e-310}, f"normalizer is 1e-310, {INVERTIBLE}"),
        "normalizer nan": ({"normalizer": NAN}, f"normalizer is nan, {INVERTIBLE}"),
        "normalizer of a sum": (
            {"normalizer": 8, "reduction": "sum"},
            "normalizer is given with reduction 'sum', expected it with 'mean' alone",
        ),
        "normalizer of rows": (
            {"normalizer": 8, "reduction": "none"},
            "normalizer is given with reduction 'none', expected it with 'mean' alone",
        ),
        # ---- weights
        "weights for other rows": (
            {"sample_weight": np.ones(5)},
            "sample_weight has shape (5,), expected (8,), one weight for each row of logits",
        ),
        "one weight": (
            {"sample_weight": 2.0},
            "sample_weight has shape (), expected (8,), one weight for each row of logits",
        ),
        "weights for other classes": (
            {"class_weight": np.ones(5)},
            "class_weight has shape (5,), expected (10,), one weight for each class",
        ),
    }
    | {
        f"{name} {value}": (
            {name: ones(count, **{f"at{place}": value})},
            f"{name}[{place}] is {value}, {WEIGHT}",
        )
        for name, count, place in (("sample_weight", ROWS, 3), ("class_weight", CLASSES, 2))
        for value in (-1, INF, NAN)
    }
    | {
        # ---- soft labels
        "probabilities for other classes": (
            {"labels": soft(classes=5)},
            "labels has shape (8, 5), expected (8, 10), the shape of student_logits, or (8,)",
        ),
        "probabilities for other rows": (
            {"labels": soft(rows=7)},
            "labels has shape (7, 10), expected (8, 10), the shape of student_logits, or (8,)",
        ),
        "sum too small": ({"labels": soft(at3_0=0.25)}, f"labels[3] sums to 0.75, {SUM}"),
        "sum too large": ({"labels": soft(at3_9=0.5)}, f"labels[3] sums to 1.5, {SUM}"),
        "sum of 0.9": ({"labels": soft(at3_1=0.4)}, f"labels[3] sums to 0.9, {SUM}"),
        "sum inf": ({"labels": soft(at3_2=INF)}, f"labels[3] sums to inf, {SUM}"),
        "sum nan": ({"labels": soft(at3_2=NAN)}, f"labels[3] sums to nan, {SUM}"),
        "two bad sums": (
            {"labels": soft(at4_0=0, at6_0=0.25)},
            f"labels[4] sums to 0.5, {SUM}",
        ),
        "below 0": (
            {"labels": soft(at3_2=-0.1, at3_4=0.1)},
            "labels[3, 2] is -0.1, expected a probability >= 0",
        ),
        "below 0 in single precision": (
            {"labels": soft(np.float32, at7_9=-0.125)},
            "labels[7, 9] is -0.125, expected a probability >= 0",
        ),
        "zeros but for one below 0": (
            {"labels": soft(at3_0=0, at3_1=-0.5)},
            "labels[3, 1] is -0.5, expected a probability >= 0",
        ),
        "bad only beside alpha 0": (
            {"labels": soft(at3_0=0.25), "alpha": 0.0},
            f"labels[3] sums to 0.75, {SUM}",
        ),
        "a row that needs labels": (
            {"labels": None, "alpha": ones(8, at0=0, at1=0)},
            "labels is absent, expected one for each row where alpha is not 0",
        ),
        "a row that needs a teacher": (
            {"teacher": None, "alpha": ones(8, at3=0.5)},
            "teacher is absent, expected logits where alpha is not 1",
        ),
    }
)
# The same for TypeError, with the first words of the message.
KINDS = {
    "alpha of strings": ({"alpha": ["a"] * 8}, "alpha "),
    "tau complex": ({"tau": np.full(8, 4j)}, "tau "),
    "alpha masked": ({"alpha": np.ma.masked_equal(np.ones(8), 1)}, "alpha is a masked array"),
    "weights of strings": ({"sample_weight": ["a"] * 8}, "sample_weight "),
    "class weights of strings": ({"class_weight": ["a"] * 10}, "class_weight "),
    "smoothing a string": ({"label_smoothing": "a"}, "label_smoothing is of type str"),
    "smoothing None": ({"label_smoothing": None}, "label_smoothing is of type NoneType"),
    "normalizer a string": ({"normalizer": "8"}, "normalizer is of type str"),
    "floats for labels": ({"labels": np.ones(8)}, "labels has dtype float64"),
    "probabilities of booleans": ({"labels": soft(bool)}, "labels has dtype bool"),
    "probabilities masked": ({"labels": np.ma.masked_equal(soft(), 1)}, "labels is a masked array"),
}
LOSSES = ["kd_loss_batch", "kd_loss_and_grad", "kd_loss_grad_hess", "kd_loss_parts"]


def bits(arguments):
    return {k: v.tobytes() for k, v in arguments.items() if type(v) is np.ndarray}


def refused(function, arguments, error, message):
    """Check that a call is refused with this message, and has changed no argument."""
    before = bits(arguments)
    by_name = dict(arguments)
    in_order = [by_name.pop(x) for x in ("student_logits", "teacher", "labels") if x in by_name]
    with pytest.raises((ValueError, TypeError)) as caught:
        getattr(kdloss, function)(*in_order, **by_name)
    assert caught.type is error
    found = str(caught.value)
    assert found == message if error is ValueError else found.startswith(message)
    assert bits(arguments) == before


@pytest.mark.parametrize("function", LOSSES)
@pytest.mark.parametrize("case", list(BAD))
def test_losses_refuse(case, function):
    bad, message = BAD[case]
    refused(function, good() | bad, ValueError, message)


@pytest.mark.parametrize("function", LOSSES)
@pytest.mark.parametrize("case", list(KINDS))
def test_losses_refuse_kinds(case, function):
    bad, message = KINDS[case]
    refused(function, good() | bad, TypeError, message)


@pytest.mark.parametrize("case", list(BAD))
def test_nothing_is_written(case, dtype):
    """An error writes neither to out nor to the student's own array as out."""
    bad, message = BAD[case]
    fresh = [np.full((ROWS, CLASSES), 7, dtype) for _ in range(2)]
    arguments = good(dtype) | bad
    for out in (fresh[0], arguments["student_logits"]):
        refused("kd_loss_and_grad", arguments | {"out": out}, ValueError, message)
        out = (out, fresh[1])
        refused("kd_loss_grad_hess", arguments | {"out": out}, ValueError, message)
    assert all(np.all(array == 7) for array in fresh)


@pytest.mark.parametrize(
    "case", [case for case, (bad, _) in BAD.items() if not {"alpha", "tau", "teacher"} & set(bad)]
)
def test_cross_entropy_hard_refuses(case):
    bad, message = BAD[case]
    arguments = good() | bad
    del arguments["teacher"]
    message = message.replace("the shape of student_logits", "the shape of logits")
    message = message.replace(SUM, SUM_ALONE)
    refused("cross_entropy_hard", arguments, ValueError, message)


@pytest.mark.parametrize("rows", [[3], [3, 5], list(range(ROWS))], ids=str)
def test_an_unlabelled_row_of_zeros_needs_a_teacher(rows):
    """A soft label of zeros needs a teacher, like -1."""
    arguments = good() | {"labels": soft()}
    arguments["labels"][rows] = 0
    for function, teacher in (("cross_entropy_hard", {}), ("kd_loss_batch", {"teacher": None})):
        in_order = [arguments["student_logits"], *teacher.values(), arguments["labels"]]
        with pytest.raises(ValueError, match=rf"^labels\[{rows[0]}\] .*unlabelled"):
            getattr(kdloss, function)(*in_order, **({"alpha": 1.0} if teacher else {}))


@pytest.mark.parametrize("total", [0.9991, 1.0009])
def test_sums_within_the_tolerance(total):
    labels = soft(at3_1=total - 0.5)
    assert np.isfinite(kdloss.kd_loss_batch(**good() | {"labels": labels}))


@pytest.mark.parametrize("hess", ["x", "", None, 2, True], ids=repr)
def test_hess_is_one_of_two(hess):
    out = tuple(np.full((ROWS, CLASSES), 7, np.float32) for _ in range(2))
    arguments = good() | {"hess": hess, "out": out}
    refused(
        "kd_loss_grad_hess", arguments, ValueError, f"hess is {hess!r}, expected 'exact' or 'bound'"
    )
    assert all(np.all(array == 7) for array in out)


# ---- out of kd_loss_grad_hess --------------------------------------------------------------------


def fresh(dtype=np.float32, shape=(ROWS, CLASSES)):
    return np.full(shape, 7, dtype)


def read_only():
    array = fresh()
    array.flags.writeable = False
    return array


BAD_OUT = {
    "shape": (lambda a: fresh(shape=(8, 9)), "has shape (8, 9), expected that of the logits"),
    "dtype": (lambda a: fresh(np.float64), "has dtype float64, expected float32"),
    "read-only": (lambda a: read_only(), "is read-only"),
    "the teacher": (lambda a: a["teacher"], "overlaps"),
    "within the student": (lambda a: a["student_logits"][::-1], "overlaps"),
}


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("case", list(BAD_OUT))
def test_out_that_does_not_fit(case, place):
    arguments = good()
    make, words = BAD_OUT[case]
    out = [fresh(), fresh()]
    out[place] = make(arguments)
    before = bits(arguments)
    with pytest.raises(ValueError, match=r"^out") as caught:
        kdloss.kd_loss_grad_hess(*arguments.values(), out=tuple(out))
    assert words in str(caught.value)
    assert np.all(out[1 - place] == 7)
    assert bits(arguments) == before


@pytest.mark.parametrize("which", ["student", "one array"])
def test_the_hessian_needs_memory_of_its_own(which):
    arguments = good()
    array = fresh()
    out = (None, arguments["student_logits"]) if which == "student" else (array, array)
    before = bits(arguments)
    with pytest.raises(ValueError, match=r"^out.* overlaps "):
        kdloss.kd_loss_grad_hess(*arguments.values(), out=out)
    assert bits(arguments) == before
    assert np.all(array == 7)


@pytest.mark.parametrize(
    "out",
    [fresh(), [None, None], (None,), (None,) * 3, ([0.0], None)],
    ids=["array", "list", "one", "three", "list in it"],
)
def test_out_is_a_tuple_of_two_arrays(out):
    with pytest.raises(TypeError, match=r"^out"):
        kdloss.kd_loss_grad_hess(*good().values(), out=out)
