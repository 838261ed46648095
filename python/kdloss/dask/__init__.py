"""The losses, a linear student and objectives for boosters on Dask arrays, chunked by rows.

    import kdloss.dask

    loss, grad = kdloss.dask.kd_loss_and_grad(S, T, y)  # lazy
    student = kdloss.dask.fit(kdloss.LinearStudent(solver="lbfgs"), X, y, T)

Dask decides where each chunk is computed, moves the data, and recomputes what was lost with a
worker. See docs/dask.md about chunks, threads and memory.
"""

from .boosting import lightgbm_objective as lightgbm_objective
from .boosting import xgboost_metric as xgboost_metric
from .boosting import xgboost_objective as xgboost_objective
from .losses import kd_loss_and_grad as kd_loss_and_grad
from .losses import kd_loss_batch as kd_loss_batch
from .losses import kd_loss_parts as kd_loss_parts
from .student import fit as fit

__all__ = [
    "fit",
    "kd_loss_and_grad",
    "kd_loss_batch",
    "kd_loss_parts",
    "lightgbm_objective",
    "xgboost_metric",
    "xgboost_objective",
]
