"""The smallest check, if only one test file is run: the package imports, one row is right."""

import numpy as np
import pytest

import kdloss
from tolerances import PRINTED, ROUNDING

STUDENT = [2.0, 0.5, -1.0]
TEACHER = [3.0, 1.0, -0.5]


def test_the_documents_first_example():
    loss = kdloss.kd_loss_single(STUDENT, TEACHER, 0, alpha=0.5, tau=3.0)
    assert loss == pytest.approx(0.13620160016, rel=PRINTED)


def test_one_row_by_hand():
    s, t = np.array(STUDENT), np.array(TEACHER)
    alpha, tau = 0.3, 2.0
    p1, p, q = (np.exp(z) / np.exp(z).sum() for z in (s, s / tau, t / tau))
    loss = alpha * -np.log(p1[0]) + (1 - alpha) * tau**2 * np.sum(q * np.log(q / p))
    grad = alpha * (p1 - [1, 0, 0]) + (1 - alpha) * tau * (p - q)

    result = kdloss.kd_loss_and_grad([STUDENT], [TEACHER], [0], alpha=alpha, tau=tau)
    assert result.loss == pytest.approx(loss, rel=ROUNDING)
    assert result.grad_logits == pytest.approx(grad[None, :], rel=ROUNDING)


def test_what_runs_is_told():
    config = kdloss.show_config()
    assert config["isa"] in config["available_isas"]
    assert config["threads"] >= 1
    assert "\n" not in str(config)
