"""A model of less than a million parameters and its tokenizer, made on the spot from general text.

It knows nothing until its reference is prepared; then it stands for a language model well enough to
see a whole table run in minutes on two cores.
"""

import hashlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.trainer_utils import set_seed

from minifinetuning.data.documents import DocumentStream
from minifinetuning.files import replacing

__all__ = ["tiny_model"]

VOCABULARY = 1024
DOCUMENTS = 300
"""What the tokenizer is made from, off the front of the text."""

LIMIT = 512
END = "<|endoftext|>"


def tiny_model(general: Sequence[str], cache: Path, seed: int) -> Path:
    """The folder of a random Llama of two layers with a byte-level BPE tokenizer, made once."""
    texts = [document.text for document in islice(DocumentStream(general), DOCUMENTS)]
    digest = hashlib.sha256("\n".join([str(seed), *texts]).encode()).hexdigest()[:16]
    folder = cache / f"tiny-{digest}"
    if not folder.exists():
        tokenizer = _tokenizer(texts)
        with replacing(folder) as temporary:
            _random_model(tokenizer, seed).save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
    return folder


def _tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=END, eos_token=END, model_max_length=LIMIT
    )


def _random_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    with torch.random.fork_rng():
        set_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=128,
                intermediate_size=384,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=LIMIT,
                tie_word_embeddings=True,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
