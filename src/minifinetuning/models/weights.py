"""The weights of a model: which they are, by content, and as they lie on disk, tensor by tensor."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel

from minifinetuning.errors import InputError
from minifinetuning.models.causal import causal_model

__all__ = [
    "StoredWeights",
    "bytes_of",
    "model_folder",
    "starting_weights",
    "stored_dtype",
    "weights_identity",
]

_INDEX = "safetensors.index.json"
_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_WITHOUT_FRACTION = ("I", "U", "BOOL")
# A repository may also hold the same weights as pickle, ONNX or GGUF.
_FILES_OF_A_MODEL = (
    "model*.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
    "*.py",
)

_SAMPLED_VALUES = 256
"""Of each tensor, where all of them would take too long."""

_IRRELEVANT_SETTINGS = (
    "_name_or_path",
    "transformers_version",
    "architectures",
    "use_cache",
    "dtype",
    "torch_dtype",
    "quantization_config",
    "output_attentions",
    "output_hidden_states",
)
"""Settings of a model that may differ while its hidden states are the same."""


def weights_identity(model: PreTrainedModel | PeftModel) -> str:
    """The SHA-256 of the starting model: its configuration and its weights without adapters.

    A model has the same identity with and without adapters, so that full finetuning and any
    adapter share one cache. It must not have been trained yet.
    """
    inner = causal_model(model)
    settings = {
        name: value
        for name, value in inner.config.to_dict().items()
        if name not in _IRRELEVANT_SETTINGS
    }
    said = json.dumps([type(inner).__name__, settings], sort_keys=True, default=str)
    digest = hashlib.sha256(said.encode())
    for name, weight in sorted(starting_weights(inner)):
        digest.update(f"{name}:{weight.dtype}:{tuple(weight.shape)}:".encode())
        digest.update(bytes_of(weight))
    return digest.hexdigest()


def sampled_weights_identity(model: PreTrainedModel | PeftModel) -> str:
    """A SHA-256 of the names, shapes and dtypes of all weights, and of 256 values of each.

    Adapters are left out: a run that goes on has its own from the checkpoint. It must be taken
    before training.
    """
    inner = causal_model(model)
    digest = hashlib.sha256(type(inner).__name__.encode())
    for name, weight in sorted(starting_weights(inner)):
        digest.update(json.dumps([name, list(weight.shape), str(weight.dtype)]).encode())
        places = torch.tensor(spread(weight.numel(), _SAMPLED_VALUES), dtype=torch.long)
        digest.update(bytes_of(weight.detach().reshape(-1)[places.to(weight.device)]))
    return digest.hexdigest()


def spread(count: int, most: int) -> list[int]:
    """At most `most` numbers below `count`, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [number * (count - 1) // (most - 1) for number in range(most)]


def starting_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """The parameters and their names in the model that has no adapters."""
    adapted = [name for name, part in model.named_modules() if isinstance(part, BaseTunerLayer)]
    for name, weight in model.named_parameters():
        inside = next((layer for layer in adapted if name.startswith(f"{layer}.")), None)
        if inside is None:
            yield name, weight
        elif name.startswith(f"{inside}.base_layer."):
            yield name.replace(".base_layer.", ".", 1), weight


def bytes_of(values: Tensor) -> memoryview:
    """The memory of a tensor's values, of any dtype and device."""
    flat = values.detach().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data


def model_folder(name_or_path: str) -> Path:
    """The folder that holds the files of a model: itself, or the cached snapshot of a hub id.

    Raises InputError for a `.gguf`, any other file, and what is neither folder nor hub id.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if path.suffix == ".gguf":
        raise InputError(
            f"{name_or_path} is a GGUF, which holds no weights that can be read one by one: save "
            "it as safetensors first (load_model(...).save_pretrained(folder) in Python)"
        )
    if path.is_file():
        raise InputError(f"{name_or_path} is a file: give the folder that holds it")
    try:
        return Path(snapshot_download(name_or_path, allow_patterns=list(_FILES_OF_A_MODEL)))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name_or_path} is no model folder, and no model of the hub that can be had now: "
            "give a folder that save_pretrained wrote"
        ) from error


def stored_dtype(name_or_path: str) -> torch.dtype | None:
    """The float that the weights of a model lie in: the narrowest that holds all of them as is.

    None where that cannot be said, as of a GGUF, whose weights are quantised.
    """
    try:
        folder = model_folder(name_or_path)
    except InputError:
        return None
    with suppress(InputError):
        return StoredWeights(folder).dtype
    # Pickled weights, or such as need scales: the configuration knows.
    with suppress(OSError, ValueError, AttributeError):
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        named = settings.get("dtype") or settings.get("torch_dtype")
        return next((each for each in _FLOATS.values() if str(each) == f"torch.{named}"), None)
    return None


class StoredWeights(Mapping[str, Tensor]):
    """The safetensors of a folder, in one file or in many, by the names that stand in them.

        StoredWeights(folder)["model.norm.weight"]

    Only names, shapes and dtypes are held. Each tensor is read when it is asked for, through a
    mapping of its own that goes with it: memory never holds more than the caller does.
    `file` is "adapter_model" for the folder of an adapter. Raises InputError where there are no
    safetensors, and for weights in a float that float32 cannot hold or that needs scales.
    """

    def __init__(self, folder: Path, file: str = "model") -> None:
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, Path] = {}
        dtypes: set[str] = set()
        for path in self._paths(file):
            try:
                with safe_open(path, framework="pt") as weights:
                    for name in weights.keys():  # noqa: SIM118 - no mapping, though it has keys
                        header = weights.get_slice(name)
                        self._files[name] = path
                        self.shapes[name] = tuple(header.get_shape())
                        dtypes.add(header.get_dtype())
            except (SafetensorError, OSError) as error:
                raise InputError(f"{path} cannot be read ({error}): copy it again") from error
        self.dtype = self._widest(dtypes)

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._files[name], framework="pt") as weights:
            tensor: Tensor = weights.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def _paths(self, file: str) -> list[Path]:
        single, index = (self.folder / f"{file}.{end}" for end in ("safetensors", _INDEX))
        if single.is_file():
            return [single]
        if not index.is_file():
            raise InputError(
                f"{self.folder} holds no {single.name}: save the model as safetensors first "
                "(save_pretrained)"
            )
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{index} is no index of safetensors: copy it again") from error
        return [self.folder / name for name in sorted(names)]

    def _widest(self, dtypes: set[str]) -> torch.dtype:
        """The narrowest dtype that holds every float of the files as it is."""
        widest: torch.dtype | None = None
        for name in sorted(dtypes):
            if name.startswith(_WITHOUT_FRACTION):
                continue
            if name not in _FLOATS:
                raise InputError(
                    f"{self.folder} holds weights in {name}: save them in float32, bfloat16 or "
                    "float16 first"
                )
            dtype = _FLOATS[name]
            widest = dtype if widest is None else torch.promote_types(widest, dtype)
        return widest or torch.float32
