"""What runs: the instruction set, the threads, the compiler."""

from typing import TypedDict

from . import _core


class Config(TypedDict):
    """What `show_config` returns."""

    isa: str
    available_isas: list[str]
    threads: int
    compiler: str
    openmp: str
    wait_policy: str
    version: str


def show_config() -> Config:
    """Return what this build is and what it runs on, as a dict that prints on one line.

    Returns
    -------
    dict
        - ``isa``: the instruction set in use, ``"baseline"``, ``"x86-64-v3"``, ``"x86-64-v4"`` or
          ``"neon"``.
        - ``available_isas``: the instruction sets that this build contains and this machine has.
        - ``threads``: the number of threads that a large call would use now.
        - ``compiler``: the compiler and its version.
        - ``openmp``: the file of the OpenMP library in use.
        - ``wait_policy``: how OpenMP's idle threads wait (docs/threads.md). ``"brief"``: they sleep
          within a fraction of a millisecond. ``"long"``: they spin for milliseconds, so only calls
          of tens of milliseconds use several threads, unless ``num_threads`` asks for them.
        - ``version``: the version of kdloss.

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
    return _core.config()
