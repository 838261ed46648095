"""Every bad input: the error and its message, and that nothing was written."""

import numpy as np
import pytest

import kdloss

ROWS, CLASSES = 3, 4
NUMBERS = "expected floating-point numbers of 16, 32 or 64 bits, or integers"
THREE_AXES = (
    "has shape (1, 3, 4), expected logits of shape (rows, classes); reshape it, "
    "with student_logits.reshape(-1, 4), and teacher and labels to the same rows"
)
TAU = "expected a finite number > 0"
ALPHA = "expected a number in [0, 1]"
LABEL = "expected a class in [0, 4), -1 (unlabelled) or ignore_index (-100, padding)"
LABEL_OF_ONE = "expected a class in [0, 4), -1 (unlabelled) or -100 (padding)"
REDUCTION = "expected 'mean', 'sum' or 'none'"
THREADS = "expected at least 1 (and at most 65536), or None"
MASKED = (
    "is a masked array, expected one without a mask; mask a class with -inf, "
    "or a row with the label -100 or the weight 0"
)


def good():
    """Valid arguments."""
    logits = np.arange(ROWS * CLASSES, dtype=np.float32).reshape(ROWS, CLASSES)
    return {
        "student_logits": logits % 5,
        "teacher": logits % 7,
        "labels": np.array([0, 1, 2]),
        "alpha": 0.5,
        "tau": 4.0,
    }


class OnDevice:
    """Has the interface of an array on an accelerator."""

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **options):
        raise AssertionError("nothing may be copied from a device unasked")


def zeros(*shape):
    return np.zeros(shape, np.float32)


def masked(array):
    return np.ma.masked_equal(array, 1)


# name of the case: the arguments that are bad, the error, its message
BAD = (
    {
        # ---- numbers
        "tau 0": ({"tau": 0}, ValueError, f"tau is 0, {TAU}"),
        "tau below 0": ({"tau": -1.5}, ValueError, f"tau is -1.5, {TAU}"),
        "tau inf": ({"tau": np.inf}, ValueError, f"tau is inf, {TAU}"),
        "tau nan": ({"tau": np.nan}, ValueError, f"tau is nan, {TAU}"),
        "tau a string": ({"tau": "4"}, TypeError, "tau is of type str, expected a number"),
        "tau None": ({"tau": None}, TypeError, "tau is of type NoneType, expected a number"),
        "tau complex": ({"tau": 4j}, TypeError, "tau is of type complex, expected a number"),
        "tau for other rows": (
            {"tau": np.ones(2)},
            ValueError,
            "tau has shape (2,), expected a number or (3,), one for each row of logits",
        ),
        "alpha below 0": ({"alpha": -0.1}, ValueError, f"alpha is -0.1, {ALPHA}"),
        "alpha above 1": ({"alpha": 1.5}, ValueError, f"alpha is 1.5, {ALPHA}"),
        "alpha nan": ({"alpha": np.nan}, ValueError, f"alpha is nan, {ALPHA}"),
        "alpha a string": ({"alpha": "a"}, TypeError, "alpha is of type str, expected a number"),
        "alpha None": ({"alpha": None}, TypeError, "alpha is of type NoneType, expected a number"),
        "reduction unknown": ({"reduction": "avg"}, ValueError, f"reduction is 'avg', {REDUCTION}"),
        "reduction None": (
            {"reduction": None},
            TypeError,
            f"reduction is of type NoneType, {REDUCTION}",
        ),
        "reduction a number": (
            {"reduction": 1},
            TypeError,
            f"reduction is of type int, {REDUCTION}",
        ),
        "no threads": ({"num_threads": 0}, ValueError, f"num_threads is 0, {THREADS}"),
        "threads below 0": ({"num_threads": -1}, ValueError, f"num_threads is -1, {THREADS}"),
        "threads beyond number": (
            {"num_threads": 10**30},
            ValueError,
            f"num_threads is 1{30 * '0'}, {THREADS}",
        ),
        "threads a fraction": (
            {"num_threads": 1.5},
            TypeError,
            "num_threads is of type float, expected a whole number or None",
        ),
        "ignore_index a fraction": (
            {"ignore_index": -1.5},
            TypeError,
            "ignore_index is -1.5, expected a whole number of 64 bits",
        ),
        "ignore_index None": (
            {"ignore_index": None},
            TypeError,
            "ignore_index is None, expected a whole number of 64 bits",
        ),
        # ---- shapes
        "three axes": (
            {"student_logits": zeros(1, 3, 4)},
            ValueError,
            f"student_logits {THREE_AXES}",
        ),
        "three axes and labels of two": (
            {"student_logits": zeros(1, 3, 4), "labels": np.zeros((1, 3), int)},
            ValueError,
            f"student_logits {THREE_AXES}",
        ),
        "three axes and soft labels of three": (
            {"student_logits": zeros(1, 3, 4), "labels": zeros(1, 3, 4)},
            ValueError,
            f"student_logits {THREE_AXES}",
        ),
        "student None": (
            {"student_logits": None},
            TypeError,
            "student_logits is None, expected an array of numbers",
        ),
        "teacher of three axes": (
            {"teacher": zeros(1, 3, 4)},
            ValueError,
            "teacher has shape (1, 3, 4), expected logits of shape (rows, classes); "
            "reshape it, with teacher.reshape(-1, 4)",
        ),
        "one axis": (
            {"student_logits": zeros(4)},
            ValueError,
            "student_logits has shape (4,), expected logits of shape (rows, classes); "
            "one row is student_logits[None, :]",
        ),
        "no axis": (
            {"student_logits": 3.0},
            ValueError,
            "student_logits has shape (), expected logits of shape (rows, classes)",
        ),
        "numbers of classes that differ": (
            {"teacher": zeros(3, 5)},
            ValueError,
            "teacher has shape (3, 5), expected the shape of student_logits, (3, 4)",
        ),
        "numbers of rows that differ": (
            {"teacher": zeros(2, 4)},
            ValueError,
            "teacher has shape (2, 4), expected the shape of student_logits, (3, 4)",
        ),
        "no classes": (
            {"student_logits": zeros(3, 0), "teacher": zeros(3, 0)},
            ValueError,
            "student_logits has shape (3, 0), expected at least one class",
        ),
        "too few labels": (
            {"labels": [0, 1]},
            ValueError,
            "labels has shape (2,), expected (3,), one label for each row of logits",
        ),
        "labels of two axes": (
            {"labels": [[0], [1], [2]]},
            ValueError,
            "labels has shape (3, 1), expected one label for each row, shape (rows,); "
            "reshape it, with labels.reshape(-1)",
        ),
        "one-hot labels of integers": (
            {"labels": np.eye(3, 4, dtype=np.int64)},
            ValueError,
            "labels has shape (3, 4), expected one label for each row, shape (rows,); "
            "soft labels, (rows, classes), are floats: labels.astype(float)",
        ),
        "labels of two axes, several in a row": (
            {"labels": [[0, 1, 2]]},
            ValueError,
            "labels has shape (1, 3), expected one label for each row, shape (rows,); "
            "reshape it, with labels.reshape(-1)",
        ),
        "soft labels of three axes": (
            {"labels": zeros(1, 3, 4)},
            ValueError,
            "labels has shape (1, 3, 4), expected soft labels of shape (rows, classes); "
            "reshape it, with labels.reshape(-1, 4)",
        ),
        "soft labels and ignore_index": (
            {"labels": np.full((3, 4), 0.25), "ignore_index": 2},
            ValueError,
            "ignore_index is 2 beside soft labels, which have no label of padding; "
            "give padding rows the sample_weight 0",
        ),
        # ---- labels
        "label too large": ({"labels": [0, 4, 5]}, ValueError, f"labels[1] is 4, {LABEL}"),
        "label too small": ({"labels": [-1, 1, -2]}, ValueError, f"labels[2] is -2, {LABEL}"),
        "label beyond 64 bits": (
            {"labels": np.array([0, 2**63, 2], np.uint64)},
            ValueError,
            "labels[1] is 9223372036854775808, expected a class index",
        ),
        "labels of floats": (
            {"labels": [0.0, 1.0, 2.0]},
            TypeError,
            "labels has dtype float64, expected integers; use labels.astype(numpy.int64)",
        ),
        "labels of bools": (
            {"labels": [True, False, True]},
            TypeError,
            "labels has dtype bool, expected integers; use labels.astype(numpy.int64)",
        ),
        "labels of strings": (
            {"labels": ["a", "b", "c"]},
            TypeError,
            "labels has dtype <U1, expected integers",
        ),
        "labels on a device": (
            {"labels": OnDevice()},
            TypeError,
            "labels is a OnDevice on a device (DLPack type 2), "
            "expected an array in the memory of the CPU",
        ),
        "labels None": (
            {"labels": None},
            ValueError,
            "labels is absent, expected one for each row where alpha is not 0",
        ),
        "teacher None": (
            {"teacher": None},
            ValueError,
            "teacher is absent, expected logits where alpha is not 1",
        ),
        "unlabelled without teacher": (
            {"teacher": None, "alpha": 1, "labels": [0, -1, 1]},
            ValueError,
            "labels[1] is -1, expected a class in [0, 4) or ignore_index (-100, padding); "
            "without a teacher an unlabelled row has no loss",
        ),
        # ---- kinds of arrays
        "student masked": (
            {"student_logits": masked(good()["student_logits"])},
            TypeError,
            f"student_logits {MASKED}",
        ),
        "teacher masked": ({"teacher": masked(good()["teacher"])}, TypeError, f"teacher {MASKED}"),
        "labels masked": ({"labels": masked(good()["labels"])}, TypeError, f"labels {MASKED}"),
        "ragged": (
            {"student_logits": [[1.0, 2.0], [1.0]]},
            ValueError,
            "student_logits is not an array of numbers: ",
        ),
    }
    | {
        f"{name} of {kind}": (
            {name: np.zeros((ROWS, CLASSES), kind)},
            TypeError,
            f"{name} has dtype {np.dtype(kind)}, {NUMBERS}",
        )
        for name in ("student_logits", "teacher")
        for kind in ("U4", "S4", "object", "complex64", "complex128", "bool", "M8[s]", "longdouble")
        if np.dtype(kind) != np.float64  # some platforms have no longer double
    }
    | {
        f"{name} on a device": (
            {name: OnDevice()},
            TypeError,
            f"{name} is a OnDevice on a device (DLPack type 2), "
            "expected an array in the memory of the CPU",
        )
        for name in ("student_logits", "teacher")
    }
)


def frozen(arguments):
    """The bytes of all arrays."""
    return {k: v.tobytes() for k, v in arguments.items() if type(v) is np.ndarray}


def refusal(function, *arguments, **options):
    """The error that a call raises, as (type, message)."""
    with pytest.raises((ValueError, TypeError)) as caught:
        function(*arguments, **options)
    return caught.type, str(caught.value)


def positional(arguments):
    """The arguments of a loss, as (in order, by name)."""
    names = ("student_logits", "teacher", "labels")
    return [arguments[name] for name in names], {
        name: value for name, value in arguments.items() if name not in names
    }


def assert_refused(function, bad, error, message):
    arguments = good() | bad
    before = frozen(arguments)
    in_order, by_name = positional(arguments)
    found = refusal(function, *in_order, **by_name)
    assert found[0] is error
    assert found[1].startswith(message) if message.endswith(": ") else found[1] == message
    assert frozen(arguments) == before


@pytest.mark.parametrize("case", list(BAD))
@pytest.mark.parametrize(
    "function",
    [kdloss.kd_loss_batch, kdloss.kd_loss_and_grad, kdloss.kd_loss_parts],
    ids=lambda function: function.__name__,
)
def test_losses_refuse(function, case):
    assert_refused(function, *BAD[case])


@pytest.mark.parametrize("case", list(BAD))
def test_nothing_is_written(case):
    """An error writes neither to out nor to the student's own array as out."""
    bad, *_ = BAD[case]
    arguments = good() | bad
    out = np.full((ROWS, CLASSES), 7, np.float32)
    outs = [out]
    if type(arguments["student_logits"]) is np.ndarray:
        outs.append(arguments["student_logits"])
    for out in outs:
        before = out.tobytes()
        in_order, by_name = positional(arguments)
        refusal(kdloss.kd_loss_and_grad, *in_order, **by_name, out=out)
        assert out.tobytes() == before


# ---- out -----------------------------------------------------------------------------------------

OVERLAP = "out overlaps an input, expected memory of its own (or the very array of the logits)"


def read_only(array):
    array.flags.writeable = False
    return array


def strided(array, strides):
    return np.lib.stride_tricks.as_strided(array, (ROWS, CLASSES), strides)


BAD_OUT = {
    "shape": (zeros(4, 3), ValueError, "out has shape (4, 3), expected that of the logits, (3, 4)"),
    "one axis": (zeros(12), ValueError, "out has shape (12,), expected that of the logits, (3, 4)"),
    "dtype": (
        np.zeros((3, 4)),
        ValueError,
        "out has dtype float64, expected float32, aligned and in native byte order",
    ),
    "byte order": (
        np.zeros((3, 4), np.dtype("f4").newbyteorder()),
        ValueError,
        f"out has dtype {np.dtype('f4').newbyteorder()}, "
        "expected float32, aligned and in native byte order",
    ),
    "unaligned": (
        np.zeros(49, np.int8)[1:].view(np.float32).reshape(3, 4),
        ValueError,
        "out has dtype float32, expected float32, aligned and in native byte order",
    ),
    "read-only": (
        read_only(zeros(3, 4)),
        ValueError,
        "out is read-only, expected a writeable array",
    ),
    "list": ([[0.0] * 4] * 3, TypeError, "out is of type list, expected a NumPy array"),
    "rows that overlap": (
        strided(zeros(20), (4, 4)),
        ValueError,
        "out has strides (4, 4), at which elements overlap, "
        "expected an array with an address for each element",
    ),
    "rows that are one": (
        strided(zeros(20), (0, 4)),
        ValueError,
        "out has strides (0, 4), at which elements overlap, "
        "expected an array with an address for each element",
    ),
    "elements that meet": (
        strided(zeros(40), (12, 8)),
        ValueError,
        "out has strides (12, 8), at which elements overlap, "
        "expected an array with an address for each element",
    ),
}


@pytest.mark.parametrize("case", list(BAD_OUT))
@pytest.mark.parametrize(
    "function", ["kd_loss_and_grad", "softmax_temp", "log_softmax_temp"], ids=str
)
def test_out_that_does_not_fit(function, case):
    out, error, message = BAD_OUT[case]
    inputs = good()
    before = out.tobytes() if isinstance(out, np.ndarray) else None
    in_order = positional(inputs)[0][: 3 if function == "kd_loss_and_grad" else 1]
    found = refusal(getattr(kdloss, function), *in_order, out=out)
    assert found == (error, message)
    assert before is None or out.tobytes() == before
    assert frozen(inputs) == frozen(good())


@pytest.mark.parametrize("distance", [1, 2, 4, 11, -1, -4])
def test_out_that_overlaps_the_student(distance):
    memory = np.arange(40, dtype=np.float32)
    student = memory[12:24].reshape(3, 4)
    out = memory[12 + distance : 24 + distance].reshape(3, 4)
    before = memory.tobytes()
    inputs = good()
    found = refusal(kdloss.kd_loss_and_grad, student, inputs["teacher"], inputs["labels"], out=out)
    assert found == (ValueError, OVERLAP)
    assert refusal(kdloss.softmax_temp, student, out=out) == (ValueError, OVERLAP)
    assert memory.tobytes() == before


def test_out_that_is_the_student_in_another_order():
    square = np.arange(9, dtype=np.float32).reshape(3, 3)
    found = refusal(kdloss.kd_loss_and_grad, square, square + 1, [0, 1, 2], out=square.T)
    assert found == (ValueError, OVERLAP)


def test_out_that_overlaps_the_teacher_or_the_labels():
    inputs = good()
    s, t, y = inputs["student_logits"], inputs["teacher"], inputs["labels"]
    assert refusal(kdloss.kd_loss_and_grad, s, t, y, out=t) == (ValueError, OVERLAP)
    memory = np.zeros(6, np.int64)
    found = refusal(
        kdloss.kd_loss_and_grad, s, t, memory[:3], out=memory.view(np.float32).reshape(3, 4)
    )
    assert found == (ValueError, OVERLAP)
    assert frozen(inputs) == frozen(good())
    assert not memory.any()


@pytest.mark.parametrize("name", ["sample_weight", "alpha", "tau", "class_weight"])
def test_out_that_overlaps_what_belongs_to_rows_or_classes(name):
    memory = np.ones(3 * 4)
    inputs = good() | {name: memory[: 4 if name == "class_weight" else 3]}
    inputs["student_logits"] = inputs["student_logits"].astype(np.float64)
    out = memory.reshape(3, 4)
    assert refusal(kdloss.kd_loss_and_grad, **inputs, out=out) == (ValueError, OVERLAP)
    other = np.ones((3, 4))
    for outs, message in (
        ((out, None), OVERLAP.replace("out", "out[0]", 1)),
        ((other, out), "out[1] overlaps another array of the call, expected memory of its own"),
    ):
        assert refusal(kdloss.kd_loss_grad_hess, **inputs, out=outs) == (ValueError, message)
    np.testing.assert_array_equal(memory, 1)


def test_weights_at_any_address():
    inputs = good()
    weights = np.array([0.5, 1.0, 2.0])
    memory = np.zeros(25, np.uint8)
    memory[1:] = weights.view(np.uint8)
    odd = memory[1:].view(np.float64)
    assert not odd.flags.aligned
    found = kdloss.kd_loss_batch(**inputs, sample_weight=odd)
    assert found == kdloss.kd_loss_batch(**inputs, sample_weight=weights)


def test_out_between_the_rows_of_an_input_is_no_overlap():
    memory = zeros(6, 4)
    memory[::2] = good()["student_logits"]
    result = kdloss.kd_loss_and_grad(
        memory[::2], good()["teacher"], good()["labels"], out=memory[1::2]
    )
    expected = kdloss.kd_loss_and_grad(*positional(good())[0])
    assert np.array_equal(memory[1::2], expected.grad_logits)
    assert result.loss == expected.loss
    assert np.array_equal(memory[::2], good()["student_logits"])


def test_masked_out():
    found = refusal(
        kdloss.kd_loss_and_grad, *positional(good())[0], out=np.ma.zeros((3, 4), np.float32)
    )
    assert found[0] is TypeError
    assert found[1].startswith("out is ")


# ---- Functions with arguments of other names -----------------------------------------------------

HARD = {
    "three axes": (
        zeros(1, 3, 4),
        [0, 1, 2],
        ValueError,
        "logits has shape (1, 3, 4), expected logits of shape (rows, classes); "
        "reshape it, with logits.reshape(-1, 4), and labels to the same rows",
    ),
    "no classes": (
        zeros(3, 0),
        [0, 1, 2],
        ValueError,
        "logits has shape (3, 0), expected at least one class",
    ),
    "strings": (
        np.full((3, 4), "a"),
        [0, 1, 2],
        TypeError,
        f"logits has dtype <U1, {NUMBERS}",
    ),
    "unlabelled": (
        zeros(3, 4),
        [0, -1, 2],
        ValueError,
        "labels[1] is -1, expected a class in [0, 4) or ignore_index (-100, padding); "
        "without a teacher an unlabelled row has no loss",
    ),
    "too few labels": (
        zeros(3, 4),
        [0],
        ValueError,
        "labels has shape (1,), expected (3,), one label for each row of logits",
    ),
    "masked": (np.ma.zeros((3, 4)), [0, 1, 2], TypeError, f"logits {MASKED}"),
}


@pytest.mark.parametrize("case", list(HARD))
def test_cross_entropy_hard_refuses(case):
    logits, labels, error, message = HARD[case]
    assert refusal(kdloss.cross_entropy_hard, logits, labels) == (error, message)


def test_cross_entropy_hard_needs_labels():
    error, message = refusal(kdloss.cross_entropy_hard, zeros(3, 4), None)
    assert error is ValueError
    assert message.startswith("labels is absent, expected one for each row")


SINGLE = {
    "student of two axes": (
        (zeros(1, 4), zeros(4), 0),
        ValueError,
        "student has shape (1, 4), expected the logits of one row, shape (classes,)",
    ),
    "teacher of two axes": (
        (zeros(4), zeros(1, 4), 0),
        ValueError,
        "teacher has shape (1, 4), expected the logits of one row, shape (classes,)",
    ),
    "numbers of classes that differ": (
        (zeros(4), zeros(3), 0),
        ValueError,
        "teacher has shape (3,), expected the shape of student, (4,)",
    ),
    "no classes": (
        (zeros(0), zeros(0), 0),
        ValueError,
        "student has shape (0,), expected at least one class",
    ),
    "label too large": (
        (zeros(4), zeros(4), 4),
        ValueError,
        f"label is 4, {LABEL_OF_ONE}",
    ),
    "label too small": (
        (zeros(4), zeros(4), -2),
        ValueError,
        f"label is -2, {LABEL_OF_ONE}",
    ),
    "label a fraction": (
        (zeros(4), zeros(4), 1.5),
        TypeError,
        "label is 1.5, expected an integer",
    ),
    "label a bool": (
        (zeros(4), zeros(4), True),
        TypeError,
        "label is True, expected an integer",
    ),
    "label a bool of NumPy's": (
        (zeros(4), zeros(4), np.bool_(True)),
        TypeError,
        f"label is {np.bool_(True)!r}, expected an integer",
    ),
    "label beyond 64 bits": (
        (zeros(4), zeros(4), 2**63),
        ValueError,
        "label is 9223372036854775808, expected a class in [0, 4)",
    ),
    "label far below 64 bits": (
        (zeros(4), zeros(4), -(10**30)),
        ValueError,
        f"label is -1{30 * '0'}, expected a class in [0, 4)",
    ),
    "label None": (
        (zeros(4), zeros(4), None),
        ValueError,
        "label is absent, expected one where alpha is not 0",
    ),
    "student None": (
        (None, zeros(4), 0),
        TypeError,
        "student is None, expected an array of numbers",
    ),
    "masked": ((np.ma.zeros(4), zeros(4), 0), TypeError, f"student {MASKED}"),
}


@pytest.mark.parametrize("case", list(SINGLE))
def test_kd_loss_single_refuses(case):
    arguments, error, message = SINGLE[case]
    assert refusal(kdloss.kd_loss_single, *arguments, alpha=0.5, tau=4.0) == (error, message)


def test_kd_loss_single_takes_one_alpha():
    for label in (0, None):
        found = refusal(kdloss.kd_loss_single, zeros(4), zeros(4), label, alpha=np.ones(2))
        assert found == (TypeError, "alpha is of type numpy.ndarray, expected a number")


def test_kd_loss_single_checks_beta_without_a_teacher():
    found = refusal(kdloss.kd_loss_single, zeros(4), None, 0, alpha=1.0, beta=2.0)
    assert found == (ValueError, "beta is 2, expected a number in [0, 1]")


DIVERGENCE = {
    "negative": (
        [1.5, -0.5],
        [0.5, 0.5],
        "q[1] is -0.5, expected probabilities, which are >= 0",
    ),
    "negative p": (
        [[0.5, 0.5], [0.5, 0.5]],
        [[0.5, 0.5], [-0.25, 1.25]],
        "p[1, 0] is -0.25, expected probabilities, which are >= 0",
    ),
    "no distribution": (
        [0.5, 0.25],
        [0.5, 0.5],
        "q sums to 0.75, expected probabilities, which sum to 1 (within 0.001); "
        "softmax_temp makes them from logits",
    ),
    "p no distribution": (
        [0.5, 0.5],
        [0.5, 0.502],
        "p sums to 1.002, expected probabilities, which sum to 1 (within 0.001); "
        "softmax_temp makes them from logits",
    ),
    "infinite": (
        [np.inf, 0.5],
        [0.5, 0.5],
        "q sums to inf, expected probabilities, which sum to 1 (within 0.001); "
        "softmax_temp makes them from logits",
    ),
    "shapes that differ": (
        [0.5, 0.5],
        [0.5, 0.25, 0.25],
        "p has shape (3,), expected that of q, (2,)",
    ),
    "no distribution in the second row": (
        [[0.5, 0.5], [0.5, 0.25]],
        [[0.5, 0.5], [0.5, 0.5]],
        "q[1] sums to 0.75, expected probabilities, which sum to 1 (within 0.001); "
        "softmax_temp makes them from logits",
    ),
    "no axis": (
        1.0,
        1.0,
        "q has shape (), expected probabilities of shape (rows, classes) or (classes,)",
    ),
    "three axes": (
        np.full((1, 3, 4), 0.25),
        np.full((1, 3, 4), 0.25),
        "q has shape (1, 3, 4), expected probabilities of shape (rows, classes) or (classes,); "
        "reshape q and p, with .reshape(-1, 4)",
    ),
    "no classes in two rows": (
        zeros(2, 0),
        zeros(2, 0),
        "q has shape (2, 0), expected at least one class",
    ),
    "no classes": ([], [], "q has shape (0,), expected at least one class"),
}


@pytest.mark.parametrize("case", list(DIVERGENCE))
def test_kl_divergence_refuses(case):
    q, p, message = DIVERGENCE[case]
    assert refusal(kdloss.kl_divergence, q, p) == (ValueError, message)


def test_kl_divergence_takes_sums_within_its_tolerance():
    assert kdloss.kl_divergence([0.5, 0.5], [0.5, 0.5009]) > 0


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_kl_divergence_of_one_row(reduction):
    q, p = np.array([[0.5, 0.5]] * 2, np.float32), np.array([[0.25, 0.75]] * 2, np.float32)
    of_rows = kdloss.kl_divergence(q[:1], p[:1], reduction=reduction)
    for one in (slice(None), slice(None, None, -1)):
        of_one = kdloss.kl_divergence(q[0, one], p[0, one], reduction=reduction)
        assert np.shape(of_one) == np.shape(of_rows)
        assert of_one == pytest.approx(of_rows)
        assert getattr(of_one, "dtype", None) == getattr(of_rows, "dtype", None)


@pytest.mark.parametrize("value", [np.ma.zeros((1, 4)), OnDevice()], ids=["masked", "on a device"])
def test_kl_divergence_refuses_kinds(value):
    for q, p, name in ((value, [[0.25] * 4], "q"), ([[0.25] * 4], value, "p")):
        error, message = refusal(kdloss.kl_divergence, q, p)
        assert error is TypeError
        assert message.startswith(f"{name} is a ")


SOFTMAX = {
    "tau 0": ((zeros(3, 4), 0), {}, ValueError, f"tau is 0, {TAU}"),
    "tau nan": ((zeros(3, 4), np.nan), {}, ValueError, f"tau is nan, {TAU}"),
    "tau None": ((zeros(3, 4), None), {}, TypeError, "tau is of type NoneType, expected a number"),
    "axis too large": (
        (zeros(3, 4),),
        {"axis": 2},
        ValueError,
        "axis is 2, expected an axis of logits, which has shape (3, 4)",
    ),
    "one number": (
        (3.0,),
        {},
        ValueError,
        "logits is a single number, expected at least one axis, of classes",
    ),
    "masked": ((np.ma.zeros((3, 4)),), {}, TypeError, f"logits {MASKED}"),
    "masked row": ((np.ma.zeros(4),), {}, TypeError, f"logits {MASKED}"),
    "strings": (("abc",), {}, TypeError, f"logits has dtype <U3, {NUMBERS}"),
    "on a device": (
        (OnDevice(),),
        {},
        TypeError,
        "logits is a OnDevice on a device (DLPack type 2), "
        "expected an array in the memory of the CPU",
    ),
}


@pytest.mark.parametrize("case", list(SOFTMAX))
@pytest.mark.parametrize(
    "function",
    [kdloss.softmax_temp, kdloss.log_softmax_temp, kdloss.log_sum_exp],
    ids=lambda function: function.__name__,
)
def test_softmax_functions_refuse(function, case):
    arguments, options, error, message = SOFTMAX[case]
    assert refusal(function, *arguments, **options) == (error, message)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((3, 0), -1), ((3, 0), 1), ((0,), 0), ((2, 3, 0), -1), ((0, 3), 0), ((2, 0, 3), -2)],
    ids=str,
)
@pytest.mark.parametrize(
    "function",
    [kdloss.softmax_temp, kdloss.log_softmax_temp, kdloss.log_sum_exp],
    ids=lambda function: function.__name__,
)
def test_softmax_functions_need_a_class(function, shape, axis):
    """The message has the shape as given, and the axis if it is not the last."""
    along = "" if shape[-1] == 0 else f" along axis {axis}"
    message = f"logits has shape {shape}, expected at least one class{along}"
    assert refusal(function, np.zeros(shape), axis=axis) == (ValueError, message)


@pytest.mark.parametrize("axis", [1.5, None, "0"], ids=str)
def test_softmax_axis_must_be_a_whole_number(axis):
    error, message = refusal(kdloss.softmax_temp, zeros(3, 4), axis=axis)
    assert error is TypeError
    assert message.startswith("axis is ")


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4)], ids=str)
def test_softmax_out_of_other_shapes_is_checked_too(shape):
    logits = np.zeros(shape, np.float32)
    for out in (np.zeros(shape), zeros(*shape[:-1], 5), read_only(zeros(*shape)), [0.0]):
        error, message = refusal(kdloss.softmax_temp, logits, out=out)
        assert error in (TypeError, ValueError)
        assert message.startswith("out ")
    overlapping = np.lib.stride_tricks.as_strided(zeros(1), shape, (0,) * len(shape))
    error, message = refusal(kdloss.softmax_temp, logits, out=overlapping)
    assert error is ValueError
    assert message.startswith("out ")


# ---- The environment -----------------------------------------------------------------------------

CALL = "import kdloss; kdloss.kd_loss_single([0.0], [0.0], 0)"


@pytest.mark.parametrize("isa", ["sse9", "x86-64-v3", "x86-64-v4", "neon", "baseline"])
def test_an_instruction_set_that_is_not_there_is_refused_by_name(isa, child):
    finished = child(CALL, check=False, KDLOSS_ISA=isa)
    available = kdloss.show_config()["available_isas"]
    if isa in available:
        assert finished.returncode == 0
        return
    assert finished.returncode == 1
    message = finished.stderr.splitlines()[-1]
    assert message.startswith(f"RuntimeError: KDLOSS_ISA is '{isa}', which ")
    assert "lacks" in message or all(name in message for name in available)
