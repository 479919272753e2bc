"""The losses that are measured beside each other, ours and those of peers, as each is meant to run.

Every one takes the same hidden states and heads, and gives a scalar that backward() can be called
on. They do not all compute the same: `objective` says what. A peer is imported when it first runs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from harness import NotMeasuredError
from torch import Tensor
from torch.nn import functional

TAU = 0.25
_BETA = 0.5  # of the generalized Jensen-Shannon divergence


@dataclass(frozen=True)
class Inputs:
    """Student and teacher as hidden states (N, H) and heads (V, H) in float32; labels (N,).

    The student's two require gradients.
    """

    hidden: Tensor
    weight: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Loss:
    """A loss by name. `logit_bytes` is what it takes at its peak for each of the N * V logits,
    as measured: zero where it holds no (N, V) tensor.
    """

    name: str
    objective: str
    function: Callable[[Inputs], Tensor]
    logit_bytes: int = 0
    needs_cuda: bool = False
    is_fused: bool = False

    @property
    def is_ours(self) -> bool:
        return self.name.startswith("minifinetuning")


def _ours(objective: str, impl: str) -> Callable[[Inputs], Tensor]:
    def loss(inputs: Inputs) -> Tensor:
        from minifinetuning.objectives import rule
        from minifinetuning.ops import Head, TeacherStates, linear_distillation

        teacher = TeacherStates(inputs.teacher_hidden, Head(inputs.teacher_weight))
        result = linear_distillation(
            inputs.hidden,
            Head(inputs.weight),
            inputs.labels,
            rule(objective, TAU),
            teacher if objective == "mft" else None,
            impl=impl,  # type: ignore[arg-type]
        )
        return result.loss / len(inputs.labels)

    return loss


def torch_minifinetuning(inputs: Inputs) -> Tensor:
    """MFT from the paper's section 2 as one would write it down: full logits, autograd."""
    labels = inputs.labels.unsqueeze(1)
    log_student = torch.log_softmax((inputs.hidden @ inputs.weight.T).float(), 1)
    with torch.no_grad():
        target = torch.softmax((inputs.teacher_hidden @ inputs.teacher_weight.T).float(), 1)
        highest, label = target.amax(1, keepdim=True), target.gather(1, labels)
        alpha = (highest - label + TAU) / (1 + highest - label)
        beta = (TAU / (1 - label)).clamp(max=1)
        mixing = torch.where(label >= highest, beta, alpha)
        target = (1 - mixing) * target
        target.scatter_add_(1, labels, mixing)
    return -(target * log_student).sum(1).mean()


def torch_finetuning(inputs: Inputs) -> Tensor:
    logits = (inputs.hidden @ inputs.weight.T).float()
    return functional.cross_entropy(logits, inputs.labels)


def _torch_linear_cross_entropy(inputs: Inputs) -> Tensor:
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        raise NotMeasuredError(f"torch {torch.__version__.partition('+')[0]} does not have it")
    options = torch.nn.LinearCrossEntropyOptions()
    return functional.linear_cross_entropy(
        inputs.hidden, inputs.weight, inputs.labels, options=options
    )


def _full_logits(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Logits (N, V) of student and teacher in float32, as accelerate hands a model's to a loss."""
    student = (inputs.hidden @ inputs.weight.T).float()
    with torch.no_grad():
        return student, (inputs.teacher_hidden @ inputs.teacher_weight.T).float()


def _modelopt(inputs: Inputs) -> Tensor:
    from modelopt.torch.distill.losses import MFTLoss

    return MFTLoss(threshold=TAU)(*_full_logits(inputs), inputs.labels)


def _liger_chunked_jsd(compiled: bool) -> Callable[[Inputs], Tensor]:
    def loss(inputs: Inputs) -> Tensor:
        from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDLoss

        return LigerFusedLinearJSDLoss(beta=_BETA, compiled=compiled)(
            inputs.hidden,
            inputs.weight,
            inputs.teacher_hidden,
            inputs.teacher_weight,
            inputs.labels,
        )

    return loss


def _liger_fused_jsd(inputs: Inputs) -> Tensor:
    from liger_kernel.transformers import LigerFusedLinearJSD

    return LigerFusedLinearJSD(jsd_beta=_BETA)(
        inputs.hidden, inputs.weight, inputs.teacher_hidden, inputs.teacher_weight, inputs.labels
    )


def _liger_cross_entropy(inputs: Inputs) -> Tensor:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss()(inputs.weight, inputs.hidden, inputs.labels)


def _trl_jsd(inputs: Inputs) -> Tensor:
    from trl.experimental.gkd import GKDTrainer

    return GKDTrainer.generalized_jsd_loss(*_full_logits(inputs), beta=_BETA)


def _trl_chunked_jsd(inputs: Inputs) -> Tensor:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    divergence, _ = ChunkedDivergenceFunction.apply(
        inputs.hidden,
        inputs.weight,
        None,
        inputs.teacher_hidden,
        inputs.teacher_weight,
        None,
        _BETA,
    )
    return divergence.mean()


def _trl_cross_entropy(inputs: Inputs) -> Tensor:
    from trl.kernels import ChunkedLogProbFunction

    chunk = 32768  # entries of the vocabulary, as for TRL's divergence
    log_probabilities, *_ = ChunkedLogProbFunction.apply(
        inputs.hidden, inputs.weight, None, inputs.labels, 1.0, chunk, None, 1.0, ()
    )
    return -log_probabilities.mean()


def _cut_cross_entropy(impl: str) -> Callable[[Inputs], Tensor]:
    def loss(inputs: Inputs) -> Tensor:
        from cut_cross_entropy import linear_cross_entropy

        # It knows nothing of autocast, so the casts that autocast would do are done here.
        device = inputs.hidden.device.type
        dtype = inputs.hidden.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        hidden, weight = inputs.hidden.to(dtype), inputs.weight.to(dtype)
        return linear_cross_entropy(hidden, weight, inputs.labels, impl=impl)

    return loss


LOSSES = [
    Loss("minifinetuning", "MFT", _ours("mft", "chunked")),
    Loss("minifinetuning, fused", "MFT", _ours("mft", "fused"), needs_cuda=True, is_fused=True),
    Loss("plain torch", "MFT", torch_minifinetuning, logit_bytes=16),
    Loss("ModelOpt MFTLoss", "MFT", _modelopt, logit_bytes=36),
    Loss("Liger chunked JSD", "JSD and CE", _liger_chunked_jsd(compiled=True)),
    Loss("Liger chunked JSD, eager", "JSD and CE", _liger_chunked_jsd(compiled=False)),
    Loss("Liger fused linear JSD", "JSD", _liger_fused_jsd, needs_cuda=True),
    Loss("TRL GKD JSD", "JSD", _trl_jsd, logit_bytes=72),
    Loss("TRL chunked JSD", "JSD", _trl_chunked_jsd),
    Loss("minifinetuning", "FT", _ours("ft", "chunked")),
    Loss("minifinetuning, fused", "FT", _ours("ft", "fused"), needs_cuda=True, is_fused=True),
    Loss("plain torch", "FT", torch_finetuning, logit_bytes=12),
    Loss("torch linear_cross_entropy", "FT", _torch_linear_cross_entropy),
    Loss("Liger fused linear CE", "FT", _liger_cross_entropy, needs_cuda=True),
    Loss("cut-cross-entropy", "FT", _cut_cross_entropy("cce"), needs_cuda=True),
    Loss("cut-cross-entropy, compiled", "FT", _cut_cross_entropy("torch_compile"), logit_bytes=12),
    Loss("TRL chunked CE", "FT", _trl_cross_entropy),
]
