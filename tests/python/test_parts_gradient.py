"""kd_loss_parts with grad_out: the parts and the gradient of one pass are those of two calls."""

import re

import numpy as np
import pytest

import kdloss
from option_batches import CLASSES, COMBINATIONS, batch, name_of

NAN = np.nan


def two_calls(arguments, options):
    """The bytes of the parts, and of the gradient."""
    parts = kdloss.kd_loss_parts(*arguments, **options)
    gradient = kdloss.kd_loss_and_grad(*arguments, **options).grad_logits
    return [np.asarray(x).tobytes() for x in (*parts, gradient)]


def one_call(arguments, options, out=None):
    out = np.full_like(arguments[0], NAN) if out is None else out
    parts = kdloss.kd_loss_parts(*arguments, **options, grad_out=out)
    return [np.asarray(x).tobytes() for x in (*parts, out)]


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("names", COMBINATIONS, ids=name_of)
def test_the_bits_of_two_calls(names, classes, reduction, dtype):
    if reduction == "none" and "normalizer" in names:
        names = tuple(name for name in names if name != "normalizer")
    arguments, options = batch(names, classes, dtype)
    options |= {"reduction": reduction}
    assert one_call(arguments, options) == two_calls(arguments, options)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_gradient_does_not_use_a_part_of_weight_0(alpha, classes, dtype):
    arguments, options = batch((), classes, dtype)
    student, teacher, labels = arguments
    if alpha == 1:
        teacher[1::3] = NAN
    else:
        student[1::3, labels[1]] = -np.inf
        teacher[1::3, labels[1]] = -np.inf
        labels[1::3] = labels[1]  # a masked class: only the hard loss is infinite
    options |= {"alpha": alpha, "reduction": "none"}
    out = np.full_like(student, NAN)
    assert one_call(arguments, options, out) == two_calls(arguments, options)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("weights", ["alpha", "class_weight"])
def test_the_gradient_does_not_use_what_some_rows_or_classes_weigh_0(weights, dtype):
    arguments, options = batch((), 200, dtype)
    student, teacher, labels = arguments
    if weights == "alpha":
        options["alpha"] = np.where(np.arange(len(labels)) % 3 == 1, 1.0, 0.3)
        teacher[1::3] = NAN
    else:
        options["class_weight"] = np.ones(200)
        options["class_weight"][labels[1]] = 0
        student[1, labels[1]] = teacher[1, labels[1]] = -np.inf
    out = np.full_like(student, NAN)
    assert one_call(arguments, options, out) == two_calls(arguments, options)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("type_name", ["float16", "bfloat16"])
def test_students_of_halves(type_name):
    import ml_dtypes

    arguments, options = batch((), 200, np.float32)
    arguments[0] = arguments[0].astype(getattr(ml_dtypes, type_name, type_name))
    assert one_call(arguments, options) == two_calls(arguments, options)


@pytest.mark.parametrize("alpha", [0.3, 1.0], ids=["one-pass", "two-passes"])
def test_it_may_be_the_students_own_array_in_any_layout(alpha, layout, dtype):
    arguments, options = batch((), 200, dtype)
    options["alpha"] = alpha
    expected = two_calls(arguments, options)
    student = arguments[0] = layout(arguments[0])
    assert one_call(arguments, options, student) == expected


@pytest.mark.parametrize("alpha", [0.3, 1.0], ids=["one-pass", "two-passes"])
def test_a_bad_one_is_refused_before_anything_is_written(alpha):
    student, teacher = np.zeros((2, 3, 4), np.float32)
    bad = {
        "grad_out has shape (2, 4), expected that of the logits, (3, 4)": student[:2].copy(),
        "grad_out has dtype float64, expected float32": np.zeros((3, 4)),
        "grad_out overlaps an input": teacher,
    }
    for message, out in bad.items():
        before = out.tobytes()
        with pytest.raises(ValueError, match=re.escape(message)):
            kdloss.kd_loss_parts(student, teacher, [0, 1, 2], alpha=alpha, grad_out=out)
        assert out.tobytes() == before
    with pytest.raises(TypeError, match="grad_out is of type list, expected a NumPy array"):
        kdloss.kd_loss_parts(student, teacher, [0, 1, 2], grad_out=[[0.0] * 4] * 3)
