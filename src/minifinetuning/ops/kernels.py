"""The passes of the fused op over the vocabulary, as Triton kernels.

First the sums of a token that a rule and the loss are made of, then, with the rule's m and w known,
d loss / d z_S. Bias, scale and soft cap are applied to the products h @ W.T as they are read, each
time anew: reading is what costs, and it spares passes that would do nothing else.

The numbers are held in the dtype of the products, float32 or better. Rows are counted in int64:
row * stride passes 2**31 entries where a chunk is large.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from minifinetuning.ops.outputs import TokenOutputs
from minifinetuning.ops.teacher import TeacherTerms

__all__ = ["Logits", "row_statistics", "teacher_terms", "write_logit_gradient"]

BLOCK = 2048
"""Entries of a row that a program holds at a time, a power of two."""

WARPS = 8
"""With 32 threads each: 8 entries a thread, so that the running sums fit in registers."""


@dataclass(frozen=True)
class Logits:
    """Logits (n, V) as what they are made of: z = cap * tanh(a / cap), a = scale * (products + b).

    `products` are h @ W.T (n, V), of adjacent entries in a row; what a row's stride leaves over
    is free to read and write, so that a kernel moves wide words whatever V is. `bias` b is (V,).
    Without a soft cap z = a.
    """

    products: Tensor
    bias: Tensor | None
    scale: float
    soft_cap: float | None

    @property
    def size(self) -> int:
        """V."""
        return self.products.shape[1]


def row_statistics(student: Logits, teacher: Logits | None, labels: Tensor) -> Tensor:
    """(n, 2): lse(z_S) and z_S[l]; with a teacher (n, 7), see `teacher_terms` and lse(z_T).

    `labels` (n,); one that is beyond the student's vocabulary makes its token's sums NaN.
    """
    columns = 2 if teacher is None else 7
    statistics = student.products.new_empty(len(labels), columns)
    with torch.cuda.device_of(labels):
        _statistics_kernel[(len(labels),)](
            *_pointers(student, teacher),
            labels,
            statistics,
            **_constants(student, teacher),
        )
    return statistics


def teacher_terms(statistics: Tensor) -> TeacherTerms:
    """The columns of `row_statistics` (n, 7) that are the teacher's."""
    _, _, _, expected_logit, negative_entropy, label, highest = statistics.unbind(1)
    return TeacherTerms(expected_logit, negative_entropy, label, highest)


def write_logit_gradient(
    student: Logits,
    teacher: Logits | None,
    labels: Tensor,
    statistics: Tensor,
    outputs: TokenOutputs,
    factor: float,
    out: Tensor,
) -> None:
    """Write factor * d loss / d (products + b) into `out` (n, V), rounded to its dtype.

    d loss / d z_S = w * (p_S - (1 - m) * p_T - m * one_hot(l)), with the m and w of `outputs`;
    d z / d a and scale follow. `out` may be the student's products themselves; like theirs, what
    its rows' stride leaves over is written too.
    """
    constants = _constants(student, teacher)
    blocks = triton.cdiv(student.size, constants["BLOCK"])
    with torch.cuda.device_of(labels):
        _gradient_kernel[(len(labels), blocks)](
            *_pointers(student, teacher),
            labels,
            statistics,
            outputs.mixing,
            outputs.weight,
            out,
            out.stride(0),
            FACTOR=factor * student.scale,
            **constants,
        )


def _pointers(student: Logits, teacher: Logits | None) -> list[Any]:
    """The arguments that both kernels begin with."""
    arguments: list[Any] = []
    for logits in (student, teacher):
        if logits is None:
            arguments += [None, 0, 0, None]
        else:
            arguments += [logits.products, logits.products.stride(0), logits.size, logits.bias]
    return arguments


def _constants(student: Logits, teacher: Logits | None) -> dict[str, Any]:
    """What the kernels are compiled for: one head each has one scale and one soft cap."""
    return {
        "SCALE": student.scale,
        "SOFT_CAP": student.soft_cap,
        "TEACHER_SCALE": None if teacher is None else teacher.scale,
        "TEACHER_SOFT_CAP": None if teacher is None else teacher.soft_cap,
        "BLOCK": min(BLOCK, triton.next_power_of_2(student.size)),
        "num_warps": WARPS,
        # A tie between the teacher's favourites must stay one: z is rounded alike wherever it
        # is computed.
        "enable_fp_fusion": False,
    }


@triton.jit  # type: ignore[untyped-decorator]
def _statistics_kernel(  # type: ignore[no-untyped-def]
    student,
    student_stride,
    student_size,
    student_bias,
    teacher,
    teacher_stride,
    teacher_size,
    teacher_bias,
    labels,
    statistics,
    SCALE: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    TEACHER_SCALE: tl.constexpr,
    TEACHER_SOFT_CAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a row. Every lane keeps the sums of its own entries: they meet at the end."""
    row = tl.program_id(0).to(tl.int64)
    student += row * student_stride
    dtype = student.dtype.element_ty
    highest = tl.full([BLOCK], -3.0e38, dtype)
    total = tl.zeros([BLOCK], dtype)
    if teacher is not None:
        teacher += row * teacher_stride
        teacher_highest = tl.full([BLOCK], -3.0e38, dtype)
        teacher_total = tl.zeros([BLOCK], dtype)
        expected_logit = tl.zeros([BLOCK], dtype)
        expected_own = tl.zeros([BLOCK], dtype)

    for start in range(0, student_size, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < student_size
        filled = columns < student_stride
        z, _ = _logits(student, student_bias, columns, filled, inside, SCALE, SOFT_CAP)
        highest, old, new = _raise(highest, z, inside)
        total = total * old + new
        if teacher is not None:
            known = columns < teacher_size
            filled = columns < teacher_stride
            z_teacher, _ = _logits(
                teacher, teacher_bias, columns, filled, known, TEACHER_SCALE, TEACHER_SOFT_CAP
            )
            teacher_highest, old, new = _raise(teacher_highest, z_teacher, known)
            teacher_total = teacher_total * old + new
            expected_logit = expected_logit * old + new * z
            expected_own = expected_own * old + new * z_teacher

    peak = tl.max(highest, 0)
    lse = peak + tl.log(tl.sum(total * tl.exp(highest - peak), 0))
    label = tl.load(labels + row)
    valid = (label >= 0) & (label < student_size)
    z_label, _ = _logits(student, student_bias, label, valid, valid, SCALE, SOFT_CAP)
    z_label = tl.where(valid, z_label, float("nan"))
    if teacher is None:
        tl.store(statistics + 2 * row, lse)
        tl.store(statistics + 2 * row + 1, z_label)
    else:
        peak = tl.max(teacher_highest, 0)
        share = tl.exp(teacher_highest - peak)
        sum_of_shares = tl.sum(teacher_total * share, 0)
        teacher_lse = peak + tl.log(sum_of_shares)
        # A label that the teacher's vocabulary lacks has no probability there.
        known_label = valid & (label < teacher_size)
        teacher_label, _ = _logits(
            teacher, teacher_bias, label, known_label, known_label, TEACHER_SCALE, TEACHER_SOFT_CAP
        )
        p_label = tl.where(known_label, tl.exp(teacher_label - teacher_lse), 0.0)
        statistics += 7 * row
        tl.store(statistics, lse)
        tl.store(statistics + 1, z_label)
        tl.store(statistics + 2, teacher_lse)
        tl.store(statistics + 3, tl.sum(expected_logit * share, 0) / sum_of_shares)
        own = tl.sum(expected_own * share, 0) / sum_of_shares
        tl.store(statistics + 4, own - teacher_lse)
        tl.store(statistics + 5, p_label)
        tl.store(statistics + 6, tl.exp(peak - teacher_lse))


@triton.jit  # type: ignore[untyped-decorator]
def _gradient_kernel(  # type: ignore[no-untyped-def]
    student,
    student_stride,
    student_size,
    student_bias,
    teacher,
    teacher_stride,
    teacher_size,
    teacher_bias,
    labels,
    statistics,
    mixing,
    weight,
    out,
    out_stride,
    FACTOR: tl.constexpr,
    SCALE: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    TEACHER_SCALE: tl.constexpr,
    TEACHER_SOFT_CAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a block of a row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < student_size
    student += row * student_stride
    filled = columns < student_stride
    z, slope = _logits(student, student_bias, columns, filled, inside, SCALE, SOFT_CAP)
    m = tl.load(mixing + row)
    if teacher is None:
        gradient = _probability(z, tl.load(statistics + 2 * row), inside)
    else:
        gradient = _probability(z, tl.load(statistics + 7 * row), inside)
        known = columns < teacher_size
        teacher += row * teacher_stride
        filled = columns < teacher_stride
        z_teacher, _ = _logits(
            teacher, teacher_bias, columns, filled, known, TEACHER_SCALE, TEACHER_SOFT_CAP
        )
        p_teacher = _probability(z_teacher, tl.load(statistics + 7 * row + 2), known)
        gradient -= (1 - m) * p_teacher
    gradient -= tl.where(columns == tl.load(labels + row), m, 0.0)
    gradient *= tl.load(weight + row) * FACTOR * slope
    out += row * out_stride + columns
    tl.store(out, gradient.to(out.dtype.element_ty), mask=columns < out_stride)


@triton.jit  # type: ignore[untyped-decorator]
def _logits(  # type: ignore[no-untyped-def]
    products, bias, columns, filled, inside, SCALE: tl.constexpr, SOFT_CAP: tl.constexpr
):
    """(z, d z / d a) of a row at `columns`; read where `filled`, finite where not `inside`."""
    z = tl.where(inside, tl.load(products + columns, mask=filled, other=0.0), 0.0)
    if bias is not None:
        z += tl.load(bias + columns, mask=inside, other=0.0).to(z.dtype)
    if SCALE != 1.0:
        z *= SCALE
    slope = 1.0
    if SOFT_CAP is not None:
        # tanh(x) = (1 - e) / (1 + e) and its slope = 4 * e / (1 + e)^2, with e = exp(-2 * |x|).
        e = tl.exp(tl.abs(z) * (-2.0 / SOFT_CAP))
        share = 1.0 / (1.0 + e)
        tanh = (1.0 - e) * share
        slope = 4.0 * e * share * share
        z = tl.where(z < 0, -tanh, tanh) * SOFT_CAP
    return z, slope


@triton.jit
def _raise(highest, z, inside):  # type: ignore[no-untyped-def]
    """(the new highest, what exp(old highest) and exp(z) are of its exp), lane by lane."""
    seen = tl.where(inside, z, float("-inf"))
    higher = seen > highest
    # One of the two is the highest now, so that a single exponential serves both.
    share = tl.exp(-tl.abs(seen - highest))
    return tl.maximum(seen, highest), tl.where(higher, share, 1.0), tl.where(higher, 1.0, share)


@triton.jit
def _probability(z, lse, inside):  # type: ignore[no-untyped-def]
    """exp(z - lse), 0 where not `inside`."""
    return tl.exp(tl.where(inside, z - lse, float("-inf")))
