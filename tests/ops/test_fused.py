"""What only the fused op promises; its values and gradients are test_linear_distillation.py's."""

import importlib.util
import mmap
import sys
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from minifinetuning.objectives import rule
from minifinetuning.ops import Head, TeacherStates, linear_distillation

GPU = "cuda" if torch.cuda.is_available() else "cpu"
EPS = torch.finfo(torch.bfloat16).eps

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


def make_case(entries=24, tokens=12, width=8, spread=1.0, dtype=torch.float32, nearness=None):
    """(hidden, weight, labels, teacher); `nearness` is the teacher's distance from the student."""
    generator = torch.Generator().manual_seed(0)
    hidden, other = spread * torch.randn(2, tokens, width, generator=generator)
    weight = torch.randn(entries, width, generator=generator).to(GPU, dtype)
    if nearness is not None:
        other = hidden + nearness * other
    labels = torch.randint(entries, (tokens,), generator=generator).to(GPU)
    return hidden.to(GPU, dtype), weight, labels, TeacherStates(other.to(GPU, dtype), Head(weight))


def in_dtype(case, dtype, teacher_dtype=None):
    hidden, weight, labels, teacher = case
    teacher_dtype = teacher_dtype or dtype
    head = Head(teacher.head.weight.to(teacher_dtype))
    teacher = TeacherStates(teacher.hidden.to(teacher_dtype), head)
    return hidden.to(dtype), weight.to(dtype), labels, teacher


def run(case, impl, objective="mft", upstream=1.0):
    """The loss, and the gradients of hidden states and weight."""
    hidden, weight, labels, teacher = case
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    result = linear_distillation(hidden, Head(weight), labels, rule(objective), teacher, impl=impl)
    (result.loss * upstream).backward()
    return result.loss.detach(), hidden.grad, weight.grad


def errors(actual, wanted):
    return [
        float((a.double() - w.double()).norm() / w.double().norm())
        for a, w in zip(actual, wanted, strict=True)
    ]


# Values.


@needs_triton
def test_a_vocabulary_of_several_blocks_and_no_multiple_of_one():
    case = make_case(entries=5000, tokens=3)
    wanted = run(in_dtype(case, torch.float64), "reference")
    assert max(errors(run(case, "fused"), wanted)) < 2e-6


@needs_triton
def test_logits_keep_what_rounding_them_would_lose():
    # A student near its teacher: p_S - p_T is small beside what bfloat16 rounds off the logits.
    case = make_case(spread=4.0, dtype=torch.bfloat16, nearness=0.02)
    wanted = run(in_dtype(case, torch.float64), "reference", "distillation")
    _, *gradients = run(case, "fused", "distillation")
    assert max(errors(gradients, wanted[1:])) < EPS

    hidden, weight, _, teacher = case
    hidden = hidden.clone().requires_grad_()
    with torch.no_grad():
        target = (teacher.hidden @ weight.T).float().softmax(1)
    (-target * (hidden @ weight.T).float().log_softmax(1)).sum().backward()
    assert min(errors([hidden.grad], wanted[1:2])) > 5 * EPS


@needs_triton
def test_float16_keeps_the_gradient_of_entries_without_much_probability():
    # Most entries have a share of 1e-9 to 1e-6, below or among the least float16 numbers.
    case = make_case(entries=200, spread=0.3, dtype=torch.float16)
    hidden, weight, labels, _ = case
    hidden[:, 0], weight[:, 0] = 4.0, 0.0
    weight[labels, 0] = 4.5
    scale = 2.0**16  # As a GradScaler does.
    *_, wanted = run(in_dtype(case, torch.float64), "reference", "ft", scale)
    *_, gradient = run(case, "fused", "ft", scale)
    rare = wanted.norm(dim=1) < 1e-6 * wanted.norm(dim=1).max() * 100
    assert rare.sum() > 100
    assert max(errors([gradient[rare]], [wanted[rare]])) < 0.02


@needs_triton
@pytest.mark.parametrize(
    ("student", "teacher", "bound"),
    [(torch.bfloat16, torch.float32, EPS), (torch.float64, torch.bfloat16, 1e-12)],
)
def test_the_teacher_may_have_another_dtype(student, teacher, bound):
    case = make_case(dtype=torch.bfloat16)
    wanted = run(in_dtype(case, torch.float64), "reference")
    assert max(errors(run(in_dtype(case, student, teacher), "fused"), wanted)) < bound


@needs_triton
def test_autocast_rounds_the_factors_of_the_products_alone():
    case = make_case()
    rounded = in_dtype(in_dtype(case, torch.bfloat16), torch.float32)
    assert not torch.equal(rounded[0], case[0])
    wanted = run(in_dtype(rounded, torch.float64), "reference")
    with torch.autocast(GPU, torch.bfloat16):
        actual = run(case, "fused")
    assert {value.dtype for value in actual} == {torch.float32}
    loss, *gradients = errors(actual, wanted)
    assert loss < 1e-6
    assert max(gradients) < EPS


@needs_triton
def test_autocast_leaves_float64_alone():
    case = in_dtype(make_case(), torch.float64)
    with torch.autocast(GPU, torch.bfloat16):
        actual = run(case, "fused")
    assert max(errors(actual, run(case, "reference"))) < 1e-12


@needs_triton
def test_a_label_beyond_the_vocabulary_makes_the_loss_nan_and_reads_nothing():
    hidden, weight, labels, teacher = make_case()
    for wrong in (24, 10**12, -1):
        labels[3] = wrong
        result = linear_distillation(
            hidden, Head(weight), labels, rule("mft"), teacher, impl="fused"
        )
        assert result.negative_log_likelihood.isnan().tolist() == [n == 3 for n in range(12)]


# Addresses.


@needs_triton
def test_rows_further_apart_than_2_to_the_31_entries():
    """A row whose offset wrapped round in int32 would lie in the half below: other values."""
    from minifinetuning.ops import kernels
    from minifinetuning.ops.outputs import TokenOutputs

    memory = address_space(2**32 + 256)
    student, teacher = (memory.as_strided((3, 10), (2**30, 1), 2**31 + start) for start in (0, 128))
    torch.manual_seed(0)
    near = torch.randn(2, 3, 10, device=GPU)
    student.copy_(near[0])
    teacher.copy_(near[1])
    labels = torch.tensor([1, 2, 3], device=GPU)
    outputs = TokenOutputs(*torch.full((6, 3), 0.5, device=GPU))

    def logits(products):
        return kernels.Logits(products, None, 1.0, None)

    def both(student, teacher):
        given = (logits(student), logits(teacher), labels)
        statistics = kernels.row_statistics(*given)
        kernels.write_logit_gradient(*given, statistics, outputs, 1.0, out=student)
        return statistics, student.clone()

    far_apart, close = both(student, teacher), both(*near.clone())
    assert all(map(torch.equal, far_apart, close))
    assert not torch.equal(close[1], near[0])


def address_space(entries):
    """float32 zeros of which only what is touched takes memory; on a GPU all of it does."""
    if GPU == "cuda":
        if torch.cuda.mem_get_info()[0] < 5 * entries:
            pytest.skip("the GPU has too little free memory")
        return torch.zeros(entries, device=GPU)
    no_reserve = 0x4000  # Linux's MAP_NORESERVE, which the module mmap names from Python 3.13 on.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    return torch.frombuffer(mmap.mmap(-1, 4 * entries, flags=flags), dtype=torch.float32)


# Waiting.


class NothingIsReadBack(TorchDispatchMode):
    """Fails at an operation whose result the host would have to wait for."""

    waiting = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "_unique2", "equal")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function.overloadpacket.__name__ not in self.waiting
        return function(*args, **(kwargs or {}))


@needs_triton
@pytest.mark.parametrize("objective", ["mft", "eaft"])
def test_the_host_never_waits_for_the_device(objective):
    case = make_case(dtype=torch.bfloat16)
    case[2][4] = -100
    with NothingIsReadBack():
        run(case, "fused", objective)
        with pytest.raises(AssertionError):
            bool(case[2][0])


# Which implementation runs.


def test_without_triton_fused_is_refused_in_one_sentence():
    message = "needs Triton: install triton, or choose impl='chunked'$"
    with mock.patch.dict(sys.modules, triton=None), pytest.raises(ValueError, match=message):
        run(make_case(), "fused")


@needs_triton
def test_tensors_on_a_cpu_are_refused_without_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    case = [part.cpu() for part in make_case()[:3]]
    with pytest.raises(ValueError, match="runs on a GPU, and the hidden states are on the CPU"):
        linear_distillation(case[0], Head(case[1]), case[2], rule("ft"), impl="fused")


@pytest.mark.parametrize(
    ("device", "triton", "wanted"),
    [("cuda", True, "fused"), ("cuda", False, "chunked"), ("cpu", True, "chunked")],
)
def test_auto_is_fused_on_cuda_where_triton_is_installed(device, triton, wanted):
    # The package has the function's name for the module's.
    module = sys.modules["minifinetuning.ops.distillation"]
    implementations = {"fused": mock.Mock(), "chunked": mock.Mock()}
    with (
        FakeTensorMode(),
        mock.patch.object(module, "has_triton", return_value=triton),
        mock.patch.object(module, "_IMPLEMENTATIONS", implementations),
    ):
        hidden, weight = torch.zeros(3, 2, device=device), torch.zeros(5, 2, device=device)
        labels = torch.zeros(3, dtype=torch.long, device=device)
        linear_distillation(hidden, Head(weight), labels, rule("ft"))
    assert [name for name, function in implementations.items() if function.called] == [wanted]
