"""Elastic weight consolidation: weights that general text depends on are held where they were.

    penalty = lambda / 2 * sum_i F_i * (theta_i - theta*_i)^2

with theta* the starting weights and F the diagonal of their Fisher information on general text
(EWC, Kirkpatrick et al., arXiv 1612.00796; the paper's table 5).
"""

from collections.abc import Mapping

import torch
from peft import PeftModel
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from minifinetuning.data.batches import collate
from minifinetuning.data.sequences import Sequences
from minifinetuning.models.causal import causal_model, hidden_states, output_head, predicting
from minifinetuning.objectives import finetuning
from minifinetuning.ops import Head, linear_distillation
from minifinetuning.teacher import Autocast
from minifinetuning.training.config import MFTConfig

__all__ = ["FISHER_TOKENS", "ElasticPenalty", "fisher_diagonal", "starting_penalty"]

FISHER_TOKENS = 2**15
"""Tokens of general text that the Fisher is estimated on, each at the price of a training token."""

_BLOCK_ROWS = 256
"""Tokens whose logits are held at a time while labels are drawn."""


class ElasticPenalty:
    """The penalty on `parameters`, whose values now are theta*, and its gradient.

    `last` is the penalty of the latest step, a scalar tensor. Beside the model it holds F and
    theta*: 8 bytes for each trained weight in float32.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], fisher: Mapping[str, Tensor], weight: float
    ) -> None:
        self.weight = weight
        self.last = torch.zeros(())
        self._held = [
            (parameter, parameter.detach().clone(), fisher[name])
            for name, parameter in parameters.items()
        ]

    @torch.no_grad()
    def add_gradients(self, scale: float = 1.0) -> Tensor:
        """Add scale * lambda * F_i * (theta_i - theta*_i) to each gradient; returns the penalty.

        `scale` is that of a gradient scaler. The penalty, a scalar in float32, is not scaled.
        """
        total = torch.zeros((), device=self._held[0][0].device)
        for parameter, anchor, fisher in self._held:
            distance = parameter.float() - anchor
            pull = self.weight * fisher * distance
            total += 0.5 * (pull * distance).sum()
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.add_(pull, alpha=scale)
        self.last = total
        return total


def starting_penalty(
    model: PreTrainedModel | PeftModel, text: Sequences | None, args: MFTConfig, autocast: Autocast
) -> ElasticPenalty | None:
    """The penalty on the weights as they are now, by the Fisher of `text`; None where none is."""
    if not args.ewc_lambda:
        return None
    assert text is not None, "see requirements"
    progress = not args.disable_tqdm and args.process_index == 0
    with autocast():
        fisher = fisher_diagonal(model, text, seed=args.seed, progress=progress)
    return ElasticPenalty(trained_parameters(model), fisher, args.ewc_lambda)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def fisher_diagonal(
    model: PreTrainedModel | PeftModel,
    sequences: Sequences,
    *,
    tokens: int = FISHER_TOKENS,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Tensor]:
    """The diagonal of the Fisher information per predicted token, for each trained parameter:

        F_i = 1/N * sum_t E[(d log p_S(y | context_t) / d theta_i)^2],    y ~ p_S( . | context_t)

    the *true* Fisher: labels are drawn from the model, not taken from the text. Labels of different
    positions are drawn independently and their gradients have mean zero, so the square of the
    gradient of a sequence's sum has the sum of the squares as its expectation: one backward pass a
    sequence is enough. Whole sequences are taken until they hold `tokens`, or none is left.
    Dropout is off. An adapter that is zero at its output has no Fisher at its input (LoRA's A).
    """
    parameters = trained_parameters(model)
    total = {
        name: torch.zeros_like(value, dtype=torch.float32) for name, value in parameters.items()
    }
    device = causal_model(model).device
    generator = torch.Generator(device).manual_seed(seed)
    was_training, counted = model.training, 0
    model.eval()
    with tqdm(total=tokens, desc="Fisher", unit="token", leave=False, disable=not progress) as bar:
        for index in range(len(sequences)):
            if counted >= tokens:
                break
            batch = {name: value.to(device) for name, value in collate([sequences[index]]).items()}
            loss, predicted = _sampled_loss(model, batch, generator)
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    total[name].addcmul_(gradient.float(), gradient.float())
            counted += predicted
            bar.update(predicted)
    model.train(was_training)
    return {name: value / max(counted, 1) for name, value in total.items()}


def _sampled_loss(
    model: PreTrainedModel | PeftModel, batch: Mapping[str, Tensor], generator: torch.Generator
) -> tuple[Tensor, int]:
    """The summed -log p_S of labels that the model itself draws, and their number."""
    states = predicting(hidden_states(model, batch))
    head = output_head(model)
    ignored = batch["labels"][:, 1:].flatten() == -100
    drawn = sampled_tokens(states.detach(), head.detached(), generator).masked_fill(ignored, -100)
    result = linear_distillation(states, head, drawn, finetuning)
    return result.loss, int(result.tokens)


def sampled_tokens(hidden: Tensor, head: Head, generator: torch.Generator) -> Tensor:
    """(N,) of token ids, each drawn from the softmax over `head`'s logits of `hidden` (N, H)."""
    return torch.cat(
        [
            torch.multinomial(torch.softmax(head.logits(block), 1), 1, generator=generator)[:, 0]
            for block in hidden.split(_BLOCK_ROWS)
        ]
    )
