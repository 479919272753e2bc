"""What a person reads of a run: a table, two pictures and the model card.

Everything here takes the content of `metrics.json`, a plain dict, and needs no model, no torch.
"""

from minifinetuning.report.equal_gain import equal_specialization
from minifinetuning.report.model_card import model_card
from minifinetuning.report.pictures import save_dynamics, save_frontier
from minifinetuning.report.reference_card import reference_card
from minifinetuning.report.tables import Metrics, comparison_table

__all__ = [
    "Metrics",
    "comparison_table",
    "equal_specialization",
    "model_card",
    "reference_card",
    "save_dynamics",
    "save_frontier",
]
