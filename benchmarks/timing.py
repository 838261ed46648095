"""Timing that is fair to everyone: interleaved, in rotating order, warm, reported by the median."""

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

Call = Callable[[], Any]

# One visit times at least this many seconds' worth of calls, so that the clock and a stray
# interrupt are small beside it, ...
VISIT = 0.004
# ... after untimed calls for this long. libgomp's idle threads spin for about as long after their
# last region: without the pause the next peer would pay for the one before it. A call of ten
# times that length hides the difference.
WARM_UP = 0.004
ROUNDS = range(3, 51)


class Times(NamedTuple):
    """Seconds per call over the rounds."""

    median: float
    low: float  # quartiles
    high: float
    rounds: int
    calls_per_round: int


def seconds_per_call(call: Call, count: int) -> float:
    """Time ``count`` calls in a row."""
    repeat = itertools.repeat(None, count)
    start = time.perf_counter()
    for _ in repeat:
        call()
    return (time.perf_counter() - start) / count


def rotations(names: list[str]) -> Iterable[list[str]]:
    """Start one later each round and turn round every second, so that neighbours change."""
    for first in itertools.count():
        shift = first % len(names)
        order = names[shift:] + names[:shift]
        yield order if first % 2 == 0 else order[::-1]


def interleave(calls: Mapping[str, Call], budget: float) -> dict[str, Times]:
    """Time all calls side by side, for about ``budget`` seconds, at least three rounds."""
    counts = {name: _calls_per_visit(call) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        for done, order in enumerate(rotations(list(calls))):
            late = time.perf_counter() - start > budget
            if done == ROUNDS.stop or (late and done >= ROUNDS.start):
                break
            for name in order:
                _warm_up(calls[name], samples[name])
                samples[name].append(seconds_per_call(calls[name], counts[name]))
    finally:
        gc.enable()
    return {name: _summary(times, counts[name]) for name, times in samples.items()}


def _calls_per_visit(call: Call) -> int:
    count = 1
    while seconds_per_call(call, count) * count < VISIT:
        count *= 2
    return count


def _warm_up(call: Call, earlier: list[float]) -> None:
    if earlier and earlier[-1] > 10 * WARM_UP:
        return
    end = time.perf_counter() + WARM_UP
    while True:
        call()
        if time.perf_counter() > end:
            return


def _summary(times: list[float], calls_per_round: int) -> Times:
    low, _, high = statistics.quantiles(times, n=4, method="inclusive")
    return Times(statistics.median(times), low, high, len(times), calls_per_round)
