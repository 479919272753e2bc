"""The command line, `mft`."""

from minifinetuning.cli.verbs import main

__all__ = ["main"]
