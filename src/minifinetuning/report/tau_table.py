"""How tau was chosen: the pilot runs, and the check on text that had no part in the choice."""

from minifinetuning.report.extent import measured_on
from minifinetuning.report.tables import Metrics, markdown_table, percent

__all__ = ["tau_table"]


def tau_table(metrics: Metrics) -> str:
    """The `tau_search` of a metrics.json as Markdown: each tau tried, and what came of it."""
    search = metrics["tau_search"]
    budget = search["pilot_budget"]
    rows = [["τ", "S %", "DG %", ""]]
    for pilot in search["pilots"]:
        note = "within" if pilot["degeneralization"] <= budget else "beyond"
        chosen = ", chosen" if pilot["tau"] == search["tau"] else ""
        figures = (f"{pilot[name]:.2f}" for name in ("specialization", "degeneralization"))
        rows.append([f"{pilot['tau']:g}", *figures, note + chosen])
    held_out = search["held_out"]
    kept = "holds" if held_out["degeneralization"] <= search["budget"] else "does not hold"
    return (
        f"{markdown_table(rows)}\n\n"
        f"Pilot runs of {search['pilot_steps']} steps each, held to DG ≤ {budget:.2g} %: at that "
        f"growth (steps to the power of {search['growth']:.2g}) the full run comes to the budget "
        f"of {search['budget']:g} %. After the full run, on text that had no part in the choice: S "
        f"{percent(held_out, 'specialization')} %, DG {percent(held_out, 'degeneralization')} %, "
        f"so the budget {kept} there. {measured_on(held_out)}"
    )
