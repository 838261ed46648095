"""The source distribution of a used checkout has the sources and tests, and nothing else."""

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from scikit_build_core.build import build_sdist

ROOT = Path(__file__).parents[2]
NOT_SOURCES = [
    ".venv/lib/python3/site-packages/numpy/__init__.py",
    "venv/pyvenv.cfg",
    "env/pyvenv.cfg",
    ".env/pyvenv.cfg",
    "build/tests/CMakeCache.txt",
    "build-clang/CMakeCache.txt",
    "dist/kdloss-0.1.0.tar.gz",
    "wheelhouse/kdloss-0.1.0.whl",
    "python/kdloss/_core.cpython-311-x86_64-linux-gnu.so",
    "python/kdloss/__pycache__/losses.cpython-311.pyc",
    "python/kdloss.egg-info/PKG-INFO",
    ".hypothesis/examples/1",
    ".nox/tests/pyvenv.cfg",
    ".tox/tests/pyvenv.cfg",
    ".pytest_cache/README.md",
    ".mypy_cache/3.11/kdloss.json",
    ".ruff_cache/0.1",
    ".coverage",
    ".idea/kdloss.xml",
    ".vscode/settings.json",
    "run/student.npz",
    ".git/HEAD",
]


@pytest.fixture(scope="module")
def sources():
    """The files of the project: those in git, or without git those in the folder."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if listed.returncode == 0:
        return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    parts = ("CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml", "cpp", "python", "tests")
    files = (f for part in parts for f in [ROOT / part, *(ROOT / part).rglob("*")])
    names = {str(file.relative_to(ROOT)) for file in files if file.is_file()}
    return {name for name in names if "__pycache__" not in name and not name.endswith(".so")}


@pytest.fixture(scope="module")
def contents(sources, tmp_path_factory):
    """The files in the sdist of a checkout that has been used."""
    used = tmp_path_factory.mktemp("used")
    for name in sources:
        (used / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, used / name)
    for name in NOT_SOURCES:
        (used / name).parent.mkdir(parents=True, exist_ok=True)
        (used / name).write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(used)
        made = build_sdist(str(tmp_path_factory.mktemp("sdist")))
        patch.undo()
    archive = next(tmp_path_factory.getbasetemp().glob(f"sdist*/{made}"))
    with tarfile.open(archive) as tar:
        return {name.partition("/")[2] for name in tar.getnames()}


@pytest.mark.parametrize("name", NOT_SOURCES)
def test_what_use_leaves_in_a_checkout_is_left_out(contents, name):
    assert name not in contents


def test_all_sources_are_in(contents, sources):
    assert contents - {"PKG-INFO"} == sources


def test_the_tests_come_with_their_data(contents):
    assert "tests/data/kd_cases.npz" in contents
    assert "tests/python/test_golden.py" in contents
