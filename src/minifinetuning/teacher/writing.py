"""Text that the model itself writes, for people who have no general text.

On it the sampled token says nothing that p_T does not, so what it teaches is p_T itself; and the
rise of its perplexity estimates KL(p_T || p_S) under the model's own distribution:

    log(PPL_tuned / PPL_ref) = E_{x ~ p_T}[log p_T(x) - log p_S(x)] per token
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from minifinetuning.data.sequences import END_COLUMN, require_embeddings
from minifinetuning.data.tokenizers import closing_token_id
from minifinetuning.errors import InputError
from minifinetuning.files import replacing
from minifinetuning.models.causal import causal_model, embedding_rows, evaluating, output_head
from minifinetuning.models.weights import weights_identity

__all__ = ["SelfWritten", "self_written", "start_token_id"]

_BATCH = 32
"""Sequences that are written at the same time."""


class SelfWritten(Dataset[Mapping[str, Any]]):
    """Sequences of `tokens` (n, T), each of which the model wrote from the start token on.

    `end` is the token that closes a document, which the model writes too: it is no text.
    """

    def __init__(self, tokens: Tensor, end: int | None = None) -> None:
        self.tokens, self.end = tokens, end

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        tokens = self.tokens[index].long()
        return {"input_ids": tokens} | (
            {} if self.end is None else {END_COLUMN: tokens.eq(self.end)}
        )


def self_written(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    sequences: int,
    sequence_length: int,
    seed: int = 0,
    cache: Path | None = None,
    progress: bool = False,
) -> SelfWritten:
    """`sequences` of `sequence_length` tokens, sampled from `model` at temperature 1, without cuts.

        x_0 = start token,    x_t ~ p( . | x_0 ... x_{t-1})        for t = 1 ... T - 1

    A document that ends within a sequence is followed by the next one, as in packed training text.
    Sequences that came out a second time are left out and others written in their place. The same
    seed gives the same text. The folder `cache` keeps it for the next time that the same model is
    asked for the same. Raises InputError where the model has no more to say, or does not know the
    start token.
    """
    start, end = start_token_id(tokenizer), closing_token_id(tokenizer)
    require_embeddings([{"input_ids": [start]}], embedding_rows(model), "the start of each text")
    path = None
    if cache is not None:
        asked = [
            weights_identity(model),
            start,
            sequences,
            sequence_length,
            seed,
            torch.__version__,
        ]
        path = cache / f"{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]}.safetensors"
        if (kept := _kept(path, (sequences, sequence_length))) is not None:
            return SelfWritten(kept, end)
    tokens = _distinct(model, start, sequences, sequence_length, seed, progress)
    if path is not None:
        with replacing(path) as temporary:
            save_file({"tokens": tokens}, temporary)
    return SelfWritten(tokens, end)


def start_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """What a text begins with: the BOS token, or the EOS token that closes the text before."""
    bos = tokenizer.bos_token_id
    begins_with_bos = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    return int(bos) if begins_with_bos else closing_token_id(tokenizer)


def _kept(path: Path, shape: tuple[int, int]) -> Tensor | None:
    try:
        tokens = load_file(path)["tokens"]
    except (OSError, SafetensorError, KeyError):
        return None
    return tokens if tokens.shape == shape else None


def _distinct(
    model: PreTrainedModel | PeftModel,
    start: int,
    sequences: int,
    sequence_length: int,
    seed: int,
    progress: bool,
) -> Tensor:
    """(n, T) of int32, no two rows the same."""
    generator = torch.Generator(causal_model(model).device).manual_seed(seed)
    written: dict[bytes, Tensor] = {}
    with tqdm(
        total=sequences * (sequence_length - 1),
        desc="the model writes",
        unit="token",
        leave=False,
        disable=not progress,
    ) as bar:
        while len(written) < sequences:
            before, count = len(written), min(_BATCH, sequences - len(written))
            for row in _written(model, start, count, sequence_length, generator, bar):
                written[row.numpy().tobytes()] = row
            if len(written) == before:
                raise InputError(
                    f"the model writes only {before} different sequences of {sequence_length} "
                    f"tokens, and {sequences} are needed: give general text in place of self"
                )
    return torch.stack(list(written.values()))


def _written(
    model: PreTrainedModel | PeftModel,
    start: int,
    count: int,
    sequence_length: int,
    generator: torch.Generator,
    bar: Any,
) -> Tensor:
    """(count, T) of int32 on the CPU; each token costs one forward of one position."""
    inner = causal_model(model)
    head = output_head(model).detached()
    tokens = torch.full((count, sequence_length), start, device=inner.device)
    past = None
    with evaluating(model):
        for position in range(sequence_length - 1):
            outputs = inner.get_decoder()(
                input_ids=tokens[:, position : position + 1], past_key_values=past, use_cache=True
            )
            past = outputs.past_key_values
            probabilities = torch.softmax(head.logits(outputs.last_hidden_state[:, -1]), 1)
            drawn = torch.multinomial(probabilities, 1, generator=generator)
            tokens[:, position + 1] = drawn[:, 0]
            bar.update(count)
    return tokens.int().cpu()
