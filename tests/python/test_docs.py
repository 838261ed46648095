"""The documentation runs: the examples of every docstring and the Python blocks of the README."""

import doctest
import importlib
import inspect
import pkgutil
import re
from itertools import pairwise
from pathlib import Path

import pytest

import kdloss
from tolerances import PRINTED

README = Path(__file__).parents[2] / "README.md"
NUMBER = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?|\bnan\b|\binf\b")
SECTIONS = ("Parameters", "Returns", "Raises", "Examples")


def docstring_tests():
    finder = doctest.DocTestFinder(exclude_empty=True)
    modules = [importlib.import_module(info.name) for info in _public_modules()]
    for module in [kdloss, *modules]:
        yield from (test for test in finder.find(module) if test.examples)


def _public_modules():
    for info in pkgutil.walk_packages(kdloss.__path__, "kdloss."):
        if not any(part.startswith("_") for part in info.name.split(".")[1:]):
            yield info


class FloatsAsPrinted(doctest.OutputChecker):
    """Compares text exactly, and numbers within the tolerance of printed digits."""

    def check_output(self, want, got, optionflags):
        if super().check_output(want, got, optionflags):
            return True
        if NUMBER.sub("#", want) != NUMBER.sub("#", got):
            return False
        pairs = zip(NUMBER.findall(want), NUMBER.findall(got), strict=True)
        return all(
            float(b) == pytest.approx(float(a), rel=PRINTED, abs=0, nan_ok=True) for a, b in pairs
        )


@pytest.mark.parametrize("test", list(docstring_tests()), ids=lambda test: test.name)
def test_docstring_examples(test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = []
    runner = doctest.DocTestRunner(checker=FloatsAsPrinted(), verbose=False)
    runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


PUBLIC = [name for name in kdloss.__all__ if inspect.isroutine(getattr(kdloss, name))]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_function_documents_all_that_it_has(name):
    function = getattr(kdloss, name)
    lines = inspect.getdoc(function).splitlines()
    headings = {a for a, b in pairwise(lines) if b == "-" * len(a) and a}
    expected = set(SECTIONS)
    if not inspect.signature(function).parameters:
        expected.remove("Parameters")
    assert expected <= headings
    documented = " ".join(lines)
    for parameter in inspect.signature(function).parameters:
        assert re.search(rf"\b{parameter}\b", documented)


def test_readme_blocks(tmp_path, monkeypatch):
    """They run in order, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == text.count("```python")
    names = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
