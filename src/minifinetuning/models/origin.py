"""Where a model comes from: its name on the hub, its licence, its architecture."""

import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.repocard import metadata_load

__all__ = ["Origin", "is_hub_id", "origin"]

_LICENCE = ("license", "license_name", "license_link")


@dataclass(frozen=True)
class Origin:
    """What is known of a model beside its weights.

    `hub_id` is None for a folder. `licence` holds what its card says under `license`,
    `license_name` and `license_link`; `architecture` is transformers' name of it, such as "llama".
    """

    hub_id: str | None
    licence: dict[str, Any] = field(default_factory=dict)
    architecture: str | None = None


def origin(name_or_path: str) -> Origin:
    """Of a model folder, the folder of an adapter, a file or a hub id; never refuses anything.

    What the files beside an adapter do not say, its base model's do. The card of a model of the hub
    is asked for there, where the network can be had.
    """
    hub_id = name_or_path if is_hub_id(name_or_path) else None
    licence = {
        name: value
        for name, value in _card(name_or_path).items()
        if name in _LICENCE and isinstance(value, str)
    }
    link = licence.get("license_link", "")
    if hub_id is not None and link and "://" not in link:
        # A file of that repository, which this one is not.
        licence["license_link"] = f"https://huggingface.co/{hub_id}/blob/main/{link}"
    architecture = _json(name_or_path, "config.json").get("model_type")
    base = _json(name_or_path, "adapter_config.json").get("base_model_name_or_path")
    if isinstance(base, str) and base != name_or_path and not (licence and architecture):
        below = origin(base)
        return Origin(hub_id, licence or below.licence, architecture or below.architecture)
    return Origin(hub_id, licence, architecture)


def is_hub_id(name: str) -> bool:
    """Like "owner/model" or "gpt2", and no file or folder of that name lies here."""
    return (
        bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name))
        and not Path(name).expanduser().exists()
    )


def _card(name_or_path: str) -> dict[str, Any]:
    """The front matter of a model's README.md; empty where it has none that can be read."""
    path = _file(name_or_path, "README.md")
    if path is None and is_hub_id(name_or_path):
        return _card_on_hub(name_or_path)
    try:
        return (metadata_load(path) if path else None) or {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}


@cache
def _card_on_hub(hub_id: str) -> dict[str, Any]:
    """One short request: a run that has ended does not wait for a network that is not there."""
    try:
        card = HfApi().model_info(hub_id, timeout=5).card_data
    except Exception:
        # Each version of the hub's library has another for networks; without a licence is no loss.
        return {}
    return {} if card is None else card.to_dict()


def _json(name_or_path: str, file: str) -> dict[str, Any]:
    path = _file(name_or_path, file)
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _file(name_or_path: str, file: str) -> Path | None:
    """A file of a folder, or of the copy of a model of the hub that was made on loading it."""
    if is_hub_id(name_or_path):
        cached = try_to_load_from_cache(name_or_path, file)
        return Path(cached) if isinstance(cached, str) else None
    path = Path(name_or_path).expanduser() / file
    return path if path.is_file() else None
