"""A path or a hub id to a model and its tokenizer, whatever the format of the weights."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from peft import PeftModel
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import minifinetuning.models.openelm  # noqa: F401 - the Auto classes know it once imported
from minifinetuning.errors import InputError
from minifinetuning.files import printable
from minifinetuning.models.config import ModelConfig
from minifinetuning.models.merging import attached, changes_head, merged

__all__ = [
    "HELD_IN",
    "LOADING_ERRORS",
    "adapter_base",
    "is_adapter",
    "limit_of",
    "load_as_started",
    "load_as_trained",
    "load_model",
    "load_tokenizer",
    "model_limit",
    "own_tokenizer",
    "vocabulary_size",
]

HELD_IN = "float32"
"""The dtype of weights where nothing is said."""

LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
)
"""What from_pretrained lets through for files that are missing, broken or of another kind."""


def load_model(
    model: str | ModelConfig, *, dtype: str | None = None, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The causal language model at a folder, a `.gguf` file or a hub id, ready to be trained.

    Safetensors in one file or many, in any dtype; GGUF, which is de-quantised; and a folder that
    holds a PEFT adapter, which is merged into its base model. `dtype` is what the weights are held
    in, float32 where nothing is said; "auto" is the checkpoint's own. A ModelConfig says all three.
    Raises InputError where nothing there can be loaded, or not all of it is there.
    """
    config = _config_of(model, dtype, trust_remote_code)
    with _refusing(config.model):
        base = adapter_base(config.model)
        if base is None:
            return _whole_model(config)
        return merged(load_model(replace(config, model=base)), Path(config.model).expanduser())


def load_as_trained(
    model: str | ModelConfig, *, dtype: str | None = None, trust_remote_code: bool = False
) -> PreTrainedModel | PeftModel:
    """The model at a place to be measured: an adapter stays beside its base model.

    Merging rounds, to whole steps of the scales where the base is quantised. Only an adapter on the
    output head, which has to be one layer, is merged. Raises InputError as `load_model` does.
    """
    config = _config_of(model, dtype, trust_remote_code)
    with _refusing(config.model):
        base = adapter_base(config.model)
        if base is None:
            return _whole_model(config)
        folder = Path(config.model).expanduser()
        adapted = attached(load_model(replace(config, model=base)), folder)
        if not changes_head(adapted):
            return adapted.eval()
        return merged(adapted.unload(), folder)


def load_as_started(
    model: str | ModelConfig, *, dtype: str | None = None, trust_remote_code: bool = False
) -> PreTrainedModel | PeftModel:
    """The model at a place to be measured as what training starts from: with an adapter merged.

    What cannot be merged, and so was never started from, is measured as it was trained. Raises
    InputError as `load_model` does.
    """
    config = _config_of(model, dtype, trust_remote_code)
    with suppress(InputError):
        return load_model(config)
    return load_as_trained(config)


def _config_of(model: str | ModelConfig, dtype: str | None, trust_remote_code: bool) -> ModelConfig:
    if isinstance(model, ModelConfig):
        return model
    return ModelConfig(model, dtype=dtype, trust_remote_code=trust_remote_code)


def _whole_model(config: ModelConfig) -> PreTrainedModel:
    location = _location(config.model)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        **location,
        dtype=config.dtype or HELD_IN,
        trust_remote_code=config.trust_remote_code,
        output_loading_info=True,
    )
    model: PreTrainedModel = loaded[0]
    found: dict[str, Any] = loaded[1]
    if found["missing_keys"]:
        # transformers makes up at random what is not there.
        raise InputError(
            f"--model {config.model} lacks {min(found['missing_keys'])}: save the whole model there"
        )
    if "gguf_file" in location:
        _forget_quantization(model)
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        # Older transformers choose a kernel for Gemma 2 that leaves this cap out.
        model.set_attn_implementation("eager")
    return model


@contextmanager
def _refusing(name_or_path: str) -> Iterator[None]:
    """Say in one sentence what from_pretrained says in its own ways."""
    try:
        yield
    except InputError:
        raise
    except LOADING_ERRORS as error:
        raise InputError(
            f"--model {name_or_path} cannot be loaded as a causal language model: {_reason(error)}"
        ) from error


def load_tokenizer(
    model: str | ModelConfig, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer beside the model at a folder, a `.gguf` file or a hub id.

    An adapter's is that of its base model where its folder brings none; a ModelConfig may name
    another place. Raises InputError where there is none.
    """
    config = _config_of(model, None, trust_remote_code)
    option = "--model" if config.tokenizer is None else "--tokenizer"
    place = config.tokenizer or config.model
    while (base := adapter_base(place)) and not any(Path(place).expanduser().glob("*token*")):
        place = base
    location = _location(place, option)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            **location, trust_remote_code=config.trust_remote_code
        )
    except LOADING_ERRORS as error:
        raise InputError(
            f"{option} {place} has no tokenizer that can be loaded: {_first_sentence(error)}"
        ) from error
    special = {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}
    if not tokenizer.get_vocab().keys() - special:
        # transformers makes one of nothing but special tokens where the files are not there.
        raise InputError(
            f"{option} {place} has no tokenizer: its files (tokenizer.json and the like) "
            "are not there; copy them from the model that it was made of"
        )
    return tokenizer


def own_tokenizer(
    model: str | ModelConfig, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase | None:
    """The tokenizer that lies with a model, or with an adapter's base; None without one."""
    config = _config_of(model, None, trust_remote_code)
    with suppress(InputError):
        return load_tokenizer(replace(config, tokenizer=None))
    return None


def model_limit(model: str | ModelConfig) -> int | None:
    """The most tokens of a sequence that the model at this place was made for, if it says so."""
    return limit_of(_text_settings(model))


def limit_of(config: Any) -> int | None:
    """The most tokens of a sequence that a model of this configuration was made for, if known."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def vocabulary_size(model: str | ModelConfig) -> int | None:
    """The number of token ids that the model at this place has embeddings for, if it says so."""
    return getattr(_text_settings(model), "vocab_size", None)


def _text_settings(model: str | ModelConfig) -> Any:
    """The configuration of the part of the model that reads and writes text."""
    config = _config_of(model, None, False)
    location = _location(adapter_base(config.model) or config.model)
    try:
        settings = AutoConfig.from_pretrained(
            **location, trust_remote_code=config.trust_remote_code
        )
    except LOADING_ERRORS as error:
        raise InputError(
            f"--model {config.model} has no configuration that can be loaded: "
            f"{_first_sentence(error)}"
        ) from error
    return settings.get_text_config()


def is_adapter(name_or_path: str) -> bool:
    """Whether a PEFT adapter, not a whole model, lies in this folder."""
    return (Path(name_or_path).expanduser() / "adapter_config.json").is_file()


def adapter_base(name_or_path: str) -> str | None:
    """The base model of the PEFT adapter in this folder; None where there is no adapter."""
    if not is_adapter(name_or_path):
        return None
    path = Path(name_or_path).expanduser() / "adapter_config.json"
    try:
        base = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        base = None
    if not isinstance(base, str):
        raise InputError(
            f"--model {name_or_path} has an adapter_config.json that names no base model: set "
            "base_model_name_or_path in it, or save the adapter again"
        )
    return base


def _location(name_or_path: str, option: str = "--model") -> dict[str, Any]:
    """The arguments of `from_pretrained` that name this place."""
    path = Path(name_or_path).expanduser()
    looks_like_path = path.is_absolute() or name_or_path.startswith((".", "~"))
    if not path.exists() and (
        looks_like_path or name_or_path.count("/") > 1 or path.suffix == ".gguf"
    ):
        raise InputError(f"{option} {name_or_path} does not exist: give a model folder or a hub id")
    if printable(path) != str(path):
        raise InputError(
            f"{option} {printable(path)}: its name holds bytes that are no UTF-8, which the "
            "libraries that read it refuse: rename it"
        )
    if path.suffix == ".gguf":
        if find_spec("gguf") is None:
            raise InputError(
                f"{option} {name_or_path} is a GGUF, which another package reads: "
                "pip install 'minifinetuning[gguf]'"
            )
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    if path.is_file():
        raise InputError(f"{option} {name_or_path} is a file: give the folder that holds it")
    if path.is_dir() and not any(path.glob("*config.json")):
        raise InputError(
            f"{option} {name_or_path} holds no config.json: give a folder that "
            "save_pretrained wrote"
        )
    return {"pretrained_model_name_or_path": str(path) if path.exists() else name_or_path}


def _forget_quantization(model: PreTrainedModel) -> None:
    # transformers de-quantises a GGUF on loading, yet the model goes on saying that it is
    # quantised, and then neither save_pretrained nor Trainer accepts it.
    said: Any = model
    said.hf_quantizer = None
    said.is_quantized = False
    for owner, name in ((said, "quantization_method"), (said.config, "quantization_config")):
        if hasattr(owner, name):
            delattr(owner, name)


def _reason(error: BaseException) -> str:
    """Why there is no model; transformers would name all the kinds that it has instead."""
    other = re.match(r"Unrecognized configuration class <class '\S*\.(\w+)Config'>", str(error))
    if other is None:
        return _first_sentence(error)
    return f"transformers has none of the kind {other[1]}; give a model that only continues text"


def _first_sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + " …"
