# The compiled core. It takes its arguments by position and checks them.

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._config import Config
from .losses import KDGradHess, KDParts, KDResult, Options

__version__: str

Floats: TypeAlias = NDArray[np.floating[Any]]
Array: TypeAlias = NDArray[Any]  # gradients too: bfloat16 is no floating type of NumPy's

def kd_loss_batch(
    student: ArrayLike, teacher: ArrayLike | None, labels: ArrayLike | None, options: Options, /
) -> float | Floats: ...
def kd_loss_and_grad(
    student: ArrayLike,
    teacher: ArrayLike | None,
    labels: ArrayLike | None,
    options: Options,
    out: Array | None,
    /,
) -> KDResult[float] | KDResult[Array]: ...
def kd_loss_grad_hess(
    student: ArrayLike,
    teacher: ArrayLike | None,
    labels: ArrayLike | None,
    options: Options,
    bound: bool,
    grad_out: Array | None,
    hess_out: Array | None,
    /,
) -> KDGradHess[float] | KDGradHess[Array]: ...
def kd_loss_parts(
    student: ArrayLike,
    teacher: ArrayLike | None,
    labels: ArrayLike | None,
    options: Options,
    grad_out: Array | None,
    /,
) -> KDParts[float] | KDParts[Array]: ...
def cross_entropy_hard(
    logits: ArrayLike, labels: ArrayLike, options: Options, /
) -> float | Floats: ...
def kd_loss_single(
    student: Array,
    teacher: Array | None,
    label: int | None,
    alpha: float,
    tau: float,
    divergence: str,
    beta: float,
    /,
) -> float: ...
def kl_divergence(q: ArrayLike, p: ArrayLike, reduction: str, /) -> float | Floats: ...
def softmax_temp(logits: Array, tau: float, out: Array | None, /) -> Floats: ...
def log_softmax_temp(logits: Array, tau: float, out: Array | None, /) -> Floats: ...
def log_sum_exp(logits: Array, tau: float, /) -> Floats: ...
def config() -> Config: ...
def read_wait_policy() -> None: ...
