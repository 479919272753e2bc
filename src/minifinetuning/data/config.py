"""Which texts are read, how many tokens of them, and how long their sequences are."""

from dataclasses import dataclass, field
from typing import ClassVar

from minifinetuning.data.tokens import token_count
from minifinetuning.errors import InputError
from minifinetuning.options import option, require_ranges

DEFAULT_SEQUENCE_LENGTH = 2048
"""Tokens, where the model takes as many."""


@dataclass(kw_only=True)
class TextConfig:
    """How texts are read, split by document and packed into sequences."""

    _argument_group_name: ClassVar[str] = "text"

    text_field: str | None = option(
        None, "The column of text, or the list of documents in one JSON object."
    )
    skip_unreadable: bool = option(
        False, "Skip what is no text or no table of text, in place of refusing it."
    )
    drop_boilerplate: bool = option(
        False,
        "Drop lines that stand in 20 documents or more (menus, footers), all but the "
        "first of each.",
    )
    train_tokens: str = option("4M", "Training tokens at most (k, M and B are understood).")
    validation_tokens: str = option(
        "0.5M", "Validation tokens, of each text; 10 %% of it where that is less."
    )
    sequence_length: int | None = option(
        None, "Tokens of a sequence; where nothing is said 2048, or the model's limit."
    )

    def __post_init__(self) -> None:
        require_ranges(self)
        for name in ("train_tokens", "validation_tokens"):
            try:
                count = token_count(getattr(self, name))
            except InputError as error:
                raise InputError(f"--{name}: {error}") from error
            if count > _MOST_TOKENS:
                raise InputError(f"--{name} is above {_MOST_TOKENS:,}: give a smaller budget")

    @property
    def train_budget(self) -> int:
        """`train_tokens` as a number."""
        return token_count(self.train_tokens)

    @property
    def validation_budget(self) -> int:
        """`validation_tokens` as a number."""
        return token_count(self.validation_tokens)


@dataclass(kw_only=True)
class DataConfig(TextConfig):
    """The texts of a run: the specialized one, and general text to measure forgetting on."""

    data: list[str] = field(
        metadata={"help": "The specialized text: files, folders, globs or a datasets id."}
    )
    general: list[str] | None = option(
        None,
        "General text: forgetting (DG) is measured on some of its documents, none of "
        "which is trained on.",
    )
    replay: list[str] | None = option(
        None, "General text to train on beside the other; self: written by the model."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_no_self("data", self.data)


@dataclass(kw_only=True)
class GeneralConfig(TextConfig):
    """The text that a reference is prepared on."""

    general: list[str] = field(
        metadata={"help": "The general text: files, folders, globs or a datasets id."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_no_self("general", self.general)


def _require_no_self(option: str, sources: list[str]) -> None:
    """What a model writes itself teaches it nothing: it is for measuring and for replay."""
    if "self" in sources:
        raise InputError(
            f"--{option} self: text that the model writes itself is for --general and --replay of "
            "mft train, cache, write and compare; name files (./self for one of that name)"
        )


_MOST_TOKENS = 10**15
