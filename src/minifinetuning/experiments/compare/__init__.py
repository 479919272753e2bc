"""Many methods on the same text: `mft compare`."""

from minifinetuning.experiments.compare.runner import Comparison, compare, comparison_of

__all__ = ["Comparison", "compare", "comparison_of"]
