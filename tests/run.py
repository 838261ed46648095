"""Installs kdloss with what its tests need into this environment, and runs ctest and pytest.

    python tests/run.py             everything
    python tests/run.py -k labels   arguments go to pytest

The extension and the C++ tests come from one build, in the folder build/.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str) -> None:
    print("+", *command, flush=True)
    status = subprocess.run(command, cwd=ROOT).returncode
    if status:
        sys.exit(status)


def main() -> None:
    for program in ("cmake", "ctest"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is not installed; the C++ tests need CMake 3.21 or newer")
    # kdloss.jax is built with the headers of the jax that is installed.
    build = ["jax==0.10.2", "ninja", "pybind11>=3.0.2", "scikit-build-core>=1.1", "torch==2.13.0"]
    run(sys.executable, "-m", "pip", "install", *build)
    run(
        sys.executable, "-m", "pip", "install", "--no-build-isolation", ".[test]",
        "--config-settings=cmake.define.KDLOSS_JAX=ON",
        "--config-settings=cmake.define.KDLOSS_TESTS=ON",
        "--config-settings=build-dir=build/tests",
    )  # fmt: skip
    run("ctest", "--test-dir", "build/tests", "--output-on-failure", "--parallel", "2")
    run(sys.executable, "-m", "pytest", *sys.argv[1:])


if __name__ == "__main__":
    main()
