# The compiled core: arguments by position, checked there. The public functions name them.

from typing import Any, TypeAlias

from numpy.typing import NDArray

__version__: str

# (alpha, tau, reduction, ignore_index, sample_weight, class_weight, label_smoothing, normalizer,
# divergence, beta, num_threads)
Options: TypeAlias = tuple[
    Any, Any, str, int, Any, Any, float, float | None, str, float, int | None
]

def kd_loss_batch(
    student: Any, teacher: Any, labels: Any, options: Options, /
) -> float | NDArray[Any]: ...
def kd_loss_and_grad(
    student: Any, teacher: Any, labels: Any, options: Options, out: NDArray[Any] | None, /
) -> Any: ...
def kd_loss_grad_hess(
    student: Any,
    teacher: Any,
    labels: Any,
    options: Options,
    bound: bool,
    grad_out: NDArray[Any] | None,
    hess_out: NDArray[Any] | None,
    /,
) -> Any: ...
def kd_loss_parts(
    student: Any, teacher: Any, labels: Any, options: Options, grad_out: NDArray[Any] | None, /
) -> Any: ...
def cross_entropy_hard(logits: Any, labels: Any, options: Options, /) -> float | NDArray[Any]: ...
def kd_loss_single(
    student: Any,
    teacher: Any,
    label: int | None,
    alpha: Any,
    tau: Any,
    divergence: str,
    beta: Any,
    /,
) -> float: ...
def kl_divergence(q: Any, p: Any, reduction: Any, /) -> float | NDArray[Any]: ...
def softmax_temp(logits: Any, tau: Any, out: Any, /) -> NDArray[Any]: ...
def log_softmax_temp(logits: Any, tau: Any, out: Any, /) -> NDArray[Any]: ...
def log_sum_exp(logits: Any, tau: Any, /) -> NDArray[Any]: ...
def config() -> dict[str, Any]: ...
def read_wait_policy() -> None: ...
