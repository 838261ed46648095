"""kdloss: the knowledge-distillation loss, exact and fast, on NumPy arrays."""

from importlib import import_module
from typing import Any

from . import _load as _load  # first: the other imports load the core too

# isort: split
from . import metrics as metrics
from ._config import show_config
from ._core import __version__ as __version__
from .losses import (
    KDGradHess,
    KDParts,
    KDResult,
    cross_entropy_hard,
    kd_loss_and_grad,
    kd_loss_batch,
    kd_loss_grad_hess,
    kd_loss_parts,
    kd_loss_single,
    kl_divergence,
)
from .softmax import log_softmax_temp, log_sum_exp, softmax_temp
from .teacher import ensemble_logits, entropy_temp, logits_from_probs, teacher_agreement
from .trainer import LinearStudent

__all__ = [
    "KDGradHess",
    "KDParts",
    "KDResult",
    "LinearStudent",
    "cross_entropy_hard",
    "ensemble_logits",
    "entropy_temp",
    "kd_loss_and_grad",
    "kd_loss_batch",
    "kd_loss_grad_hess",
    "kd_loss_parts",
    "kd_loss_single",
    "kl_divergence",
    "log_softmax_temp",
    "log_sum_exp",
    "logits_from_probs",
    "show_config",
    "softmax_temp",
    "teacher_agreement",
]


def __getattr__(name: str) -> Any:
    """Import ``kdloss.plots`` when it is asked for: most programs draw nothing."""
    if name == "plots":
        return import_module("kdloss.plots")
    raise AttributeError(f"module 'kdloss' has no attribute {name!r}")
