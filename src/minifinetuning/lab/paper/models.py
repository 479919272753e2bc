"""The models of the paper, by the names that its tables use, and what a run of each must know.

And one of less than a million parameters with its tokenizer, made on the spot from general text.
It knows nothing until its reference is prepared; then it stands for a language model well enough to
see a whole table run in minutes on two cores.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.trainer_utils import set_seed

from minifinetuning.data.documents import DocumentStream
from minifinetuning.errors import InputError
from minifinetuning.files import replacing

__all__ = ["PAPER_MODELS", "TINY", "PaperModel", "paper_model", "tiny_model"]


@dataclass(frozen=True)
class PaperModel:
    """A model: `hub` is where its weights are, `tokenizer` where they come without one.

    `parameters` (tied ones once) and `hidden_size` are what estimates are made of. `licence` says
    what must be agreed to on the hub before the weights, or the tokenizer, can be fetched. In the
    tables that have no row of it, it stands in for the first model there.
    """

    name: str
    hub: str
    parameters: int
    hidden_size: int
    licence: str
    tokenizer: str | None = None


_LLAMA_2, _LLAMA_3 = "Llama 2 community licence, gated", "Llama 3 community licence, gated"
_APPLE = "Apple sample code licence; its tokenizer is Llama 2's, gated"
_NVIDIA = "NVIDIA Open Model licence"
_LLAMA_2_HUB = "meta-llama/Llama-2-7b-hf"

PAPER_MODELS = {
    model.name: model
    for model in (
        PaperModel("OpenELM 270M", "apple/OpenELM-270M", 271_527_168, 1280, _APPLE, _LLAMA_2_HUB),
        PaperModel("OpenELM 450M", "apple/OpenELM-450M", 457_179_136, 1536, _APPLE, _LLAMA_2_HUB),
        PaperModel("OpenELM 1.1B", "apple/OpenELM-1_1B", 1_079_891_456, 2048, _APPLE, _LLAMA_2_HUB),
        PaperModel("GPT Neo 125M", "EleutherAI/gpt-neo-125m", 125_198_592, 768, "MIT"),
        PaperModel("GPT Neo 1.3B", "EleutherAI/gpt-neo-1.3B", 1_315_575_808, 2048, "MIT"),
        PaperModel("GPT Neo 2.7B", "EleutherAI/gpt-neo-2.7B", 2_651_307_520, 2560, "MIT"),
        PaperModel("Phi 1.5", "microsoft/phi-1_5", 1_418_270_720, 2048, "MIT"),
        PaperModel("Phi 2", "microsoft/phi-2", 2_779_683_840, 2560, "MIT"),
        PaperModel("Gemma 2B", "google/gemma-2b", 2_506_172_416, 2048, "Gemma terms, gated"),
        PaperModel("Minitron 4B", "nvidia/Minitron-4B-Base", 4_190_509_056, 3072, _NVIDIA),
        PaperModel("LLaMA 2 7B", _LLAMA_2_HUB, 6_738_415_616, 4096, _LLAMA_2),
        PaperModel("Llama 3.1 8B", "meta-llama/Llama-3.1-8B", 8_030_261_248, 4096, _LLAMA_3),
        PaperModel("Llama 3.2 1B", "meta-llama/Llama-3.2-1B", 1_235_814_400, 2048, _LLAMA_3),
        PaperModel("Llama 3.2 3B", "meta-llama/Llama-3.2-3B", 3_212_749_824, 3072, _LLAMA_3),
    )
}
"""In the order of the paper's section 3.1, then those of its table 5."""

TINY = "tiny"
"""A model that is made on the spot, to see a run from end to end in minutes."""


VOCABULARY = 1024
DOCUMENTS = 300
"""What the tokenizer is made from, off the front of the text."""

LIMIT = 512
END = "<|endoftext|>"


def paper_model(name: str) -> PaperModel:
    """The model of this name, in any case; a folder or hub id is a model of its own.

    Such a model has no published values: it stands in for the first one of each table.
    Raises InputError for what is neither.
    """
    for known, model in PAPER_MODELS.items():
        if known.casefold() == name.casefold():
            return model
    if name == TINY or "/" in name or Path(name).exists():
        return PaperModel(Path(name).name, name, 0, 0, "")
    raise InputError(
        f"--model {name} is not known: give a folder, a hub id, {TINY}, or one of "
        f"{', '.join(PAPER_MODELS)}"
    )


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
