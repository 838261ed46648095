"""How OpenMP's idle threads wait, and how many threads a call uses depending on that."""

import json

import pytest

# These environment variables decide; some may be set where the tests run.
UNSET = """
import os, sys
for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"):
    os.environ.pop(name, None)
os.environ.update(pair.split("=") for pair in sys.argv.pop().split())
os.execv(sys.executable, [sys.executable, "-W", "error", "-c", sys.argv.pop(), *sys.argv[1:]])
"""


@pytest.fixture
def fresh(child):
    """`child` with only these variables about waiting set, given as "NAME=value NAME=value"."""

    def run(code, *arguments, waiting="", **environment):
        return child(
            UNSET,
            *map(json.dumps, arguments),
            code,
            waiting,
            OPENBLAS_NUM_THREADS="1",
            **environment,
        )

    return run


FIRST = "import ctypes; ctypes.CDLL('libgomp.so.1')\n"
TELL = """
import ctypes, json, os
before = dict(os.environ)
import kdloss
c = ctypes.CDLL(None)
c.getenv.restype = ctypes.c_char_p
told = {
    "policy": kdloss.show_config()["wait_policy"],
    "same": dict(os.environ) == before,
    "in C": [c.getenv(name) for name in (b"GOMP_SPINCOUNT", b"KMP_BLOCKTIME")] == [
        os.environb.get(name) for name in (b"GOMP_SPINCOUNT", b"KMP_BLOCKTIME")
    ],
}
print(json.dumps(told))
"""


def test_the_import_leaves_the_environment_as_it_was(fresh):
    assert fresh(TELL) == {"policy": "brief", "same": True, "in C": True}


def test_a_runtime_that_was_there_before_waits_as_it_did(fresh):
    assert fresh(FIRST + TELL) == {"policy": "long", "same": True, "in C": True}


@pytest.mark.parametrize("first", ["", FIRST], ids=["kdloss-first", "runtime-first"])
@pytest.mark.parametrize(
    ("waiting", "policy"),
    [
        ("OMP_WAIT_POLICY=passive", "brief"),
        ("OMP_WAIT_POLICY=PASSIVE", "brief"),
        ("OMP_WAIT_POLICY=active", "long"),
        ("GOMP_SPINCOUNT=0", "brief"),
        ("GOMP_SPINCOUNT=2000", "brief"),
        ("GOMP_SPINCOUNT=300000", "long"),
        ("GOMP_SPINCOUNT=2m", "long"),
        ("GOMP_SPINCOUNT=infinite", "long"),
        ("GOMP_SPINCOUNT=infinite OMP_WAIT_POLICY=passive", "long"),
        ("GOMP_SPINCOUNT=2000 OMP_WAIT_POLICY=active", "brief"),
    ],
)
def test_what_the_user_has_set_stays_and_is_told(fresh, first, waiting, policy):
    assert fresh(first + TELL, waiting=waiting) == {"policy": policy, "same": True, "in C": True}


def test_an_import_that_fails_leaves_the_environment_as_it_was(fresh):
    code = """
import json, os, sys
sys.modules["kdloss._core"] = None
before = dict(os.environ)
try:
    import kdloss
except ImportError:
    print(json.dumps(dict(os.environ) == before))
"""
    assert fresh(code)


# OpenMP's threads remain after a call, and can be counted.
COUNT = """
import json, re, sys
from pathlib import Path

import kdloss
import numpy as np

def threads():
    return int(re.search(r"Threads:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before, used = threads(), []
for rows, n in json.loads(sys.argv[1]):
    logits = np.zeros((rows, 1024), np.float32)
    kdloss.kd_loss_batch(logits, logits, None, alpha=0, num_threads=n)
    used.append(1 + threads() - before)
print(json.dumps(used))
"""


def test_threads_that_sleep_soon_are_woken_for_some_work(fresh):
    counted = fresh(COUNT, [[1000, None], [2048, None]], OMP_NUM_THREADS="2")
    assert counted == [1, 2]


def test_threads_that_sleep_soon_are_used_while_they_are_awake(fresh):
    # At least one call in a thousand follows the previous one closely, even on a busy machine.
    code = COUNT.replace("    kdloss.", "    for _ in range(1000): kdloss.")
    assert fresh(code, [[100, None]], OMP_NUM_THREADS="2") == [2]


@pytest.mark.parametrize("first", ["", FIRST], ids=["by-the-user", "by-a-runtime-before"])
def test_threads_that_spin_are_used_for_long_calls_alone(fresh, first):
    waiting = "" if first else "OMP_WAIT_POLICY=active"
    calls = [[16384, None], [16384, None], [40000, None]]
    counted = fresh(first + COUNT, calls, waiting=waiting, OMP_NUM_THREADS="2")
    assert counted == [1, 1, 2]


def test_threads_that_spin_are_used_where_they_are_asked_for(fresh):
    assert fresh(FIRST + COUNT, [[16, 2], [2000, 3]], OMP_NUM_THREADS="1") == [2, 3]
