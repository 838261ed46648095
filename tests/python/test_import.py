"""What `import kdloss` brings: NumPy, nothing heavier; one version everywhere."""

from importlib import metadata

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
    assert set(config) == {"isa", "available_isas", "threads", "compiler", "openmp", "version"}
    assert "\n" not in str(config)
    assert config["openmp"].startswith("lib")
