"""What a person reads of one run or of many: tables, a sentence, pictures, a page, model cards.

Everything here takes the content of `metrics.json`, a plain dict, and needs no model, no torch.
"""

from minifinetuning.report.comparison_page import comparison_page
from minifinetuning.report.difference_table import difference_table
from minifinetuning.report.equal_gain import equal_specialization
from minifinetuning.report.extent import measured_on, validation_extent
from minifinetuning.report.method_table import method_table
from minifinetuning.report.model_card import model_card
from minifinetuning.report.pictures import save_dynamics, save_frontier
from minifinetuning.report.recommendation import recommendation
from minifinetuning.report.reference_card import reference_card
from minifinetuning.report.tables import Metrics, comparison_table
from minifinetuning.report.tau_table import tau_table
from minifinetuning.report.unprepared import about_unprepared, with_unprepared_note

__all__ = [
    "Metrics",
    "about_unprepared",
    "comparison_page",
    "comparison_table",
    "difference_table",
    "equal_specialization",
    "measured_on",
    "method_table",
    "model_card",
    "recommendation",
    "reference_card",
    "save_dynamics",
    "save_frontier",
    "tau_table",
    "validation_extent",
    "with_unprepared_note",
]
