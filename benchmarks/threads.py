"""The same number of threads for everyone, fixed before any numerical library is imported."""

import contextlib
import ctypes
import os

# Each library reads its own variable, once, when it is loaded.
_VARIABLES = (
    "OMP_NUM_THREADS",  # kdloss, PyTorch, scikit-learn, numba's OpenMP layer
    "NUMBA_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)


def fix_threads(count: int) -> None:
    """Pin this process to ``count`` processors and tell every library to use ``count`` threads.

    XLA has no variable of its own: it starts a thread for each processor that the process may
    run on, so it is the affinity that holds JAX to ``count``.
    """
    if hasattr(os, "sched_setaffinity"):
        processors = sorted(os.sched_getaffinity(0))
        if len(processors) < count:
            raise SystemExit(
                f"--threads is {count}, but only {len(processors)} processors are here"
            )
        os.sched_setaffinity(0, processors[:count])
    for variable in _VARIABLES:
        os.environ[variable] = str(count)
    _load_one_openmp_runtime()


def _load_one_openmp_runtime() -> None:
    """Load the system's libgomp first, so that kdloss, PyTorch and numba share it.

    PyTorch's wheel carries a copy under the same name; the loader takes whichever came first. Two
    copies mean two pools of spinning threads that take the processors from each other.
    scikit-learn's wheel renames its copy, so a second runtime stays in the process with it.
    """
    with contextlib.suppress(OSError):  # not Linux, or no system copy: each brings its own
        ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)


def runtimes() -> list[str]:
    """Say which thread pools the process has loaded, or that threadpoolctl is missing."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return ["unknown: threadpoolctl is not installed"]
    return [
        f"{pool['prefix']} {pool['version'] or ''}".strip()
        + f", {pool['num_threads']} threads, {os.path.basename(pool['filepath'])}"
        for pool in threadpool_info()
    ]
