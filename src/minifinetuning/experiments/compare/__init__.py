"""Many methods on the same text: `mft compare`."""

from minifinetuning.experiments.compare.comparison import Comparison, comparison_of
from minifinetuning.experiments.compare.runner import compare

__all__ = ["Comparison", "compare", "comparison_of"]
