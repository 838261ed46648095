# The compiled core: arguments by position, checked there. The public functions name them.

from typing import Any

from numpy.typing import NDArray

__version__: str

def kd_loss_batch(
    student_logits: Any,
    teacher: Any,
    labels: Any,
    alpha: Any,
    tau: Any,
    reduction: Any,
    ignore_index: Any,
    num_threads: Any,
    /,
) -> Any: ...
def kd_loss_and_grad(
    student_logits: Any,
    teacher: Any,
    labels: Any,
    alpha: Any,
    tau: Any,
    reduction: Any,
    ignore_index: Any,
    num_threads: Any,
    out: Any,
    /,
) -> tuple[Any, NDArray[Any]]: ...
def kd_loss_parts(
    student_logits: Any,
    teacher: Any,
    labels: Any,
    alpha: Any,
    tau: Any,
    reduction: Any,
    ignore_index: Any,
    num_threads: Any,
    /,
) -> tuple[Any, Any, Any]: ...
def kl_divergence(q: Any, p: Any, reduction: Any, /) -> Any: ...
def softmax_temp(logits: Any, tau: Any, out: Any, /) -> NDArray[Any]: ...
def log_softmax_temp(logits: Any, tau: Any, out: Any, /) -> NDArray[Any]: ...
def log_sum_exp(logits: Any, tau: Any, /) -> NDArray[Any]: ...
def config() -> dict[str, Any]: ...
def kd_loss_single(student: Any, teacher: Any, label: int, alpha: Any, tau: Any, /) -> float: ...
def cross_entropy_hard(
    logits: Any, labels: Any, reduction: Any, ignore_index: Any, num_threads: Any, /
) -> Any: ...
