"""Time kdloss beside its peers: the same arrays, one process, interleaved, medians.

``python -m benchmarks`` from the root of the source tree; README.md tells more.
"""

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from .instruction_set import keep_to_avx2
from .threads import fix_threads

# --quick leaves out the batches of hundreds of megabytes and takes fewer rounds.
QUICK_ELEMENTS = 5_000_000
QUICK_BUDGET = 1.5


def parse_shapes(text: str) -> list[tuple[int, int]]:
    """Read ``1x10,4096x1000``."""
    try:
        shapes = [tuple(map(int, shape.split("x"))) for shape in text.split(",")]
        if any(min(shape) < 1 for shape in shapes):
            raise ValueError
        return [(rows, cols) for rows, cols in shapes]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}, expected shapes like 1x10,4096x1000") from None


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--out", type=Path, help="a folder for speed.json, speed.md, speed.png")
    parser.add_argument("--shapes", type=parse_shapes, help="like 1x10,4096x1000; the table's nine")
    parser.add_argument("--dtypes", default="float32,float64", help="float32, float64 or both")
    parser.add_argument("--peers", help="names, with commas between them; all by default")
    parser.add_argument("--threads", type=int, default=2, help="threads for everyone (2)")
    parser.add_argument(
        "--avx2", action="store_true", help="keep everyone to AVX2 on a processor with AVX-512"
    )
    parser.add_argument(
        "--budget",
        type=float,
        help="seconds for each shape, type and mode (20), three rounds at least",
    )
    parser.add_argument(
        "--quick", action="store_true", help="small shapes only, a second and a half for each"
    )
    options = parser.parse_args(arguments)
    for dtype in options.dtypes.split(","):
        if dtype not in ("float32", "float64"):
            parser.error(f"--dtypes has {dtype!r}, expected float32, float64 or both")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the peers that are here at every shape; print the tables, write the files."""
    options = parse_arguments(arguments)
    fix_threads(options.threads)
    if options.avx2:
        keep_to_avx2()
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            raise SystemExit("--out draws with matplotlib: pip install 'kdloss[bench]'") from None

    # Imported only now: each library reads its number of threads when it is loaded.
    from . import report
    from .data import SHAPES
    from .peers import available
    from .speed import Result, measure, small_call

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if load is not None and load > 0.5:
        print(f"The machine is busy (load {load:.1f}): do not quote these times", file=sys.stderr)
    budget = options.budget or (QUICK_BUDGET if options.quick else 20.0)
    shapes = options.shapes or [
        s for s in SHAPES if not options.quick or s[0] * s[1] < QUICK_ELEMENTS
    ]
    # torch.compile advises on its own settings, once per shape.
    warnings.simplefilter("ignore")
    logging.getLogger("torch").setLevel(logging.ERROR)

    peers, missing = available(options.peers)
    for name, reason in missing.items():
        print(f"Missing: {name} ({reason})", file=sys.stderr)
    results: list[Result] = []
    left_out: dict[str, str] = {}
    for dtype in options.dtypes.split(","):
        for shape in shapes:
            print(f"{dtype} {shape[0]} x {shape[1]} ...", file=sys.stderr, flush=True)
            binds = {name: factory() for name, factory in peers.items()}
            found, skipped = measure(shape, dtype, binds, budget)
            results += found
            left_out |= {f"{name} at {dtype} {shape}": why for name, why in skipped.items()}
    small = small_call(peers["kdloss"](), budget) if "kdloss" in peers else None

    machine = report.machine(load)
    headline = f"{machine['processor']}, threads: {options.threads}"
    if options.avx2:
        headline += ", AVX2 only"
    if load is not None:
        headline += f", load before the run: {load:.1f}"
    lines = [headline, "", report.tables(results)]
    if small:
        lines.append(
            f"At 1 x 10, float32, loss and gradient: kdloss {small['kdloss'] * 1e6:.2f} us, "
            f"numpy.add {small['numpy.add'] * 1e6:.2f} us, {small['ratio']:.2f} times as long.\n"
        )
    lines += [f"Missing: {name} ({reason})" for name, reason in missing.items()]
    lines += [f"Left out: {name} ({reason})" for name, reason in left_out.items()]
    text = "\n".join(lines)
    print(text)
    if options.out:
        (options.out / "speed.md").write_text(text + "\n")
        record = {
            "threads": options.threads,
            "AVX2 only": options.avx2,
            "machine": machine,
            "missing": missing,
            "left out": left_out,
            "small call": small,
            "results": [result.as_dict() for result in results],
        }
        (options.out / "speed.json").write_text(json.dumps(record, indent=1) + "\n")
        report.plot(options.out / "speed.png", results, headline)


if __name__ == "__main__":
    main()
