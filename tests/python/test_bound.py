"""Functions whose keywords C binds: they are what their Python says they are."""

import copy
import inspect
import pickle

import numpy as np
import pytest

import kdloss

BOUND = [kdloss.kd_loss_batch, kdloss.kd_loss_and_grad, kdloss.kd_loss_parts]
ROWS = {
    "student_logits": np.array([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3], [1.0, 2.0, 0.0]]),
    "teacher": np.array([[3.0, 1.0, -0.5], [0.5, 0.1, 0.0], [1.0, 0.0, 0.0]]),
    "labels": np.array([0, 2, 7]),
}
# For each keyword something that changes the result, beside a label that is padding.
CHANGED = {
    "alpha": 0.3,
    "tau": 2.0,
    "reduction": "sum",
    "ignore_index": 7,
    "sample_weight": np.array([2.0, 0.5, 1.0]),
    "class_weight": np.array([2.0, 1.0, 3.0]),
    "label_smoothing": 0.1,
    "normalizer": 3.0,
    "num_threads": 2,
    "out": None,
    "grad_out": None,
}
each_function = pytest.mark.parametrize("function", BOUND, ids=lambda f: f.__name__)


def keywords_of(function):
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


@each_function
def test_looks_like_its_python(function):
    python = function.__wrapped__
    assert inspect.isroutine(function)
    assert inspect.isfunction(python)
    assert inspect.signature(function) == inspect.signature(python)
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(function, name) == getattr(python, name)
    assert repr(function) == repr(python)


@each_function
def test_pickles_and_copies_by_name(function):
    assert pickle.loads(pickle.dumps(function)) is function
    assert copy.deepcopy(function) is function


@each_function
def test_binds_every_keyword_as_its_python_does(function):
    usual = {"ignore_index": 7}
    for name in keywords_of(function):
        keywords = usual | {name: CHANGED[name]}
        result = function(*ROWS.values(), **keywords)
        assert str(result) == str(function.__wrapped__(*ROWS.values(), **keywords))
        if name not in ("ignore_index", "num_threads", "out", "grad_out"):
            assert str(result) != str(function(*ROWS.values(), **usual))


@each_function
def test_takes_no_frame_of_python(function, monkeypatch):
    monkeypatch.setattr(kdloss.losses, "_core", None)  # its Python would fail
    with pytest.raises(AttributeError):
        function.__wrapped__(*ROWS.values(), ignore_index=7, tau=2.0)
    function(*ROWS.values(), ignore_index=7, tau=2.0)


def test_binds_out():
    out = np.empty((3, 3))
    _, grad = kdloss.kd_loss_and_grad(*ROWS.values(), ignore_index=7, out=out)
    assert grad is out


@each_function
def test_takes_names_that_are_not_interned(function):
    name = "".join(["al", "pha"])
    assert name is not inspect.signature(function).parameters["alpha"].name
    result = function(*ROWS.values(), ignore_index=7, **{name: 0.3})
    assert str(result) == str(function(*ROWS.values(), ignore_index=7, alpha=0.3))


@each_function
def test_takes_its_arrays_by_name(function):
    result = function(**ROWS, ignore_index=7)
    assert str(result) == str(function(*ROWS.values(), ignore_index=7))


@each_function
@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        ([], {}),
        (list(ROWS.values())[:2], {}),
        ([*ROWS.values(), 0.5], {}),
        (ROWS.values(), {"temperature": 4.0}),
        (ROWS.values(), {"labels": ROWS["labels"]}),
    ],
    ids=["nothing", "two", "four", "another-name", "twice"],
)
def test_refuses_what_its_python_refuses(function, arguments, keywords):
    with pytest.raises(TypeError) as expected:
        function.__wrapped__(*arguments, **keywords)
    with pytest.raises(TypeError) as found:
        function(*arguments, **keywords)
    assert str(found.value) == str(expected.value)
    assert function.__name__ in str(found.value)


def test_as_an_attribute_of_a_class_it_is_a_method():
    class Holder:
        loss = kdloss.kd_loss_batch

    assert Holder.loss is kdloss.kd_loss_batch
    assert Holder().loss.__func__ is kdloss.kd_loss_batch
