# The compiled core: arguments by position, checked there. The public functions name them.

from typing import Any, TypeAlias

from numpy.typing import ArrayLike, NDArray

from .losses import KDGradHess, KDParts, KDResult, Options

__version__: str

Floats: TypeAlias = NDArray[Any]

def kd_loss_batch(
    student: ArrayLike, teacher: ArrayLike | None, labels: ArrayLike | None, options: Options, /
) -> float | Floats: ...
def kd_loss_and_grad(
    student: ArrayLike,
    teacher: ArrayLike | None,
    labels: ArrayLike | None,
    options: Options,
    out: Floats | None,
    /,
) -> KDResult[Any]: ...
def kd_loss_grad_hess(
    student: ArrayLike,
    teacher: ArrayLike | None,
    labels: ArrayLike | None,
    options: Options,
    bound: bool,
    grad_out: Floats | None,
    hess_out: Floats | None,
    /,
) -> KDGradHess[Any]: ...
def kd_loss_parts(
    student: ArrayLike,
    teacher: ArrayLike | None,
    labels: ArrayLike | None,
    options: Options,
    grad_out: Floats | None,
    /,
) -> KDParts[Any]: ...
def cross_entropy_hard(
    logits: ArrayLike, labels: ArrayLike, options: Options, /
) -> float | Floats: ...
def kd_loss_single(
    student: Floats,
    teacher: Floats | None,
    label: int | None,
    alpha: float,
    tau: float,
    divergence: str,
    beta: float,
    /,
) -> float: ...
def kl_divergence(q: ArrayLike, p: ArrayLike, reduction: str, /) -> float | Floats: ...
def softmax_temp(logits: Floats, tau: float, out: Floats | None, /) -> Floats: ...
def log_softmax_temp(logits: Floats, tau: float, out: Floats | None, /) -> Floats: ...
def log_sum_exp(logits: Floats, tau: float, /) -> Floats: ...
def config() -> dict[str, str | int | list[str]]: ...
def read_wait_policy() -> None: ...
