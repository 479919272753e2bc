"""Every implementation of the op against the paper's equations, written out in oracle.py."""

import math
from dataclasses import fields, is_dataclass, replace
from functools import partial
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minifinetuning.objectives import TokenProbabilities, rule
from minifinetuning.ops import (
    ExpectedEmbedding,
    Head,
    TeacherStates,
    buffers,
    expected_embedding,
    linear_distillation,
)
from minifinetuning.ops.chunked import chunked_distillation
from minifinetuning.ops.fused import fused_distillation, has_triton

GPU = "cuda" if torch.cuda.is_available() else "cpu"


def in_blocks(*args, **options):
    """Chunks of 5 tokens in blocks of 2: three blocks a chunk, the last of a single token."""
    row_bytes = args[1].size * torch.promote_types(args[0].dtype, torch.float32).itemsize
    with mock.patch.object(buffers, "BLOCK_BYTES", 2 * row_bytes):
        return chunked_distillation(*args, chunk_rows=5, **options)


def fused(*args, **options):
    """Chunks of 4 tokens in blocks of 8 entries: two, the last of a single one. On a GPU if any."""
    from minifinetuning.ops import kernels

    least = {"cpu": 4, "other": 4}
    with (
        mock.patch.object(kernels, "BLOCK", 8),
        mock.patch.multiple(buffers, CHUNK_BYTES=0, LEAST_ROWS=least),
    ):
        return on("cpu", linear_distillation(*on(GPU, args), impl="fused", **options))


def on(device, value):
    """`value`, a tensor or a tuple or dataclass of such, on a device; gradients flow back."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(on(device, part) for part in value)
    if is_dataclass(value):
        return replace(value, **{f.name: on(device, getattr(value, f.name)) for f in fields(value)})
    return value


IMPLEMENTATIONS = {
    "reference": partial(linear_distillation, impl="reference"),
    "one chunk": linear_distillation,
    # Four chunks of 4, 4, 4 and 2 of the 14 tokens.
    "chunks": partial(chunked_distillation, chunk_rows=4),
    "blocks": in_blocks,
} | ({"fused": fused} if has_triton() else {})
VARIANTS = {
    "plain": {},
    "bias": {"bias": True},
    "scale": {"scale": 0.8},
    "soft cap": {"soft_cap": 6.0},
    "padded": {"padding": 2},
    "narrow teacher": {"missing": 3},
    "all": {"bias": True, "scale": 1.7, "soft_cap": 3.0, "padding": 2, "missing": 3},
}
# One ignored token, a whole ignored chunk, and the last token.
PAPER = ("ft", "corrective", "single_correction", "mft", "distillation")
IGNORED = [1, 4, 5, 6, 7, 13]
LEAVES = ("hidden", "weight", "bias")

# Tensors are counted where they are made: on the CPU, by the kernels' interpreter.
IN_CHUNKS = [chunked_distillation]
if has_triton() and GPU == "cpu":
    IN_CHUNKS.append(fused_distillation)

over_implementations = pytest.mark.parametrize("name", IMPLEMENTATIONS)
over_half_types = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def make_case(
    variant="plain",
    *,
    tokens=14,
    entries=9,
    width=5,
    teacher_width=3,
    dtype=torch.float64,
    seed=0,
    bias=False,
    scale=1.0,
    soft_cap=None,
    padding=0,
    missing=0,
):
    """Random inputs of the op, positional. The teacher is right at every other token, roughly."""
    if variant != "plain":
        return make_case(tokens=tokens, entries=entries, dtype=dtype, **VARIANTS[variant])
    generator = torch.Generator().manual_seed(seed)
    random = partial(torch.randn, generator=generator, dtype=torch.float64)

    def make_head(size, width):
        return Head(
            random(size + padding, width).to(dtype),
            random(size + padding).to(dtype) if bias else None,
            scale=scale,
            soft_cap=soft_cap,
            vocabulary_size=size if padding else None,
        )

    known = entries - missing
    head, teacher_head = make_head(entries, width), make_head(known, teacher_width)
    hidden, teacher_hidden = random(tokens, width).to(dtype), random(tokens, teacher_width)
    teacher_hidden[::4] *= 6  # Certain enough for beta = 1.
    products = teacher_hidden @ teacher_head.weight[:known].double().T
    labels = torch.randint(known, (tokens,), generator=generator)
    labels[::2] = (products + (teacher_head.bias[:known].double() if bias else 0)).argmax(1)[::2]
    labels[[n for n in IGNORED if n < tokens]] = -100
    return SimpleNamespace(
        hidden=hidden,
        head=head,
        labels=labels,
        teacher=(teacher_hidden.to(dtype), teacher_head),
    )


def leaves(case, trained=LEAVES):
    """The case's hidden states and head as fresh leaves; those in `trained` require gradients."""
    values = {"hidden": case.hidden, "weight": case.head.weight, "bias": case.head.bias}
    return {
        name: value.clone().requires_grad_(name in trained)
        for name, value in values.items()
        if value is not None
    }


def run(name, case, some_rule, *, teacher=True, trained=LEAVES, upstream=1.0, **options):
    """The op's result and, by leaf, the gradient that backward left."""
    result, inputs = forward(name, case, some_rule, teacher, trained, **options)
    (result.loss * upstream).backward()
    return result, {key: value.grad for key, value in inputs.items()}


def forward(name, case, some_rule, teacher=True, trained=LEAVES, **options):
    """`teacher` is an `ExpectedEmbedding`, True for the case's own teacher, or False for none."""
    inputs = leaves(case, trained)
    head = replace(case.head, weight=inputs["weight"], bias=inputs.get("bias"))
    if isinstance(teacher, bool):
        teacher = TeacherStates(*case.teacher) if teacher else None
    function = IMPLEMENTATIONS[name]
    result = function(inputs["hidden"], head, case.labels, some_rule, teacher, **options)
    return result, inputs


def expected(truth, case, objective, tau=0.25, *, teacher=True, **options):
    given = case.teacher if teacher else ()
    return truth(case.hidden, case.head, case.labels, objective, tau, *given, **options)


def assert_close(actual, wanted, **tolerance):
    wanted = torch.as_tensor(wanted, dtype=actual.dtype, device=actual.device)
    torch.testing.assert_close(actual, wanted.reshape(actual.shape), **tolerance)


def assert_is_truth(result, gradients, wanted, **tolerance):
    assert result.loss.dim() == 0
    assert_close(result.loss.detach(), wanted.loss, **tolerance)
    assert result.tokens.item() == wanted.tokens
    for field in ("negative_log_likelihood", "forward_kl", "mixing"):
        assert not getattr(result, field).requires_grad
        assert_close(getattr(result, field), getattr(wanted, field), **tolerance)
    assert result.teacher_is_right.tolist() == wanted.teacher_is_right
    for key, gradient in gradients.items():
        assert_close(gradient, getattr(wanted, key), **tolerance)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_cases_reach_every_branch_of_the_correction(truth, variant):
    wanted = expected(truth, make_case(variant), "mft")
    by_right = {True: set(), False: set()}
    for n, right in enumerate(wanted.teacher_is_right):
        if n not in IGNORED:
            by_right[right].add(wanted.mixing[n])
    assert len(by_right[False]) > 1
    assert 1.0 in by_right[True]
    assert any(0.25 < m < 1 for m in by_right[True])


@over_implementations
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("objective", PAPER)
def test_loss_statistics_and_gradients(truth, objective, variant, name):
    case = make_case(variant)
    result, gradients = run(name, case, rule(objective))
    assert_is_truth(result, gradients, expected(truth, case, objective))


@over_implementations
@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0])
def test_other_values_of_tau(truth, tau, name):
    case = make_case("all")
    result, gradients = run(name, case, rule("mft", tau))
    assert_is_truth(result, gradients, expected(truth, case, "mft", tau))


@over_implementations
@pytest.mark.parametrize("variant", VARIANTS)
def test_finetuning_without_a_teacher(truth, variant, name):
    case = make_case(variant)
    result, gradients = run(name, case, rule("ft"), teacher=False)
    wanted = expected(truth, case, "ft", teacher=False)
    assert_close(result.loss.detach(), wanted.loss)
    assert_close(result.negative_log_likelihood, wanted.negative_log_likelihood)
    assert (result.forward_kl, result.teacher_is_right, result.mixing) == (None, None, None)
    for key, gradient in gradients.items():
        assert_close(gradient, getattr(wanted, key))


@over_implementations
def test_a_weight_for_every_token_is_a_constant_to_the_gradient(truth, name):
    def weighted(tokens):
        return torch.full_like(tokens.student_label, 0.4), 3 * tokens.student_label

    case = make_case("all")
    result, gradients = run(name, case, weighted)
    wanted = expected(truth, case, 0.4, weight_of=lambda student, label: 3 * student[label])
    assert_is_truth(result, gradients, wanted)


@over_implementations
def test_finetuning_weighted_by_the_student_needs_no_teacher(truth, name):
    def weighted(tokens):
        return torch.ones_like(tokens.student_label), tokens.student_label

    case = make_case("all")
    result, gradients = run(name, case, weighted, teacher=False)
    wanted = expected(
        truth, case, "ft", teacher=False, weight_of=lambda student, label: student[label]
    )
    assert_close(result.loss.detach(), wanted.loss)
    for key, gradient in gradients.items():
        assert_close(gradient, getattr(wanted, key))


def share_of_entropy(student, label):
    """The entropy of the 20 largest, made to sum to one, over ln 20."""
    top = sorted(student, reverse=True)[:20]
    shares = [p / sum(top) for p in top]
    return -sum(p * math.log(p) for p in shares) / math.log(20)


@over_implementations
@pytest.mark.parametrize(
    ("variant", "entries", "teacher"),
    [*((variant, 24, False) for variant in VARIANTS), ("all", 24, True), ("all", 9, False)],
)
def test_a_weight_by_the_entropy_of_the_favourites(truth, variant, entries, teacher, name):
    case = make_case(variant, entries=entries)
    result, gradients = run(name, case, rule("eaft"), teacher=teacher)
    wanted = expected(truth, case, "ft", teacher=teacher, weight_of=share_of_entropy)
    assert_close(result.loss.detach(), wanted.loss)
    for key, gradient in gradients.items():
        assert_close(gradient, getattr(wanted, key))


@over_implementations
def test_only_a_rule_that_asks_for_entropy_pays_for_it(name):
    searches = {}
    for objective in ("ft", "mft", "dft", "eaft"):
        with mock.patch.object(torch, "topk", wraps=torch.topk) as topk:
            run(name, make_case(), rule(objective))
        searches[objective] = topk.call_count
    assert searches.pop("eaft") > 0
    assert set(searches.values()) == {0}


# Hundreds of evaluations are too many for the interpreter of kernels.
@pytest.mark.parametrize("name", [name for name in IMPLEMENTATIONS if name != "fused"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_the_slopes_of_the_loss(variant, name):
    case = make_case(variant, tokens=6)
    inputs = leaves(case)

    def loss(*values):
        given = dict(zip(inputs, values, strict=True))
        head = replace(case.head, weight=given["weight"], bias=given.get("bias"))
        return IMPLEMENTATIONS[name](
            given["hidden"], head, case.labels, rule("mft"), TeacherStates(*case.teacher)
        ).loss

    assert torch.autograd.gradcheck(loss, tuple(inputs.values()))


@over_implementations
def test_float32(truth, name):
    case = make_case("all", dtype=torch.float32)
    result, gradients = run(name, case, rule("mft"))
    assert {g.dtype for g in gradients.values()} == {result.loss.dtype} == {torch.float32}
    assert_is_truth(result, gradients, expected(truth, case, "mft"), rtol=2e-5, atol=2e-6)


@over_implementations
def test_a_label_that_the_teacher_lacks_is_corrected_as_probability_zero(truth, name):
    case = make_case("narrow teacher")
    case.labels[0] = case.head.size - 1
    result, gradients = run(name, case, rule("mft"))
    assert_is_truth(result, gradients, expected(truth, case, "mft"))


@over_implementations
def test_another_ignore_index(truth, name):
    case = make_case()
    case.labels[IGNORED] = 2
    wanted = expected(truth, case, "mft", ignore_index=2)
    assert 0 < wanted.tokens < len(case.labels)
    result, gradients = run(name, case, rule("mft"), ignore_index=2)
    assert_is_truth(result, gradients, wanted)


@over_implementations
def test_an_upstream_gradient_scales_all(truth, name):
    case = make_case("all")
    result, gradients = run(name, case, rule("mft"), upstream=3.0)
    wanted = expected(truth, case, "mft", weight_of=lambda *_: 3.0)
    assert_close(result.loss.detach(), wanted.loss / 3)
    for key, gradient in gradients.items():
        assert_close(gradient, getattr(wanted, key))


@over_implementations
@pytest.mark.parametrize("objective", ["mft", "eaft"])
@pytest.mark.parametrize("tokens", [0, 2])
def test_without_a_token_to_learn_the_loss_is_a_zero_on_the_graph(tokens, objective, name):
    case = make_case("all", tokens=tokens)
    case.labels[:] = -100
    result, gradients = run(name, case, rule(objective))
    assert result.loss.requires_grad
    assert result.loss.item() == result.tokens.item() == 0
    assert all(gradient.count_nonzero() == 0 for gradient in gradients.values())
    assert gradients["hidden"].shape == (tokens, 5)
    assert not result.mixing.any()
    assert not result.teacher_is_right.any()


@over_implementations
@pytest.mark.parametrize(
    "trained", [("hidden",), ("weight",), ("bias",), ("weight", "bias"), ("hidden", "bias")]
)
def test_only_what_is_trained_gets_a_gradient(truth, trained, name):
    case = make_case("all")
    _, gradients = run(name, case, rule("mft"), trained=trained)
    wanted = expected(truth, case, "mft")
    for key, gradient in gradients.items():
        if key in trained:
            assert_close(gradient, getattr(wanted, key))
        else:
            assert gradient is None


@over_implementations
def test_no_gradient_reaches_the_teacher_not_even_through_shared_weights(truth, name):
    case = make_case("bias", dtype=torch.float64)
    weight = case.head.weight.clone().requires_grad_()
    hidden = case.hidden.clone().requires_grad_()
    teacher_hidden = torch.randn_like(hidden).requires_grad_()
    head, teacher_head = Head(weight), Head(weight)
    given = (head, case.labels, rule("mft"), TeacherStates(teacher_hidden, teacher_head))
    IMPLEMENTATIONS[name](hidden, *given).loss.backward()
    assert teacher_hidden.grad is None
    wanted = truth(hidden, head, case.labels, "mft", 0.25, teacher_hidden, teacher_head)
    assert_close(weight.grad, wanted.weight)


@over_implementations
def test_tau_one_is_finetuning_to_the_last_bit(name):
    case = make_case("all", dtype=torch.float32)
    corrected, corrected_gradients = run(name, case, rule("mft", 1.0))
    plain, plain_gradients = run(name, case, rule("ft"), teacher=False)
    assert torch.equal(corrected.loss, plain.loss)
    assert corrected.mixing[case.labels != -100].eq(1).all()
    for key, gradient in plain_gradients.items():
        assert torch.equal(corrected_gradients[key], gradient)


@over_implementations
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tau", [0.0, 0.25, 1.0])
def test_probabilities_of_exactly_zero_and_one(truth, tau, dtype, name):
    case = make_case("narrow teacher", dtype=dtype)
    case.teacher[0].mul_(1e4)
    case.hidden.mul_(1e2)
    wanted = expected(truth, case, "mft", tau)
    result, gradients = run(name, case, rule("mft", tau))
    tolerance = {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {}
    assert_close(result.loss.detach(), wanted.loss, **tolerance)
    assert_close(result.forward_kl, wanted.forward_kl, **tolerance)
    assert ((result.mixing >= 0) & (result.mixing <= 1)).all()
    for key, gradient in gradients.items():
        assert_close(gradient, getattr(wanted, key), **tolerance)


@over_implementations
def test_a_tie_counts_as_right(name):
    case = make_case()
    case.teacher[0].zero_()  # Uniform over 9 entries: every label ties.
    result, _ = run(name, case, rule("mft", 0.25))
    kept = case.labels != -100
    assert torch.equal(result.teacher_is_right, kept)
    assert_close(result.mixing[kept], [0.25 * 9 / 8] * int(kept.sum()))


@over_implementations
def test_backward_twice_needs_retain_graph_and_then_adds_the_same(name):
    case = make_case()
    hidden = case.hidden.clone().requires_grad_()
    given = (case.head, case.labels, rule("mft"), TeacherStates(*case.teacher))
    loss = IMPLEMENTATIONS[name](hidden, *given).loss
    loss.backward(retain_graph=True)
    once = hidden.grad.clone()
    loss.backward()
    assert torch.equal(hidden.grad, 2 * once)
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()


def test_the_reference_has_a_second_derivative():
    case = make_case("all", tokens=4)

    def loss(hidden):
        return IMPLEMENTATIONS["reference"](
            hidden, case.head, case.labels, rule("mft"), TeacherStates(*case.teacher)
        ).loss

    assert torch.autograd.gradgradcheck(loss, case.hidden.clone().requires_grad_())


def test_a_second_derivative_is_refused_by_chunks():
    case = make_case()
    hidden = case.hidden.clone().requires_grad_()
    upstream = torch.ones((), dtype=torch.float64, requires_grad=True)
    result = chunked_distillation(
        hidden, case.head, case.labels, rule("mft"), TeacherStates(*case.teacher)
    )
    (slope,) = torch.autograd.grad(result.loss * upstream, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


# The expected embedding in place of the teacher's hidden states.


def frozen_case(variant, **options):
    """A case whose teacher has the student's own head, as a student with a frozen head has."""
    case = make_case(variant, **options)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(case.hidden.shape, generator=generator, dtype=torch.float64)
    case.teacher = (hidden.to(case.hidden.dtype), case.head)
    case.labels[::3] = case.head.logits(hidden)[::3].argmax(1)
    case.labels[[n for n in IGNORED if n < len(case.labels)]] = -100
    return case


@over_implementations
@pytest.mark.parametrize("variant", ["plain", "bias", "scale", "padded"])
@pytest.mark.parametrize("objective", PAPER)
def test_an_expected_embedding_gives_loss_statistics_and_gradient(truth, objective, variant, name):
    case = frozen_case(variant)
    teacher = expected_embedding(*case.teacher, case.labels)
    result, gradients = run(name, case, rule(objective), teacher=teacher, trained=("hidden",))
    wanted = expected(truth, case, objective)
    assert {True, False} == set(wanted.teacher_is_right)
    assert_is_truth(result, {"hidden": gradients["hidden"]}, wanted)
    assert gradients["weight"] is None


@over_implementations
def test_an_expected_embedding_beside_a_weight_by_entropy(truth, name):
    case = frozen_case("bias", entries=30)
    teacher = expected_embedding(*case.teacher, case.labels)
    result, gradients = run(name, case, rule("eaft"), teacher=teacher, trained=("hidden",))
    wanted = expected(truth, case, "ft", weight_of=share_of_entropy)
    assert_is_truth(result, {"hidden": gradients["hidden"]}, wanted)


def test_an_expected_embedding_is_computed_block_by_block(truth):
    case = frozen_case("bias", tokens=600)
    teacher = expected_embedding(*case.teacher, case.labels)
    result, _ = run("one chunk", case, rule("mft"), teacher=teacher, trained=("hidden",))
    assert_close(result.loss.detach(), expected(truth, case, "mft").loss)


def test_an_expected_embedding_spares_the_teachers_logits():
    case = frozen_case("plain", tokens=64)
    teacher = expected_embedding(*case.teacher, case.labels)
    with mock.patch.object(torch, "mm", wraps=torch.mm) as products:
        run("one chunk", case, rule("mft"), teacher=teacher, trained=("hidden",))
    # z_S and the gradient of the hidden states.
    assert products.call_count == 2


@over_implementations
def test_an_expected_embedding_in_half_precision_loses_what_its_dtype_loses(truth, name):
    case = frozen_case("bias", dtype=torch.float32)
    exact = expected_embedding(*case.teacher, case.labels)
    rounded = replace(exact, embedding=exact.embedding.bfloat16())
    wanted = expected(truth, case, "mft")
    result, gradients = run(name, case, rule("mft"), teacher=rounded, trained=("hidden",))
    assert result.loss.dtype == torch.float32
    bound = torch.finfo(torch.bfloat16).eps
    assert 0 < error(result.loss.detach(), wanted.loss) < bound
    assert 0 < error(gradients["hidden"], wanted.hidden) < bound


def test_an_expected_embedding_is_refused_where_the_head_is_trained():
    case = frozen_case("bias")
    teacher = expected_embedding(*case.teacher, case.labels)
    for trained in (("weight",), ("hidden", "bias")):
        inputs = leaves(case, trained)
        head = replace(case.head, weight=inputs["weight"], bias=inputs["bias"])
        with pytest.raises(ValueError, match="head is trained"):
            linear_distillation(inputs["hidden"], head, case.labels, rule("mft"), teacher)


def test_a_soft_cap_has_no_expected_embedding():
    case = frozen_case("soft cap")
    with pytest.raises(ValueError, match="soft-capped"):
        expected_embedding(*case.teacher, case.labels)
    zeros = torch.zeros(14)
    teacher = ExpectedEmbedding(torch.zeros(14, 5), zeros, zeros, zeros, zeros)
    with pytest.raises(ValueError, match="soft-capped"):
        linear_distillation(case.hidden, case.head, case.labels, rule("mft"), teacher)


def test_an_expected_embedding_of_another_shape_is_an_error():
    case = frozen_case("plain")
    teacher = expected_embedding(case.hidden[:3], case.head, case.labels[:3])
    with pytest.raises(ValueError, match=r"expected embeddings .* \(14, 5\), got \(3, 5\)"):
        linear_distillation(case.hidden, case.head, case.labels, rule("mft"), teacher)


# Precision: whatever the dtype of the inputs, no more is lost than by plain torch in float32.


def half_case(dtype):
    """Student logits of up to 20, as trained models have them, and a dozen chunks of tokens."""
    case = make_case(tokens=46, entries=24, width=8, teacher_width=6, dtype=dtype, bias=True)
    case.hidden.mul_(2)
    return case


def plain_torch(case, dtype=torch.float32):
    """(loss, negative log-likelihood, gradients) of minifinetuning, the shortest way in torch.

    Logits are computed in `dtype`, all that follows in float32.
    """
    inputs = leaves(case)
    teacher_hidden, teacher_head = case.teacher

    def logits_of(hidden, weight, bias):
        return (hidden.to(dtype) @ weight.to(dtype).T + bias.to(dtype)).float()

    logits = logits_of(inputs["hidden"], inputs["weight"], inputs["bias"])
    teacher = logits_of(teacher_hidden, teacher_head.weight, teacher_head.bias)
    kept = case.labels != -100
    rows, labels = kept.nonzero().squeeze(1), case.labels[kept]
    p, log_student = teacher[kept].softmax(1), logits[kept].log_softmax(1)
    label, highest = p[range(len(rows)), labels], p.amax(1)
    alpha = (highest - label + 0.25) / (1 + highest - label)
    beta = ((label + 0.25).clamp(max=1) - label) / (1 - label).clamp(min=1e-9)
    m = torch.where(label == highest, beta, alpha).unsqueeze(1)
    corrected = (1 - m) * p + m * torch.nn.functional.one_hot(labels, logits.shape[1])
    loss = -(corrected * log_student).sum()
    loss.backward()
    likelihood = torch.zeros(len(kept)).index_put((rows,), -log_student[range(len(rows)), labels])
    return loss.detach(), likelihood.detach(), {key: value.grad for key, value in inputs.items()}


def error(actual, wanted):
    wanted = torch.as_tensor(wanted, dtype=torch.float64).reshape(actual.shape)
    return float((actual.double() - wanted).norm() / wanted.norm())


@over_half_types
@over_implementations
def test_half_precision_inputs_lose_no_more_than_float32_does(truth, name, dtype):
    case = half_case(dtype)
    wanted = expected(truth, case, "mft")
    loss, likelihood, gradients = plain_torch(case)
    if name == "fused":
        # Its gradient of the logits is rounded once, as plain torch's is; its logits are not.
        _, _, gradients = plain_torch(case, dtype)
    result, actual = run(name, case, rule("mft"))
    assert result.loss.dtype == result.negative_log_likelihood.dtype == torch.float32
    floor = torch.finfo(torch.float32).eps
    assert error(result.loss.detach(), wanted.loss) <= 4 * error(loss, wanted.loss) + floor
    nll = wanted.negative_log_likelihood
    assert error(result.negative_log_likelihood, nll) <= 4 * error(likelihood, nll) + floor
    assert error(result.forward_kl, wanted.forward_kl) < 20 * floor
    for key, gradient in actual.items():
        assert gradient.dtype == dtype
        assert error(gradient, getattr(wanted, key)) <= 1.2 * error(
            gradients[key], getattr(wanted, key)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["reference", "one chunk"])
def test_autocast_does_not_round_the_logits(truth, name, dtype):
    # All values are bfloat16 ones, so that rounding the factors of a product would change nothing.
    case = half_case(torch.bfloat16)
    teacher_hidden, teacher_head = case.teacher
    case.hidden, case.teacher = case.hidden.to(dtype), (teacher_hidden.to(dtype), teacher_head)
    wanted = expected(truth, case, "mft")
    with torch.autocast("cpu", torch.bfloat16):
        result, inputs = forward(name, case, rule("mft"))
    result.loss.backward()
    eps = torch.finfo(torch.float32).eps
    assert error(result.loss.detach(), wanted.loss) < 4 * eps
    assert error(result.negative_log_likelihood, wanted.negative_log_likelihood) < 4 * eps
    assert error(result.forward_kl, wanted.forward_kl) < 20 * eps
    for key, leaf in inputs.items():
        assert error(leaf.grad, getattr(wanted, key)) < torch.finfo(torch.bfloat16).eps / 2


def test_autocast_leaves_the_precision_of_later_products_alone():
    case = make_case(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        forward("one chunk", case, rule("mft"))
        with pytest.raises(ValueError, match="needs a teacher"):
            forward("one chunk", case, rule("mft"), teacher=False)
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16"


# Memory: what torch makes while the op runs.


class Allocations(TorchDispatchMode):
    """Records the largest tensor made that is no view of one in `known`, in float64 entries."""

    def __init__(self, *known):
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                fresh = tensor.untyped_storage().data_ptr() not in self.known
                self.largest = max(self.largest, fresh * tensor.nbytes // 8)
        return made


def largest_tensor(function, case, trained=LEAVES, some_rule="mft"):
    """Entries of the largest tensor made by forward and, where something trains, backward."""
    inputs = leaves(case, trained)
    head = replace(case.head, weight=inputs["weight"], bias=inputs.get("bias"))
    hidden, teacher_hidden, teacher_head = inputs["hidden"], *case.teacher
    with Allocations(hidden, head.weight, teacher_hidden, teacher_head.weight) as allocations:
        given = (case.labels, rule(some_rule), TeacherStates(teacher_hidden, teacher_head))
        result = function(hidden, head, *given)
        if result.loss.requires_grad:
            result.loss.backward()
    return allocations.largest


@pytest.mark.parametrize("chunks", IN_CHUNKS)
@pytest.mark.parametrize("objective", ["mft", "eaft"])
def test_chunks_never_hold_logits_of_all_tokens(objective, chunks):
    case = make_case(tokens=32, entries=64, width=2, soft_cap=3.0, scale=0.5, bias=True)
    assert largest_tensor(partial(chunks, chunk_rows=6), case, some_rule=objective) == 6 * 64
    assert largest_tensor(IMPLEMENTATIONS["reference"], case) >= 32 * 64


def test_the_public_op_sizes_its_chunks_by_the_memory_budget(monkeypatch):
    case = make_case(tokens=64, entries=50, width=2)
    monkeypatch.setattr(buffers, "LEAST_ROWS", {"cpu": 4})
    # Two buffers of float64: the budget is enough for 7 rows, not for 8.
    monkeypatch.setattr(buffers, "CHUNK_BYTES", 8 * 2 * 50 * 8 - 1)
    assert largest_tensor(linear_distillation, case) == 7 * 50
    monkeypatch.setattr(buffers, "CHUNK_BYTES", 1)
    assert largest_tensor(linear_distillation, case) == 4 * 50


@pytest.mark.parametrize("chunks", IN_CHUNKS)
def test_a_frozen_head_costs_no_gradient_of_its_size(chunks):
    case = make_case(tokens=4, entries=50, width=64)
    chunks = partial(chunks, chunk_rows=2)
    assert largest_tensor(chunks, case) == 50 * 64
    assert largest_tensor(chunks, case, trained=("hidden",)) == 4 * 64


@pytest.mark.parametrize("chunks", IN_CHUNKS)
@pytest.mark.parametrize("trained", [LEAVES, ()])
def test_without_grad_no_gradient_is_computed(truth, trained, chunks):
    case = make_case(tokens=4, entries=64, width=64)
    chunks = partial(chunks, chunk_rows=2)
    with torch.no_grad():
        assert largest_tensor(chunks, case, trained) == 2 * 64
        result = chunks(
            case.hidden, case.head, case.labels, rule("mft"), TeacherStates(*case.teacher)
        )
    assert not result.loss.requires_grad
    assert_close(result.loss, expected(truth, case, "mft").loss)


# Refusals.


@pytest.mark.parametrize("objective", ["corrective", "single_correction", "mft", "distillation"])
@over_implementations
def test_a_missing_teacher_is_an_error(objective, name):
    with pytest.raises(ValueError, match="needs a teacher"):
        run(name, make_case(), rule(objective), teacher=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": torch.zeros(14, 4)}, r"student hidden .* \(14, 5\), got \(14, 4\)"),
        ({"hidden": torch.zeros(13, 5)}, r"student hidden .* \(14, 5\), got \(13, 5\)"),
        ({"hidden": torch.zeros(2, 7, 5)}, "student hidden"),
        ({"labels": torch.zeros(15, dtype=torch.long)}, r"student hidden .* \(15, 5\)"),
        ({"labels": torch.zeros(2, 7, dtype=torch.long)}, "labels"),
        ({"teacher": (torch.zeros(14, 4), Head(torch.zeros(9, 3)))}, "teacher hidden"),
        ({"teacher": (torch.zeros(12, 3), Head(torch.zeros(9, 3)))}, "teacher hidden"),
        ({"teacher": (torch.zeros(14, 3), Head(torch.zeros(10, 3)))}, r"\(10\) is larger .*\(9\)"),
    ],
)
def test_shapes_that_do_not_fit_are_errors(changes, message):
    given = vars(make_case()) | changes
    with pytest.raises(ValueError, match=message):
        linear_distillation(
            given["hidden"],
            given["head"],
            given["labels"],
            rule("mft"),
            TeacherStates(*given["teacher"]),
        )


def test_an_unknown_implementation_is_an_error():
    case = make_case()
    with pytest.raises(ValueError, match="'fast'"):
        linear_distillation(case.hidden, case.head, case.labels, rule("ft"), impl="fast")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": torch.zeros(4)}, r"must be \(V, H\)"),
        ({"bias": torch.zeros(3)}, r"must be \(4,\), got \(3,\)"),
        ({"vocabulary_size": 5}, r"1\.\.4, got 5"),
        ({"vocabulary_size": 0}, r"1\.\.4, got 0"),
        ({"scale": -1.0}, "scale must be above zero"),
        ({"soft_cap": 0.0}, "soft_cap must be above zero"),
    ],
)
def test_heads_that_cannot_be_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        Head(**({"weight": torch.zeros(4, 2)} | arguments))


@over_implementations
def test_a_rule_sees_one_detached_value_per_token(truth, name):
    seen = []

    def spy(tokens):
        seen.append(tokens)
        return rule("mft")(tokens)

    case = make_case()
    run(name, case, spy)
    assert all(isinstance(tokens, TokenProbabilities) for tokens in seen)
    student = torch.cat([tokens.student_label for tokens in seen])
    assert student.shape == case.labels.shape
    assert not student.requires_grad
    kept = case.labels != -100
    nll = expected(truth, case, "mft").negative_log_likelihood
    assert_close(student[kept], torch.tensor(nll, dtype=torch.float64)[kept].neg().exp())
