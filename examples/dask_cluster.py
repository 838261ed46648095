"""A linear and an XGBoost student of one teacher on a Dask cluster: here, three processes.

python examples/dask_cluster.py
python examples/dask_cluster.py --address tcp://scheduler:8786
"""

from __future__ import annotations

import argparse

import dask.array
import numpy as np
import xgboost.dask
from distributed import Client, LocalCluster

import kdloss.dask

ROWS, CHUNK, FEATURES, CLASSES = 12_000, 2_000, 10, 4
LABELS = 100  # one row in so many has a label


def train(client: Client) -> None:
    """Train both students and print their agreement with the teacher on new rows."""
    rng = np.random.default_rng(0)
    W = rng.normal(size=(FEATURES, CLASSES))
    # Each chunk is made in a worker; files are read likewise, by dask.array.from_zarr for one.
    X = dask.array.random.default_rng(1).normal(size=(ROWS, FEATURES), chunks=(CHUNK, FEATURES))
    T = 2 * X @ W
    y = dask.array.where(dask.array.arange(ROWS, chunks=CHUNK) % LABELS, -1, T.argmax(axis=1))
    X, T, y = client.persist([X, T, y])

    linear = kdloss.LinearStudent(solver="lbfgs", l2=1e-4)
    kdloss.dask.fit(linear, X, y, T)

    objective = kdloss.dask.xgboost_objective(T, y)
    params = {"objective": "multi:softprob", "num_class": CLASSES, "disable_default_eval_metric": 1}
    matrix = xgboost.dask.DaskDMatrix(client, X, objective.rows)
    booster = xgboost.dask.train(client, params, matrix, 20, obj=objective)["booster"]

    X_new = rng.normal(size=(2_000, FEATURES))
    best = (X_new @ W).argmax(axis=1)
    print(f"linear  {(linear.predict(X_new) == best).mean():.1%}")
    print(f"XGBoost {(booster.inplace_predict(X_new).argmax(axis=1) == best).mean():.1%}")


def main() -> None:
    """Read the arguments and connect."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", help="of a Dask scheduler; by default a cluster is started")
    address = parser.parse_args().address
    if address is not None:
        with Client(address) as client:
            train(client)
        return
    local = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with (
        LocalCluster(n_workers=3, threads_per_worker=1, **local) as cluster,
        Client(cluster) as client,
    ):
        train(client)


if __name__ == "__main__":
    main()
