"""Text that the model itself writes, for people who have no general text.

On it the sampled token says nothing that p_T does not, so what it teaches is p_T itself; and the
rise of its perplexity estimates KL(p_T || p_S) under the model's own distribution:

    log(PPL_tuned / PPL_ref) = E_{x ~ p_T}[log p_T(x) - log p_S(x)] per token
"""

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
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
from minifinetuning.files import claimed, remove_leftovers, replacing
from minifinetuning.models.causal import causal_model, embedding_rows
from minifinetuning.models.precision import bfloat16_pays
from minifinetuning.models.weights import weights_identity
from minifinetuning.teacher.sampling import sampled_sequences

__all__ = ["SelfWritten", "self_written", "start_token_id"]

_TOKENS_OF_PART = {"cpu": 1 << 15}
_MORE_TOKENS = 1 << 19
"""Tokens of a part, what a killed process loses at most: minutes of a CPU, or of a GPU."""

_SEQUENCES_OF_PART = {"cpu": (16, 128)}
_MORE_SEQUENCES = (64, 512)
"""Sequences of a part, at least and at most: they are written at the same time."""

_SAMPLER = 2
"""Raised where the sampling changes, and with it the text of a seed."""

_SECONDS_BETWEEN_LOOKS = 0.5


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
    bf16: bool | None = None,
) -> SelfWritten:
    """`sequences` of `sequence_length` tokens, sampled from `model` at temperature 1, without cuts.

        x_0 = start token,    x_t ~ p( . | x_0 ... x_{t-1})        for t = 1 ... T - 1

    A document that ends within a sequence is followed by the next one, as in packed training text.
    Sequences that came out a second time are left out and others written in their place. The same
    seed gives the same text, and a longer one begins with the shorter.

    The folder `cache` keeps what is written, in parts of consecutive sequences: killed, it goes on
    at the next call where it stopped, several processes share the work, and the same model that is
    asked for the same finds it there. `bf16` autocast where it pays, if nothing is said. Raises
    InputError where the model has no more to say, or does not know the start token.
    """
    start, end = start_token_id(tokenizer), closing_token_id(tokenizer)
    require_embeddings([{"input_ids": [start]}], embedding_rows(model), "the start of each text")
    device = causal_model(model).device.type
    if bf16 is None:
        bf16 = bfloat16_pays(use_cpu=device == "cpu")
    parts = _Parts(model, start, sequence_length, seed, bf16, rows=_rows(device, sequence_length))
    if cache is not None:
        parts.folder = cache / parts.key
    return SelfWritten(_distinct(parts, sequences, progress), end)


def start_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """What a text begins with: the BOS token, or the EOS token that closes the text before."""
    bos = tokenizer.bos_token_id
    begins_with_bos = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    return int(bos) if begins_with_bos else closing_token_id(tokenizer)


def _rows(device: str, sequence_length: int) -> int:
    """The sequences of a part."""
    fewest, most = _SEQUENCES_OF_PART.get(device, _MORE_SEQUENCES)
    return min(most, max(fewest, _TOKENS_OF_PART.get(device, _MORE_TOKENS) // sequence_length))


def _distinct(parts: "_Parts", sequences: int, progress: bool) -> Tensor:
    """(n, T) of int32, no two rows the same."""
    wanted, before = sequences, -1
    while True:
        rows = {row.numpy().tobytes(): row for row in parts.first(wanted, progress)}
        if len(rows) >= sequences:
            return torch.stack(list(rows.values())[:sequences])
        if len(rows) == before:
            raise InputError(
                f"the model writes only {before} different sequences of {parts.sequence_length} "
                f"tokens, and {sequences} are needed: give general text in place of self"
            )
        before = len(rows)
        # Whole parts of more: a few sequences could happen to be known already.
        wanted = parts.rows * math.ceil((wanted + sequences - len(rows)) / parts.rows)


@dataclass
class _Parts:
    """What a model writes with a seed: a text without end, in parts of `rows` sequences.

        folder/part-00000.safetensors       the first of them, as many as were asked for

    A part is there whole or not at all. Each draws from random numbers of its own, by its number,
    so it does not matter which process writes it, nor when.
    """

    model: PreTrainedModel | PeftModel
    start: int
    sequence_length: int
    seed: int
    bf16: bool
    rows: int
    folder: Path | None = None
    """Where parts are kept; in memory alone if nowhere."""
    _in_memory: dict[int, Tensor] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The name of all that changes the text, if only by the rounding of a logit."""
        inner = causal_model(self.model)
        said = [weights_identity(self.model), self.start, self.sequence_length, self.seed]
        said += [self.rows, self.bf16, inner.device.type, _SAMPLER, torch.__version__]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]

    def first(self, sequences: int, progress: bool) -> Tensor:
        """(n, T): the first `sequences`; what is missing is written, or awaited from others."""
        wanted = {
            part: min(self.rows, sequences - first)
            for part, first in enumerate(range(0, sequences, self.rows))
        }
        found = {part: self._kept(part)[:count] for part, count in wanted.items()}
        predictions = self.sequence_length - 1
        with tqdm(
            total=sequences * predictions,
            initial=sum(map(len, found.values())) * predictions,
            desc="the model writes",
            unit="token",
            leave=False,
            disable=not progress,
        ) as bar:
            while missing := [part for part, count in wanted.items() if len(found[part]) < count]:
                is_waiting = True
                for part in missing:
                    with self._claimed(part) as mine:
                        # Another process may have been at it in the meantime.
                        kept = self._kept(part)[: wanted[part]]
                        bar.update((len(kept) - len(found[part])) * predictions)
                        found[part] = kept
                        if mine and len(kept) < wanted[part]:
                            found[part] = self._continued(part, kept, wanted[part], bar)
                            is_waiting = False
                if is_waiting:
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
        return torch.cat([found[part] for part in wanted])

    def _continued(self, part: int, kept: Tensor, count: int, bar: Any) -> Tensor:
        """The part with `count` sequences, of which `kept` are there already."""
        numbers = hashlib.sha256(f"{self.seed} {part}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(numbers[:8], "big") >> 1)
        size = (self.rows, self.sequence_length - 1)
        uniforms = torch.rand(size, dtype=torch.float64, generator=generator)
        written = sampled_sequences(
            self.model,
            self.start,
            uniforms[len(kept) : count],
            bf16=self.bf16,
            wrote=bar.update,
        )
        tokens = torch.cat([kept, written])
        if self.folder is None:
            self._in_memory[part] = tokens
        else:
            with replacing(self._path(part)) as temporary:
                save_file({"tokens": tokens}, temporary)
        return tokens

    def _kept(self, part: int) -> Tensor:
        """(k, T): the sequences of a part that are there; none of a file that is damaged."""
        nothing = torch.empty(0, self.sequence_length, dtype=torch.int32)
        if self.folder is None:
            return self._in_memory.get(part, nothing)
        try:
            tokens = load_file(self._path(part))["tokens"]
        except (OSError, SafetensorError, KeyError):
            return nothing
        return tokens if tokens.shape[1:] == nothing.shape[1:] else nothing

    @contextmanager
    def _claimed(self, part: int) -> Iterator[bool]:
        """Whether this process may write the part: no other one does."""
        if self.folder is None:
            yield True
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with claimed(self._path(part)) as mine:
            if mine:
                remove_leftovers(self._path(part))
            yield mine

    def _path(self, part: int) -> Path:
        assert self.folder is not None, "a text in memory alone has no files"
        return self.folder / f"part-{part:05d}.safetensors"
