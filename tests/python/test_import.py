"""`import kdloss` imports nothing heavier than NumPy; the version is the same everywhere."""

from importlib import metadata

import pytest

import kdloss


def test_import_brings_numpy_and_the_standard_library_alone(child):
    code = """
import json, sys
import numpy
before = {name.partition(".")[0] for name in sys.modules}
import kdloss
after = {name.partition(".")[0] for name in sys.modules}
print(json.dumps(sorted(after - before - sys.stdlib_module_names)))
"""
    assert child(code) == ["kdloss"]


def test_import_does_not_bring_the_command_line_or_plots(child):
    code = "import json, sys, kdloss; print(json.dumps(sorted(sys.modules)))"
    assert not {"kdloss.cli", "kdloss.plots", "argparse", "matplotlib"} & set(child(code))


def test_one_version():
    assert kdloss.__version__ == metadata.version("kdloss")
    assert kdloss.show_config()["version"] == metadata.version("kdloss")


def test_all_names_are_there_and_sorted():
    assert sorted(kdloss.__all__) == list(kdloss.__all__)
    for name in kdloss.__all__:
        assert getattr(kdloss, name).__module__.startswith("kdloss")


def test_configuration_prints_on_one_line(capsys):
    config = kdloss.show_config()
    assert capsys.readouterr().out == ""
    about = {"isa", "available_isas", "threads", "compiler", "openmp", "wait_policy", "version"}
    assert set(config) == about
    assert "\n" not in str(config)
    assert config["openmp"].startswith("lib")


def test_plots_are_there_when_they_are_asked_for(child):
    code = """
import json, sys, kdloss
kdloss.metrics.accuracy, kdloss.plots.reliability_diagram
print(json.dumps(sorted(sys.modules)))
"""
    modules = set(child(code))
    assert "kdloss.plots" in modules
    assert "matplotlib" not in modules


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'kdloss' has no attribute 'plot'"):
        kdloss.plot  # noqa: B018
