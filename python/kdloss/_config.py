"""What runs: the instruction set, the threads, the compiler."""

from typing import Any

from . import _core


def show_config() -> dict[str, Any]:
    """Return what this build is and what it runs on, as a dict that prints on one line.

    Returns
    -------
    dict
        ``isa``, the instruction set in use (``"baseline"``, ``"x86-64-v3"``, ``"x86-64-v4"`` or
        ``"neon"``); ``available_isas``, those that this build and this machine have;
        ``threads``, how many a large call would use now; ``compiler``; ``openmp``, the file of the
        OpenMP library that this process runs it with; ``wait_policy``, how its idle threads wait:
        ``"brief"``, they sleep within a fraction of a millisecond, or ``"long"``, they spin for
        milliseconds, so that only calls of tens of milliseconds use more than one thread unless
        ``num_threads`` asks for it (docs/threads.md); ``version``.

    Raises
    ------
    RuntimeError
        If the environment variable ``KDLOSS_ISA`` names an instruction set that is not available.

    Examples
    --------
    >>> import kdloss
    >>> kdloss.show_config()["isa"] in kdloss.show_config()["available_isas"]
    True
    """
    return dict(_core.config())
