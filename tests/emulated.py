"""Runs the C++ tests for processors that this machine does not have, under qemu. Opt-in: slow.

    python tests/emulated.py          all with NEON, and the baseline on a processor without AVX
    python tests/emulated.py --bits   only whether NEON gives the bits of x86-64-v3

Needs Debian's packages qemu-user and g++-aarch64-linux-gnu beside what tests/run.py needs.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEON = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]
# Nehalem has neither AVX nor fused multiply-add: such an instruction in the baseline is fatal.
NEHALEM = ["qemu-x86_64", "-cpu", "Nehalem"]


def run(*command: str) -> None:
    print("+", *command, flush=True)
    subprocess.run(command, cwd=ROOT, check=True)


def build(folder: str, *options: str) -> str:
    """The path of kd_tests, built in build/folder."""
    run("cmake", "-S", ".", "-B", f"build/{folder}", "-DKDLOSS_TESTS=ON", *options)
    run("cmake", "--build", f"build/{folder}", "--target", "kd_tests", "--parallel", "2")
    return str(ROOT / "build" / folder / "tests" / "cpp" / "kd_tests")


def fingerprint(*command: str, isa: str) -> str:
    environment = os.environ | {"KDLOSS_ISA": isa}
    told = subprocess.run(
        [*command, "--fingerprint"], env=environment, check=True, capture_output=True, text=True
    )
    print(f"{isa}: {told.stdout.strip()}")
    return told.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bits", action="store_true", help="only compare the bits")
    arguments = parser.parse_args()
    for program in ("qemu-aarch64", "qemu-x86_64", "aarch64-linux-gnu-g++", "cmake"):
        if shutil.which(program) is None:
            sys.exit(f"no {program}; on Debian: apt install qemu-user g++-aarch64-linux-gnu cmake")
    native = build("native")
    neon = build(
        "aarch64",
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
        f"-DCMAKE_CROSSCOMPILING_EMULATOR={';'.join(NEON)}",
    )
    if fingerprint(native, isa="x86-64-v3") != fingerprint(*NEON, neon, isa="neon"):
        sys.exit("NEON gives other bits than x86-64-v3")
    if arguments.bits:
        return
    fingerprint(*NEHALEM, native, isa="baseline")
    run("ctest", "--test-dir", "build/aarch64", "--output-on-failure", "-E", "consumer")


if __name__ == "__main__":
    main()
