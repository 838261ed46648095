"""Types: every public function is annotated, and the stub names what the extension has."""

import ast
import inspect
from pathlib import Path

import pytest

import kdloss
from kdloss import _core

FUNCTIONS = [name for name in kdloss.__all__ if inspect.isroutine(getattr(kdloss, name))]
PACKAGE = Path(kdloss.__file__).parent


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_are_annotated(name):
    signature = inspect.signature(getattr(kdloss, name))
    assert signature.return_annotation is not signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not parameter.empty


def test_the_stub_names_what_the_extension_has():
    stub = ast.parse((PACKAGE / "_core.pyi").read_text(encoding="utf-8"))
    stubbed = {node.name for node in stub.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert stubbed == {name for name in dir(_core) if not name.startswith("_")}


@pytest.mark.parametrize("name", ["kd_loss_batch", "kd_loss_and_grad", "cross_entropy_hard"])
def test_the_extension_counts_its_arguments(name):
    with pytest.raises(TypeError, match=r"^2 arguments given, expected 1[23]$"):
        getattr(_core, name)([[0.0]], [0])
