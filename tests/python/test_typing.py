"""Types: every public function is annotated, and the stub lists what the extension has."""

import ast
import inspect
import pickle
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import kdloss
from kdloss import _core, losses

FUNCTIONS = [name for name in kdloss.__all__ if inspect.isroutine(getattr(kdloss, name))]
PACKAGE = Path(kdloss.__file__).parent


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_are_annotated(name):
    signature = inspect.signature(getattr(kdloss, name))
    assert signature.return_annotation is not signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not parameter.empty


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures_are_brief(name):
    """ArrayLike is not spelled out, which would take thousands of characters."""
    assert len(str(inspect.signature(getattr(kdloss, name)))) < 700


TYPED = """
from typing import Any, Literal, assert_type
import numpy as np
from numpy.typing import NDArray
from kdloss import *

x, y = np.zeros((2, 3)), [0, 1]
q = np.full((2, 2), 0.5)
Rows = NDArray[Any]
assert_type(kd_loss_batch(x, x, y), float)
assert_type(kd_loss_batch(x, x, y, alpha=0.5, tau=[1.0, 2.0], reduction="sum"), float)
assert_type(kd_loss_batch(x, x, y, num_threads=1, reduction="none"), Rows)
assert_type(kd_loss_and_grad(x, x, y, out=x), KDResult[float])
assert_type(kd_loss_and_grad(x, x, y).loss, float)
assert_type(kd_loss_and_grad(x, x, y).grad_logits, Rows)
assert_type(kd_loss_and_grad(x, x, y, reduction="none").loss, Rows)
assert_type(kd_loss_grad_hess(x, x, y, reduction="sum", hess="bound").loss, float)
assert_type(kd_loss_grad_hess(x, x, y, reduction="none").loss, Rows)
assert_type(kd_loss_parts(x, x, y).soft, float)
assert_type(kd_loss_parts(x, x, y, reduction="none").hard, Rows)
assert_type(kd_loss_single([0.0], [0.0], 0), float)
assert_type(cross_entropy_hard(x, y, label_smoothing=0.1), float)
assert_type(cross_entropy_hard(x, y, reduction="none"), Rows)
assert_type(kl_divergence(q, q), float)
assert_type(kl_divergence(q, q, reduction="none"), Rows)
def either(reduction: Literal["mean", "sum", "none"]) -> None:
    assert_type(kd_loss_batch(x, x, y, reduction=reduction), float | Rows)
loss, grad = kd_loss_and_grad(x, x, y)
assert_type(loss, float)
"""
REFUSED = [
    "kd_loss_batch(x, x, y, temperature=2.0)",
    "kd_loss_batch(x, x, y, reduction='avg')",
    "cross_entropy_hard(x, y, tau=2.0)",
    "kd_loss_grad_hess(x, x, y, hess='diagonal')",
]


def test_what_a_type_checker_sees(tmp_path):
    """The loss is a float unless reduction is "none", and wrong keywords are errors."""
    (tmp_path / "typed.py").write_text(TYPED + "\n".join(REFUSED))
    finished = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "cache", "typed.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    first = TYPED.count("\n") + 1
    errors = [line for line in finished.stdout.splitlines() if ": error: " in line]
    assert {(int(e.split(":")[1]), e.rpartition("[")[2][:-1]) for e in errors} == {
        (first + i, "call-overload") for i in range(len(REFUSED))
    }, finished.stdout + finished.stderr


@pytest.mark.parametrize("name", ["kd_loss_batch", "kd_loss_and_grad", "kd_loss_grad_hess",
                                  "kd_loss_parts", "cross_entropy_hard"])  # fmt: skip
def test_overloads_name_each_keyword_of_the_function(name):
    function = getattr(kdloss, name)
    keywords = {
        parameter.name: parameter.annotation
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name != "reduction"
    }
    for overload in typing.get_overloads(inspect.unwrap(function)):
        options = overload.__annotations__["options"].removeprefix("Unpack[").removesuffix("]")
        found = all_annotations(getattr(losses, options))
        assert found == keywords


def all_annotations(options):
    return {name: reference.__forward_arg__ for name, reference in options.__annotations__.items()}


def test_results_pickle_as_what_they_are():
    result = kdloss.kd_loss_and_grad([[0.0, 1.0]], [[1.0, 0.0]], [0])
    assert type(result) is kdloss.KDResult
    assert not hasattr(result, "__dict__")
    copy = pickle.loads(pickle.dumps(result))
    assert type(copy) is kdloss.KDResult
    assert copy.loss == result.loss
    assert repr(copy).startswith("KDResult(loss=")


def test_the_stub_names_what_the_extension_has():
    stub = ast.parse((PACKAGE / "_core.pyi").read_text(encoding="utf-8"))
    stubbed = {node.name for node in stub.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert stubbed == {name for name in dir(_core) if not name.startswith("_")}


@pytest.mark.parametrize("name", ["kd_loss_batch", "kd_loss_and_grad", "cross_entropy_hard"])
def test_the_extension_counts_its_arguments(name):
    with pytest.raises(TypeError, match="incompatible function arguments"):
        getattr(_core, name)([[0.0]], [0])


def test_the_extension_counts_its_options():
    message = r"^1 options given, expected those of kdloss\.losses\.Options$"
    with pytest.raises(TypeError, match=message):
        _core.cross_entropy_hard([[0.0]], [0], (1.0,))
