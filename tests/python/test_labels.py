"""Labels that are not classes (-1, unlabelled; ignore_index, padding), and types of labels."""

import numpy as np
import pytest

import kdloss
from errors import gradient_error, loss_error
from tolerances import PROMISE

OPTIONS = {"alpha": 0.3, "tau": 3.0}
ROWS = 21
UNLABELLED, PADDING = slice(2, None, 5), slice(3, None, 4)


@pytest.fixture
def batch(classes, dtype):
    """(student, teacher, labels), where every label is a class."""
    rng = np.random.default_rng(classes)
    student, teacher = (2 * rng.standard_normal((ROWS, classes)).astype(dtype) for _ in range(2))
    return student, teacher, rng.integers(0, classes, ROWS)


def same_bits(one, other):
    return one.loss.tobytes() == other.loss.tobytes() and (
        one.grad_logits.tobytes() == other.grad_logits.tobytes()
    )


def rows(batch, **options):
    return kdloss.kd_loss_and_grad(*batch, **(OPTIONS | {"reduction": "none"} | options))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_an_unlabelled_row_is_one_at_alpha_0(batch, alpha):
    student, teacher, labels = batch
    labelled = rows(batch, alpha=alpha)
    labels[UNLABELLED] = -1
    found = rows(batch, alpha=alpha)
    teacher_alone = rows((student, teacher, None), alpha=0.0)
    unlabelled = labels == -1
    for values, alone, with_label in zip(found, teacher_alone, labelled, strict=True):
        assert values[unlabelled].tobytes() == alone[unlabelled].tobytes()
        assert values[~unlabelled].tobytes() == with_label[~unlabelled].tobytes()


def test_an_unlabelled_row_counts_in_the_mean(batch):
    batch[2][UNLABELLED] = -1
    loss, grad = kdloss.kd_loss_and_grad(*batch, **OPTIONS)
    each = rows(batch)
    assert loss == pytest.approx(each.loss.astype(float).mean(), rel=PROMISE["float32"])
    mean = each.grad_logits.astype(float) / ROWS
    assert gradient_error(grad, mean, grad.dtype) <= PROMISE[grad.dtype.name]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("ignore_index", [-100, -7, 2, -1])
@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf], ids=str)
def test_padding_has_loss_0_and_gradient_0_whatever_it_holds(batch, alpha, ignore_index, value):
    student, teacher, labels = batch
    labels[labels == ignore_index] = 0
    expected = rows(batch, alpha=alpha)
    labels[PADDING] = ignore_index
    padding = labels == ignore_index
    student[padding] = teacher[padding] = value
    found = rows(batch, alpha=alpha, ignore_index=ignore_index)
    for values, ordinary in zip(found, expected, strict=True):
        assert np.all(values[padding] == 0)
        assert values[~padding].tobytes() == ordinary[~padding].tobytes()


def test_padding_does_not_count_in_the_mean(batch):
    student, _, labels = batch
    labels[PADDING] = -100
    counting = labels != -100
    found = kdloss.kd_loss_and_grad(*batch, **OPTIONS)
    without = kdloss.kd_loss_and_grad(*(x[counting] for x in batch), **OPTIONS)
    dtype, promise = student.dtype, PROMISE[student.dtype.name]
    assert loss_error(found.loss, without.loss, dtype) <= promise
    assert np.all(found.grad_logits[~counting] == 0)
    assert found.grad_logits[counting].tobytes() == without.grad_logits.tobytes()
    hard = [
        kdloss.cross_entropy_hard(s, y)
        for s, y in ((student, labels), (student[counting], labels[counting]))
    ]
    assert loss_error(hard[0], hard[1], dtype) <= promise


def test_ignore_index_wins_over_unlabelled(batch):
    """With ignore_index=-1 a row labelled -1 is padding, and -100 is refused."""
    batch[2][UNLABELLED] = -1
    found = rows(batch, ignore_index=-1)
    assert np.all(found.loss[batch[2] == -1] == 0)
    hard = kdloss.cross_entropy_hard(batch[0], batch[2], ignore_index=-1, reduction="none")
    assert np.all(hard[batch[2] == -1] == 0)
    assert kdloss.kd_loss_batch(batch[0], None, batch[2], alpha=1, ignore_index=-1) > 0
    batch[2][0] = -100
    with pytest.raises(ValueError, match=r"^labels\[0\] is -100, "):
        rows(batch, ignore_index=-1)


def test_a_class_can_be_padding(batch):
    batch[2][PADDING] = 2
    found = rows(batch, ignore_index=2)
    assert np.all(found.loss[batch[2] == 2] == 0)
    assert np.all(found.loss[batch[2] != 2] > 0)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_batch_of_padding_is_0(batch, alpha, reduction):
    student, teacher, labels = batch
    labels[:] = -100
    student[0] = teacher[1] = np.nan
    loss, grad = kdloss.kd_loss_and_grad(*batch, alpha=alpha, reduction=reduction)
    assert np.all(loss == 0)
    assert np.all(grad == 0)
    assert kdloss.cross_entropy_hard(student, labels) == 0


def test_a_batch_of_padding_has_parts_of_nothing(batch):
    batch[2][:] = -100
    parts = kdloss.kd_loss_parts(*batch)
    assert parts.loss == 0
    assert np.isnan(parts.hard)


def test_means_of_parts(batch):
    """hard is averaged over the labelled rows, soft and the loss over all rows that count."""
    labels = batch[2]
    labels[UNLABELLED], labels[PADDING] = -1, -100
    each = kdloss.kd_loss_parts(*batch, **OPTIONS, reduction="none")
    mean = kdloss.kd_loss_parts(*batch, **OPTIONS)
    total = kdloss.kd_loss_parts(*batch, **OPTIONS, reduction="sum")
    labelled, counting = labels >= 0, labels != -100
    promise = PROMISE["float32"]
    assert mean.loss == pytest.approx(each.loss[counting].mean(dtype=float), rel=promise)
    assert mean.hard == pytest.approx(each.hard[labelled].mean(dtype=float), rel=promise)
    assert mean.soft == pytest.approx(each.soft[counting].mean(dtype=float), rel=promise)
    assert total.hard == pytest.approx(each.hard[labelled].sum(dtype=float), rel=promise)
    assert total.soft == pytest.approx(each.soft[counting].sum(dtype=float), rel=promise)
    assert np.all(np.isnan(each.hard[labels == -1]))


def test_parts_without_labels_or_without_a_teacher(batch):
    student, teacher, labels = batch
    parts = kdloss.kd_loss_parts(student, teacher, None, alpha=0)
    assert np.isnan(parts.hard)
    assert parts.loss == parts.soft > 0
    parts = kdloss.kd_loss_parts(student, None, labels, alpha=1)
    assert np.isnan(parts.soft)
    assert parts.loss == parts.hard > 0
    assert parts.hard == pytest.approx(
        kdloss.cross_entropy_hard(student, labels), rel=PROMISE[student.dtype.name]
    )


def test_an_unlabelled_row_needs_a_teacher(batch):
    student, _, labels = batch
    labels[UNLABELLED] = -1
    message = r"^labels\[2\] is -1, .*unlabelled"
    with pytest.raises(ValueError, match=message):
        kdloss.kd_loss_batch(student, None, labels, alpha=1)
    with pytest.raises(ValueError, match=message):
        kdloss.cross_entropy_hard(student, labels)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("label", [-2, -99, 5, 2**40, -(2**40)])
def test_labels_out_of_range_are_refused_at_any_alpha(dtype, alpha, label):
    logits = np.zeros((3, 5), dtype)
    with pytest.raises(ValueError, match=rf"^labels\[1\] is {label}, expected a class in \[0, 5\)"):
        kdloss.kd_loss_batch(logits, logits, [0, label, label], alpha=alpha)


@pytest.mark.parametrize(
    "kind", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", ">i8", ">i4"]
)
def test_integer_kinds(batch, kind):
    student, teacher, labels = batch
    labels %= min(student.shape[1], 100)
    expected = rows(batch)
    assert same_bits(rows((student, teacher, labels.astype(kind))), expected)
    assert same_bits(rows((student, teacher, labels.tolist())), expected)


@pytest.mark.parametrize(
    "spread",
    [
        lambda y: np.repeat(y, 3)[::3],
        lambda y: y[::-1].copy()[::-1],
        lambda y: np.stack([y, y], axis=1)[:, 0],
        lambda y: np.frombuffer(b"\0" + y.tobytes(), np.uint8)[1:].view(np.int64),
        lambda y: np.frombuffer(y.tobytes(), np.int64),
    ],
    ids=["every-third", "reversed", "column", "unaligned", "read-only"],
)
def test_label_layouts(batch, spread):
    student, teacher, labels = batch
    assert same_bits(rows((student, teacher, spread(labels))), rows(batch))


def test_one_label_for_all_rows(batch):
    student, teacher, labels = batch
    labels[:] = 2
    once = np.broadcast_to(np.int64(2), labels.shape)
    assert same_bits(rows((student, teacher, once)), rows(batch))


@pytest.mark.parametrize(
    "ignore_index", [np.int64(-7), np.int32(-7), -7], ids=["int64", "int32", "int"]
)
def test_ignore_index_may_be_a_numpy_integer(batch, ignore_index):
    batch[2][PADDING] = -7
    found = rows(batch, ignore_index=ignore_index)
    assert np.all(found.loss[PADDING] == 0)
