"""Options give the same bits with trivial values, and in any layout, threads, blocks, padding."""

from itertools import pairwise

import numpy as np
import pytest

import kdloss
from errors import gradient_error, loss_error
from option_batches import ALL_INDICES, ALL_SOFT, CLASSES, COMBINATIONS, batch, name_of, without
from tolerances import PROMISE, ROUNDING

REDUCTIONS = ("none", "mean", "sum")
KINDS = pytest.mark.parametrize("names", [ALL_INDICES, ALL_SOFT], ids=name_of)


def bits(arguments, options, reductions=REDUCTIONS):
    """The bytes of all results of the losses."""
    found = []
    for reduction in reductions:
        given = options | {"reduction": reduction}
        if reduction != "mean":
            given["normalizer"] = None
        results = (
            (kdloss.kd_loss_batch(*arguments, **given),),
            kdloss.kd_loss_and_grad(*arguments, **given),
            kdloss.kd_loss_grad_hess(*arguments, **given),
            kdloss.kd_loss_parts(*arguments, **given),
        )
        found += [np.asarray(values).tobytes() for result in results for values in result]
    return found


# ---- Trivial values ------------------------------------------------------------------------------

TRIVIAL = {
    "sample weights of 1": lambda rows, classes: {"sample_weight": np.ones(rows)},
    "class weights of 1": lambda rows, classes: {"class_weight": np.ones(classes)},
    "no smoothing": lambda rows, classes: {"label_smoothing": 0},
    "one alpha": lambda rows, classes: {"alpha": np.full(rows, 0.3)},
    "one tau": lambda rows, classes: {"tau": np.full(rows, 3.0)},
    "all of these": lambda rows, classes: {
        "sample_weight": np.ones(rows, np.float32),
        "class_weight": [1] * classes,
        "label_smoothing": 0.0,
        "alpha": [0.3] * rows,
        "tau": np.full(rows, 3),
    },
}


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("case", list(TRIVIAL))
def test_trivial_values(case, classes, dtype):
    arguments, options = batch(("labels",), classes, dtype)
    trivial = options | TRIVIAL[case](len(arguments[0]), classes)
    assert bits(arguments, trivial) == bits(arguments, options)


@pytest.mark.parametrize("tau", [0.7, 1.0, 2.0, 7.0, 8.0, 9.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_one_alpha_and_tau_for_all_rows(alpha, tau, classes, dtype):
    arguments, options = batch(("sample-weight",), classes, dtype, rows=19)
    options |= {"alpha": alpha, "tau": tau}
    by_row = options | {"alpha": np.full(19, alpha), "tau": np.full(19, tau)}
    assert bits(arguments, by_row) == bits(arguments, options)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("names", [(), *((n,) for n in ALL_INDICES), ALL_INDICES], ids=name_of)
def test_a_one_hot_row_has_the_bits_of_its_class(names, classes, dtype):
    """One-hot rows have the bits of their class, and rows of zeros those of -1."""
    arguments, options = batch(names, classes, dtype)
    student, teacher, labels = arguments
    options["sample_weight"] = (labels != -100) * options.get("sample_weight", 1.0)
    for kind in (np.float32, np.float64):
        soft = np.zeros((len(labels), classes), kind)
        soft[labels >= 0, labels[labels >= 0]] = 1
        assert bits([student, teacher, soft], options) == bits(arguments, options)


def test_weight_0_has_the_bits_of_padding(classes, dtype):
    arguments, options = batch(("alphas", "taus", "smoothing"), classes, dtype, rows=19)
    padding = np.arange(19) % 4 == 1
    weighted = options | {"sample_weight": (~padding).astype(float)}
    student, teacher, labels = arguments
    padded = [student, teacher, np.where(padding, -100, labels)]
    assert bits(arguments, weighted) == bits(padded, options)


@pytest.mark.parametrize("weighted", [False, True], ids=["count", "weights"])
def test_a_normalizer_that_is_the_divisor(weighted, classes, dtype):
    names = ("labels", "sample-weight") if weighted else ("labels",)
    arguments, options = batch(names, classes, dtype, rows=19)
    counting = arguments[2] != -100
    divisor = np.sum(options["sample_weight"][counting]) if weighted else counting.sum()
    found = kdloss.kd_loss_grad_hess(*arguments, **options, normalizer=divisor)
    expected = kdloss.kd_loss_grad_hess(*arguments, **options)
    if weighted:  # the weights may be summed in another order
        promise = PROMISE[dtype.name]
        assert found.loss == pytest.approx(expected.loss, rel=ROUNDING)
        assert gradient_error(found.grad_logits, expected.grad_logits, dtype) <= promise
        return
    for values, same in zip(found, expected, strict=True):
        assert np.asarray(values).tobytes() == np.asarray(same).tobytes()


# ---- Layouts, threads, blocks --------------------------------------------------------------------


@pytest.mark.parametrize("classes", [3, 200, 700])
@KINDS
def test_layouts(layout, names, classes, dtype):
    arguments, options = batch(names, classes, dtype)
    expected = bits(arguments, options)
    placed = [layout(x) if x.ndim == 2 else x for x in arguments]
    spread = {
        name: np.repeat(value, 2)[::2] if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    }
    assert bits(placed, spread) == expected
    assert bits([arguments[0], *placed[1:]], options) == expected
    # Written to arrays of that layout.
    out = tuple(layout(np.zeros_like(arguments[0])) for _ in range(2))
    found = kdloss.kd_loss_grad_hess(*arguments, **options, out=out)
    assert found.grad_logits is out[0]
    assert found.hess_logits is out[1]
    plain = kdloss.kd_loss_grad_hess(*arguments, **options)
    for values, same in zip(found, plain, strict=True):
        assert np.asarray(values).tobytes() == np.asarray(same).tobytes()


def test_layouts_of_results(layout, dtype):
    """A new Hessian has the layout of a new gradient."""
    (student, *others), options = batch((), 200, dtype)
    found = kdloss.kd_loss_grad_hess(layout(student), *others, **options)
    assert found.grad_logits.strides == found.hess_logits.strides
    assert found.grad_logits.dtype == found.hess_logits.dtype == dtype


SHAPES = [(4001, 10), (1203, 200), (301, 1000), (3, 70_001)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@KINDS
def test_the_number_of_threads(names, shape, dtype):
    rows, classes = shape
    arguments, options = batch(names, classes, dtype, rows=rows)
    expected = bits(arguments, options | {"num_threads": 1}, ("mean",))
    for threads in (2, 3, 7):
        assert bits(arguments, options | {"num_threads": threads}, ("mean",)) == expected


def cut(arguments, options, begin, end):
    """The rows from begin to end, and their options."""
    by_row = {
        name: value[begin:end] if name in ("alpha", "tau", "sample_weight") else value
        for name, value in options.items()
    }
    return [x[begin:end] for x in arguments], by_row


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
@KINDS
def test_micro_batches_add_up_to_the_batch(names, shape, dtype):
    """With one normalizer, gradients and Hessians have the same bits; losses agree to rounding."""
    rows, classes = shape
    arguments, options = batch(names, classes, dtype, rows=rows)
    whole = kdloss.kd_loss_grad_hess(*arguments, **options)
    found = []
    for begin, end in pairwise([0, 1, 17, 100, rows // 2, rows]):
        part, by_row = cut(arguments, options, begin, end)
        found.append(kdloss.kd_loss_grad_hess(*part, **by_row))
    losses, grads, diagonals = zip(*found, strict=True)
    assert np.concatenate(grads).tobytes() == whole.grad_logits.tobytes()
    assert np.concatenate(diagonals).tobytes() == whole.hess_logits.tobytes()
    assert sum(losses) == pytest.approx(whole.loss, rel=ROUNDING)


def test_weights_count_rows(classes, dtype):
    """A row of weight 3 counts like three rows."""
    arguments, options = batch(("labels", "alphas", "taus"), classes, dtype, rows=19)
    times = np.arange(19) % 4
    many = [np.repeat(x, times, axis=0) for x in arguments]
    by_row = {name: np.repeat(options[name], times) for name in ("alpha", "tau")}
    for reduction in ("mean", "sum"):
        found = kdloss.kd_loss_parts(
            *arguments, **options, sample_weight=times, reduction=reduction
        )
        repeated = kdloss.kd_loss_parts(*many, **(options | by_row), reduction=reduction)
        assert loss_error(found, repeated, dtype) <= PROMISE[dtype.name]


# ---- Padding may hold anything -------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -7.5], ids=str)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize(
    "names", [names for names in COMBINATIONS if "sample-weight" in names], ids=name_of
)
def test_a_row_of_weight_0_may_hold_anything(names, classes, value, dtype):
    """The label of the row is a class or -1."""
    arguments, options = batch(names, classes, dtype)
    ignored = options["sample_weight"] == 0
    expected = bits(arguments, options)
    student, teacher, labels = arguments
    student[ignored] = teacher[ignored] = value
    for name in ("alpha", "tau"):
        if np.ndim(options[name]) == 1:
            options[name][ignored] = value
    assert bits(arguments, options) == expected
    labels[ignored] = -57 if labels.ndim == 1 else value
    assert bits(arguments, options) == expected
    for values in kdloss.kd_loss_parts(
        *arguments, **without(options, "normalizer"), reduction="none"
    ):
        assert not values[ignored].any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -7.5], ids=str)
@pytest.mark.parametrize("classes", CLASSES)
def test_ignored_labels_may_stand_beside_anything(classes, value, dtype):
    arguments, options = batch(ALL_INDICES, classes, dtype)
    student, teacher, labels = arguments
    ignored = labels == -100
    expected = bits(arguments, options)
    student[ignored] = teacher[ignored] = value
    options["alpha"][ignored] = options["tau"][ignored] = value
    assert bits(arguments, options) == expected


def test_padding_needs_no_teacher_and_no_label(classes, dtype):
    """Not even if its alpha requires one."""
    (student, teacher, labels), options = batch(("sample-weight",), classes, dtype, rows=19)
    ignored = options["sample_weight"] == 0
    for alpha, arguments in (
        (np.where(ignored, 0.5, 1), [student, None, labels]),
        (np.where(ignored, 0.5, 0), [student, teacher, None]),
    ):
        given = options | {"alpha": alpha}
        plain = options | {"alpha": float(alpha[~ignored][0])}
        assert bits(arguments, given) == bits(arguments, plain)
