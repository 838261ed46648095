"""The losses are plain functions of Python, and each of their keywords reaches the core."""

import inspect
import sys

import numpy as np
import pytest

import kdloss

FUNCTIONS = [
    kdloss.kd_loss_batch,
    kdloss.kd_loss_and_grad,
    kdloss.kd_loss_grad_hess,
    kdloss.kd_loss_parts,
    kdloss.cross_entropy_hard,
]
ROWS = {
    "student_logits": np.array([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3], [1.0, 2.0, 0.0]]),
    "teacher": np.array([[3.0, 1.0, -0.5], [0.5, 0.1, 0.0], [1.0, 0.0, 0.0]]),
    "labels": np.array([0, 2, 7]),
}
# For each keyword a value that changes the result. (The batch has a label that is padding.)
CHANGED = {
    "alpha": 0.3,
    "tau": 2.0,
    "reduction": "sum",
    "sample_weight": np.array([2.0, 0.5, 1.0]),
    "class_weight": np.array([2.0, 1.0, 3.0]),
    "label_smoothing": 0.1,
    "normalizer": 3.0,
    "divergence": "mse",
    "beta": 0.2,
    "hess": "bound",
}
each_function = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)


def arrays_of(function):
    wanted = list(inspect.signature(function).parameters)
    return [array for name, array in ROWS.items() if name in wanted or name == "student_logits"]


@each_function
def test_its_body_runs(function):
    frames = []
    sys.setprofile(lambda frame, event, _: frames.append(frame.f_code) if event == "call" else None)
    try:
        function(*arrays_of(function), ignore_index=7)
    finally:
        sys.setprofile(None)
    assert inspect.isfunction(function)
    assert function.__code__ in frames


@each_function
def test_every_keyword_reaches_the_core(function):
    parameters = inspect.signature(function).parameters.values()
    names = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    for name in names & set(CHANGED):
        usual = {"ignore_index": 7}
        if name == "beta":
            if function is kdloss.kd_loss_grad_hess:
                continue  # Jensen-Shannon's is the only one with a beta
            usual["divergence"] = "js"
        result = function(*arrays_of(function), **usual, **{name: CHANGED[name]})
        assert str(result) != str(function(*arrays_of(function), **usual))
    assert names - set(CHANGED) <= {"ignore_index", "num_threads", "out", "grad_out"}


@each_function
def test_ignore_index_reaches_the_core(function):
    with pytest.raises(ValueError, match="labels\\[2\\] is 7"):
        function(*arrays_of(function))


def test_out_is_what_is_returned():
    out = np.empty((3, 3))
    _, grad = kdloss.kd_loss_and_grad(*ROWS.values(), ignore_index=7, out=out)
    assert grad is out
