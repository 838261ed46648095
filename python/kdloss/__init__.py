"""kdloss: the knowledge-distillation loss, exact and fast, on NumPy arrays."""

from ._config import show_config
from ._core import __version__ as __version__
from .losses import (
    KDParts,
    KDResult,
    cross_entropy_hard,
    kd_loss_and_grad,
    kd_loss_batch,
    kd_loss_parts,
    kd_loss_single,
    kl_divergence,
)
from .softmax import log_softmax_temp, log_sum_exp, softmax_temp
from .trainer import LinearStudent

__all__ = [
    "KDParts",
    "KDResult",
    "LinearStudent",
    "cross_entropy_hard",
    "kd_loss_and_grad",
    "kd_loss_batch",
    "kd_loss_parts",
    "kd_loss_single",
    "kl_divergence",
    "log_softmax_temp",
    "log_sum_exp",
    "show_config",
    "softmax_temp",
]
