"""Names of models, files and folders as a reader may see them: no folder of the author's."""

import re
from collections.abc import Mapping

from minifinetuning.models.origin import is_hub_id

__all__ = ["place", "shown"]


def shown(value: object) -> str:
    """A setting in one line. A path shows its last part only: the rest is the author's business."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={shown(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(shown(item) for item in value)
    text = str(value)
    if is_hub_id(text) or not re.search(r"[/\\]", text):
        return text
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1]


def place(model: str) -> str:
    """What `from_pretrained` takes, with a reader's own folder in place of the author's."""
    return model if is_hub_id(model) else f"path/to/{shown(model)}"
