"""Load the compiled core so that OpenMP's idle threads sleep soon (docs/threads.md says why)."""

import os
import re
from pathlib import Path

# Each runtime reads its variable once: GCC's when it is loaded, LLVM's and Intel's at first use.
_BRIEF = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
_USERS = (*_BRIEF, "OMP_WAIT_POLICY", "KMP_LIBRARY")
_RUNTIME = re.compile(r"\S*/lib(?:gomp|i?omp)[^/\s]*\.so\S*")


def _runtimes() -> set[str]:
    """Return the files of the OpenMP runtimes in this process; none if /proc cannot be read."""
    try:
        return set(_RUNTIME.findall(Path("/proc/self/maps").read_text()))
    except OSError:
        return set()


def _load() -> None:
    """Import `kdloss._core` with the variables set, and unset them again."""
    before = _runtimes()
    wanted = {} if any(name in os.environ for name in _USERS) else _BRIEF
    os.environ.update(wanted)
    try:
        from . import _core
    finally:
        for name in wanted:
            os.environ.pop(name, None)
    if _runtimes() == before:
        # The runtime was loaded before, and has most likely read the environment as it is now.
        _core.read_wait_policy()


_load()
