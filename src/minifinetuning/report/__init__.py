"""What a person reads of one run or of many: tables, a sentence, pictures, a page, model cards.

Everything here takes the content of `metrics.json`, a plain dict, and needs no model, no torch.
"""

from minifinetuning.report.cards import blend_card, blend_table, model_card, reference_card
from minifinetuning.report.page import comparison_page
from minifinetuning.report.pictures import save_dynamics, save_frontier, saved_figure
from minifinetuning.report.recommendation import ranked, recommendation
from minifinetuning.report.sentences import (
    Metrics,
    about_unprepared,
    equal_specialization,
    learning_rate,
    measured_on,
    validation_extent,
    with_unprepared_note,
)
from minifinetuning.report.tables import (
    comparison_table,
    difference_table,
    markdown_table,
    method_table,
    tau_table,
)

__all__ = [
    "Metrics",
    "about_unprepared",
    "blend_card",
    "blend_table",
    "comparison_page",
    "comparison_table",
    "difference_table",
    "equal_specialization",
    "learning_rate",
    "markdown_table",
    "measured_on",
    "method_table",
    "model_card",
    "ranked",
    "recommendation",
    "reference_card",
    "save_dynamics",
    "save_frontier",
    "saved_figure",
    "tau_table",
    "validation_extent",
    "with_unprepared_note",
]
