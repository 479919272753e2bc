"""What a reproduction leaves for a person: its tables and figures, beside its cells."""

from collections.abc import Mapping
from typing import Any

from minifinetuning.files import write_atomically
from minifinetuning.lab.paper.cells import PaperCell, slug
from minifinetuning.lab.paper.figures import models_drawn, save_paper_figure
from minifinetuning.lab.paper.reproduction import Reproduction
from minifinetuning.lab.paper.tables import table_reports

__all__ = ["write_paper_report"]


def write_paper_report(
    reproduction: Reproduction, results: Mapping[PaperCell, Mapping[str, Any]]
) -> str:
    """Write table-N.md and figure-N-MODEL.png into `OUT/PROTOCOL`; returns them for a terminal."""
    folder = reproduction.report_folder
    parts = []
    for number, text in table_reports(reproduction.plan.rows, results).items():
        write_atomically(folder / f"table-{number}.md", text)
        parts.append(text)
    for figure, models in reproduction.plan.figures:
        for model in models_drawn(models, figure, results):
            path = folder / f"figure-{figure.number}-{slug(model)}.png"
            save_paper_figure(figure, model, results, reproduction.protocol, path)
            parts.append(f"figure {figure.number}: {path}")
    return "\n\n".join(parts)
