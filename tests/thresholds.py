"""Moves every limit of the plain path, one at a time, and shows whether tests see it: minutes.

    python tests/thresholds.py [--build FOLDER]

The kernels are built once, from a copy in which each limit is its value times what the environment
says. Each row of tests/python/thresholds_rows.py must keep the promise as it is, and break it where
its limit is moved, on every instruction set. It needs what a build needs (CMake, Ninja, pybind11).
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
    """A folder to import kdloss from, whose thresholds can be moved."""
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


def error(package: Path, isa: str, guard: int, moved: str | None) -> float:
    """The largest error of a guard's row, with or without its limit moved."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(package), str(TESTS)]),
        "KDLOSS_ISA": isa,
    }
    if moved is not None:
        environment["KDLOSS_MOVED"] = moved
    code = f"import thresholds_rows as rows; print(rows.error(rows.GUARDS[{guard}]))"
    return float(subprocess.check_output([sys.executable, "-c", code], env=environment, text=True))


def main() -> int:
    """Print a line for each guard; 1 if one of them does not see that its limit is moved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, help="a folder to build in, kept")
    folder = parser.parse_args().build
    with tempfile.TemporaryDirectory() as temporary:
        package = build(folder or Path(temporary))
        sys.path[:0] = [str(package), str(TESTS)]
        import kdloss
        from thresholds_rows import GUARDS, LIMITED

        isas = kdloss.show_config()["available_isas"]
        print("largest error of each row, as it is and moved, on", ", ".join(isas))
        blind = 0
        for i, guard in enumerate(GUARDS):
            moved = f"{guard.threshold} {guard.factor}"
            before, after = ([error(package, isa, i, x) for isa in isas] for x in (None, moved))
            sees = max(before) <= LIMITED[guard.dtype] < min(after)
            blind += not sees
            numbers = " ".join(f"{x:8.1e}" for x in before + after)
            name = f"{guard.threshold:13} times {guard.factor:<7g} {guard.dtype}"
            print(name, numbers, "" if sees else "not seen", flush=True)
    print("guards that do not see their limit moved:", blind)
    return 1 if blind else 0


if __name__ == "__main__":
    sys.exit(main())
