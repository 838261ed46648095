"""The outcome as Markdown tables, as JSON, and as a picture."""

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .peers import HARD_LOSS_ALONE, PEERS, title
from .speed import KDLOSS_ROWS, MODES, PACE, Result
from .threads import runtimes

_NOT_PEERS = {"kdloss", *KDLOSS_ROWS, *PACE, *HARD_LOSS_ALONE}

PACKAGES = ("kdloss", "numpy", "scipy", "torch", "jax", "jaxlib", "optax", "numba", "scikit-learn")


def machine(load: float | None) -> dict[str, Any]:
    """Name the machine, its load, the versions and the thread pools of this run."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    found = {
        "processor": _processor(),
        "system": platform.platform(),
        "load before the run": load,
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "versions": versions,
        "thread pools": runtimes(),
    }
    try:
        import kdloss

        found["kdloss.show_config()"] = kdloss.show_config()
    except (ImportError, AttributeError):
        found["kdloss.show_config()"] = None
    return found


def _processor() -> str:
    """The model's name and its widest vectors, which decide most of the numbers."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = fields.get("flags", "").split()
    widest = next((f for f in ("avx512f", "avx2") if f in flags), "no AVX2")
    numbers = ", ".join(f"{k} {fields[k]}" for k in ("cpu family", "model") if k in fields)
    return f"{fields.get('model name', platform.machine())} ({numbers}; {widest})"


def tables(results: Sequence[Result]) -> str:
    """Lay out, for each type and mode, the times and the same as ratios to kdloss."""
    blocks = []
    for dtype in _unique(result.dtype for result in results):
        for mode in MODES:
            chosen = [r for r in results if (r.dtype, r.mode) == (dtype, mode)]
            names = _unique(result.name for result in chosen)
            medians = {(r.shape, r.name): r.times.median for r in chosen}
            shapes = _unique(result.shape for result in chosen)
            blocks.append(f"### {dtype}, {mode}: microseconds\n")
            blocks.append(_times(shapes, names, medians))
            if "kdloss" in names:
                blocks.append(f"### {dtype}, {mode}: as multiples of kdloss's time\n")
                blocks.append(_ratios(shapes, names, medians))
    return "\n".join(blocks)


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _times(shapes: list[Any], names: list[str], medians: dict[Any, float]) -> str:
    lines = _head(["B x C", *map(title, names)])
    for shape in shapes:
        cells = [
            f"{medians[shape, name] * 1e6:,.1f}" if (shape, name) in medians else "—"
            for name in names
        ]
        lines.append(_line([_label(shape), *cells]))
    return "\n".join(lines) + "\n"


def _ratios(shapes: list[Any], names: list[str], medians: dict[Any, float]) -> str:
    others = [name for name in names if name != "kdloss"]
    lines = _head(["B x C", "kdloss, G elements/s", "fastest peer", *map(title, others)])
    for shape in shapes:
        if (shape, "kdloss") not in medians:
            continue
        own = medians[shape, "kdloss"]
        ratio = {n: medians[shape, n] / own for n in others if (shape, n) in medians}
        peers = {name: value for name, value in ratio.items() if name not in _NOT_PEERS}
        fastest = min(peers, key=lambda name: peers[name], default=None)
        lines.append(
            _line(
                [
                    _label(shape),
                    f"{shape[0] * shape[1] / own / 1e9:.3f}",
                    f"{fastest} {peers[fastest]:.3g}" if fastest else "—",
                    *(f"{ratio[name]:.3g}" if name in ratio else "—" for name in others),
                ]
            )
        )
    return "\n".join(lines) + "\n"


def _head(titles: list[str]) -> list[str]:
    return [_line(titles), "|---|" + "---:|" * (len(titles) - 1)]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _label(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def plot(path: Path, results: Sequence[Result], headline: str) -> None:
    """Draw elements per second over the shapes, a panel for each type and mode."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    dtypes = _unique(result.dtype for result in results)
    names = _unique(result.name for result in results)
    shapes = _unique(result.shape for result in results)
    figure, panels = plt.subplots(
        len(dtypes), len(MODES), figsize=(14, 5 * len(dtypes)), sharex=True, sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for (i, dtype), (j, mode) in ((d, m) for d in enumerate(dtypes) for m in enumerate(MODES)):
        panel = panels[i, j]
        for name in names:
            points = [
                (shapes.index(r.shape), r.shape[0] * r.shape[1] / r.times.median / 1e9)
                for r in results
                if (r.dtype, r.mode, r.name) == (dtype, mode, name)
            ]
            panel.plot(*zip(*points, strict=True), label=title(name), **_style(name))
        panel.set_title(f"{dtype}, {mode}")
        panel.set_yscale("log")
        panel.set_xticks(range(len(shapes)), [_label(s) for s in shapes], rotation=45, ha="right")
        panel.grid(which="major", alpha=0.3)
        panel.set_ylabel("G elements/s (median)")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    figure.suptitle(headline)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _style(name: str) -> dict[str, Any]:
    if name == "kdloss":
        return {"color": "black", "marker": "o", "linewidth": 2.5, "zorder": 3}
    if name in KDLOSS_ROWS:
        return {"color": "black", "marker": "", "linestyle": ":" if "near" in name else "--"}
    if name in PACE:
        return {"color": "grey", "marker": "", "linestyle": ":" if "numpy" in name else "--"}
    return {
        "color": f"C{list(PEERS).index(name)}",
        "marker": "x" if name in HARD_LOSS_ALONE else ".",
    }
