"""Moves every threshold of the kernels, one at a time, and shows whether tests fail. Opt-in: slow.

    python tests/thresholds.py [--build FOLDER]

The kernels are built once, from a copy in which each threshold is multiplied by a factor from the
environment. tests/python/test_thresholds.py must pass if nothing is moved, and fail for each
threshold that is moved by its factor. Building needs CMake, Ninja and pybind11.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests" / "python"
sys.path.insert(0, str(TESTS))

from thresholds_rows import FACTORS  # noqa: E402

TABLE = "cpp/src/kernels/loss/thresholds.hpp"
MOVED = """
extern "C" char* getenv(const char*);
extern "C" double strtod(const char*, char**);
// value, times the factor of KDLOSS_MOVED="name factor" where that is its name.
inline double moved(const char* name, double value) {
  const char* given = getenv("KDLOSS_MOVED");
  if (given == nullptr) return value;
  while (*name != 0 && *name == *given) ++name, ++given;
  return *name == 0 && *given == ' ' ? value * strtod(given, nullptr) : value;
}

template <class T>
struct Threshold;
"""


def make_movable(table: str) -> str:
    """The table of thresholds with every number read from the environment."""
    number = r"(k\w+) = ([^,;]+)"
    table = re.sub(
        rf"static constexpr (float|double) {number};",
        r'static inline const \1 \2 = static_cast<\1>(moved("\2", \3));',
        table,
    )
    lines = []
    for line in table.splitlines():
        if line.startswith("constexpr double"):
            line = line.replace("constexpr", "static const", 1)
            line = re.sub(number, r'\1 = moved("\1", \2)', line)
        lines.append(line)
    return "\n".join(lines).replace("\ntemplate <class T>\nstruct Threshold;\n", MOVED, 1) + "\n"


def build(folder: Path) -> Path:
    """The folder of a kdloss whose thresholds can be moved."""
    source, package = folder / "source", folder / "package" / "kdloss"
    ignored = shutil.ignore_patterns(".git", "*.so", "build*", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignored, dirs_exist_ok=True)
    (source / TABLE).write_text(make_movable((ROOT / TABLE).read_text()))
    made = folder / "build"
    cmake = ["cmake", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DKDLOSS_PYTHON=ON"]
    pybind11 = subprocess.check_output([sys.executable, "-m", "pybind11", "--cmakedir"], text=True)
    subprocess.run(
        [*cmake, f"-Dpybind11_DIR={pybind11.strip()}", f"-DPython_EXECUTABLE={sys.executable}",
         "-S", source, "-B", made],
        check=True,
    )  # fmt: skip
    subprocess.run(["cmake", "--build", made, "--target", "_core"], check=True)
    shutil.copytree(ROOT / "python" / "kdloss", package, ignore=ignored, dirs_exist_ok=True)
    for module in made.rglob("_core*.so"):
        shutil.copy(module, package)
    return package.parent


def failures(package: Path, moved: str | None) -> int:
    """The number of tests that fail."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(package), str(TESTS)])}
    if moved is not None:
        environment["KDLOSS_MOVED"] = moved
    code = "import thresholds_rows; print(len(thresholds_rows.broken()))"
    return int(subprocess.check_output([sys.executable, "-c", code], env=environment, text=True))


def main() -> int:
    """Print a line for each threshold; return 1 if no test fails for one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, help="a folder to build in, kept")
    folder = parser.parse_args().build
    with tempfile.TemporaryDirectory() as temporary:
        package = build(folder or Path(temporary))
        unguarded = [] if failures(package, None) == 0 else ["as they are, rows break the promise"]
        for name, factor in FACTORS.items():
            seen = failures(package, f"{name} {factor}")
            print(f"{name} times {factor:g}: {seen} rows break the promise", flush=True)
            if seen == 0:
                unguarded.append(name)
    print("not guarded:", ", ".join(unguarded) or "none")
    return 1 if unguarded else 0


if __name__ == "__main__":
    sys.exit(main())
