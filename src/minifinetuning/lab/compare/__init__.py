"""Many methods on the same text: `mft compare`."""

from minifinetuning.lab.compare.comparison import Comparison, comparison_of
from minifinetuning.lab.compare.runner import compare

__all__ = ["Comparison", "compare", "comparison_of"]
