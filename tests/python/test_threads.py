"""Threads: the same bits for any number, limits, forks, and the release of the GIL."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import threadpoolctl

import kdloss

# Shapes whose work is divided by rows, by blocks of rows, and by the columns of few rows.
SHAPES = [(20011, 10), (5003, 144), (2001, 200), (301, 1000), (1, 100_000), (3, 70_001)]


def batch(shape, dtype):
    rows, classes = shape
    rng = np.random.default_rng(shape)
    student, teacher = (2 * rng.standard_normal(shape).astype(dtype) for _ in range(2))
    student[::7] = teacher[::7]
    student[1::50, 1] = -np.inf
    labels = rng.integers(-1, classes, rows)
    labels[5::11] = -100
    return student, teacher, labels


def bits(arguments, **options):
    """The bytes of all results of the losses."""
    reduced = kdloss.kd_loss_and_grad(*arguments, **options)
    rows = kdloss.kd_loss_parts(*arguments, **options, reduction="none")
    return (
        np.float64(reduced.loss).tobytes(),
        reduced.grad_logits.tobytes(),
        [values.tobytes() for values in rows],
        [np.float64(value).tobytes() for value in kdloss.kd_loss_parts(*arguments, **options)],
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_number_of_threads_does_not_change_a_bit(shape, dtype):
    arguments = batch(shape, dtype)
    expected = bits(arguments, num_threads=1)
    for threads in (2, 3, 7, None):
        assert bits(arguments, num_threads=threads) == expected
    student, teacher, labels = arguments
    by_columns = np.asfortranarray(student), np.asfortranarray(teacher), labels
    assert bits(by_columns, num_threads=3) == expected


@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_blocks_of_rows_have_the_bits_of_the_whole(shape, dtype):
    arguments = batch(shape, dtype)
    options = {"reduction": "none", "num_threads": 2}
    whole = kdloss.kd_loss_and_grad(*arguments, **options)
    cuts = [0, 1, 17, 100, shape[0] // 2, shape[0]]
    pieces = [
        kdloss.kd_loss_and_grad(*(x[a:b] for x in arguments), **options) for a, b in pairwise(cuts)
    ]
    assert np.concatenate([piece.loss for piece in pieces]).tobytes() == whole.loss.tobytes()
    grad = np.concatenate([piece.grad_logits for piece in pieces])
    assert grad.tobytes() == whole.grad_logits.tobytes()


@pytest.mark.parametrize("function", ["softmax_temp", "log_softmax_temp", "log_sum_exp"])
def test_softmax_functions_with_any_number_of_threads(function, dtype):
    logits = batch((5003, 144), dtype)[0]
    found = []
    for threads in (1, 3):
        with threadpoolctl.threadpool_limits(threads, user_api="openmp"):
            found.append(getattr(kdloss, function)(logits, 2.0).tobytes())
    assert found[0] == found[1]


# OpenMP's threads remain after a call, and can be counted.
COUNT = """
import json, re, sys
from pathlib import Path

import kdloss
import numpy as np

def threads():
    return int(re.search(r"Threads:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before, used = threads(), []
logits = np.zeros([int(x) for x in sys.argv[1:3]], np.float32)
for n in json.loads(sys.argv[3]):
    kdloss.kd_loss_batch(logits, logits, None, alpha=0, num_threads=n)
    used.append(1 + threads() - before)
print(json.dumps({"used": used, "told": kdloss.show_config()["threads"]}))
"""


@pytest.mark.parametrize("shape", [(50_000, 10), (5000, 200), (2, 200_000)], ids=str)
def test_as_many_threads_run_as_are_asked_for(shape, child):
    told = child(COUNT, *shape, [1, 2, 5], OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    assert told["used"] == [1, 2, 5]


def test_little_work_takes_one_thread(child):
    told = child(COUNT, 100, 10, [5], OPENBLAS_NUM_THREADS="1")
    assert told["used"] == [1]


@pytest.mark.parametrize("limit", [1, 2])
def test_the_environments_limit_is_kept(limit, child):
    told = child(COUNT, 250_000, 10, "[null]", OMP_NUM_THREADS=str(limit), OPENBLAS_NUM_THREADS="1")
    assert told == {"used": [told["told"]], "told": told["told"]}
    assert told["told"] <= limit


def test_a_call_after_a_pause_wakes_no_thread_unless_it_is_long_or_asked_to(child):
    told = child(COUNT, 10_000, 10, "[null, 2]", OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="1")
    assert told["used"] == [1, 2]


def test_threadpoolctls_limit_is_kept():
    before = kdloss.show_config()["threads"]
    with threadpoolctl.threadpool_limits(1, user_api="openmp"):
        assert kdloss.show_config()["threads"] == 1
    assert kdloss.show_config()["threads"] == before
    assert any(
        info["user_api"] == "openmp" and info["prefix"] in ("libgomp", "libomp")
        for info in threadpoolctl.threadpool_info()
    )


# ---- Forks ---------------------------------------------------------------------------------------

FORK = """
import json, os, signal, sys, warnings

import kdloss
import numpy as np

# Python 3.12 warns of any fork while there are threads; the test shows that this one works.
warnings.simplefilter("ignore", DeprecationWarning)

rng = np.random.default_rng(0)
s, t = rng.standard_normal((2, *map(int, sys.argv[1:3])))
expected = kdloss.kd_loss_and_grad(s, t, None, alpha=0, num_threads=2)
reader, writer = os.pipe()
pid = os.fork()
if pid == 0:
    signal.alarm(60)  # ends a child that hangs
    found = kdloss.kd_loss_and_grad(s, t, None, alpha=0, num_threads=2)
    softmax = kdloss.softmax_temp(s)
    same = found.loss == expected.loss and np.array_equal(found.grad_logits, expected.grad_logits)
    told = {"same": bool(same), "told": kdloss.show_config()["threads"]}
    os.write(writer, json.dumps(told).encode())
    os._exit(0)
os.close(writer)
told = os.read(reader, 1000)
os.close(reader)
_, status = os.waitpid(pid, 0)
again = kdloss.kd_loss_and_grad(s, t, None, alpha=0, num_threads=2)
same = again.loss == expected.loss
print(json.dumps({"status": status, "child": json.loads(told or "{}"), "parent": same}))
"""


@pytest.mark.parametrize("shape", [(5000, 100), (2, 100_000)], ids=str)
def test_a_forked_child_does_not_hang(shape, child):
    told = child(FORK, *shape, OMP_NUM_THREADS="2")
    assert told["status"] == 0
    assert told["child"]["same"]
    assert told["parent"]


def test_a_forked_child_has_threads_of_its_own(child):
    told = child(FORK, 5000, 100, OMP_NUM_THREADS="2")
    assert told["child"]["told"] == 2


# Threads of another package that shares the OpenMP runtime with kdloss.
OTHERS = FORK.replace(
    "reader, writer",
    """import ctypes
work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
ctypes.CDLL(kdloss.show_config()["openmp"]).GOMP_parallel(work, None, 2, 0)
reader, writer""",
    1,
).replace("num_threads=2", "num_threads=1", 1)


def test_a_forked_child_does_not_wait_for_the_threads_of_others(child):
    told = child(OTHERS, 5000, 100, OMP_NUM_THREADS="2")
    assert told["status"] == 0
    assert told["child"]["same"]
    assert told["parent"]


# ---- The GIL -------------------------------------------------------------------------------------

LONG_CALLS = {
    "kd_loss_batch": lambda z: kdloss.kd_loss_batch(z, z, None, alpha=0, num_threads=1),
    "kd_loss_and_grad": lambda z: kdloss.kd_loss_and_grad(z, z, None, alpha=0, num_threads=1),
    "kd_loss_parts": lambda z: kdloss.kd_loss_parts(z, z, None, alpha=0, num_threads=1),
    "cross_entropy_hard": lambda z: kdloss.cross_entropy_hard(
        z, np.zeros(len(z), np.int64), num_threads=1
    ),
    "softmax_temp": kdloss.softmax_temp,
    "log_softmax_temp": kdloss.log_softmax_temp,
    "log_sum_exp": kdloss.log_sum_exp,
    "kl_divergence": lambda z: kdloss.kl_divergence(z, z),
}


@pytest.mark.parametrize("name", list(LONG_CALLS))
def test_other_python_threads_run_during_a_call(name):
    """With a switch interval of an hour, another thread runs only if the call releases the GIL."""
    logits = np.full((4000, 1000), 0.001)
    count, stop = [0], threading.Event()

    def work():
        while not stop.is_set():
            count[0] += 1
            time.sleep(0)

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=work)
    sys.setswitchinterval(3600)
    try:
        thread.start()
        for _ in range(50):  # a busy machine may not wake the other thread in time
            before = count[0]
            LONG_CALLS[name](logits)
            moved = count[0] - before
            if moved:
                break
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        thread.join()
    assert moved > 0


def test_calls_from_many_python_threads_have_the_same_bits(dtype):
    arguments = batch((2001, 150), dtype)
    small = tuple(x[:3] for x in arguments)
    expected = [bits(arguments), bits(small)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(bits, [arguments, small] * 12))
    assert found == expected * 12


def test_one_array_of_results_for_many_python_threads(dtype):
    """Each thread writes its own rows of one gradient."""
    student, teacher, labels = batch((4000, 100), dtype)
    expected = kdloss.kd_loss_and_grad(student, teacher, labels, reduction="none").grad_logits
    grad = np.empty_like(student)

    def work(start):
        part = slice(start, start + 250)
        kdloss.kd_loss_and_grad(
            student[part], teacher[part], labels[part], reduction="none", out=grad[part]
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(0, 4000, 250)))
    assert grad.tobytes() == expected.tobytes()
