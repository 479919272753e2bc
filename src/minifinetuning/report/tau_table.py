"""How tau was chosen: the pilot runs, and the check on text that had no part in the choice."""

from minifinetuning.report.tables import Metrics, markdown_table, percent

__all__ = ["tau_table"]


def tau_table(metrics: Metrics) -> str:
    """The `tau_search` of a metrics.json as Markdown: each tau tried, and what came of it."""
    search = metrics["tau_search"]
    rows = [["τ", "S %", f"DG % (budget {search['budget']:g})", ""]]
    for pilot in search["pilots"]:
        note = "within" if pilot["degeneralization"] <= search["budget"] else "beyond"
        chosen = ", chosen" if pilot["tau"] == search["tau"] else ""
        figures = (f"{pilot[name]:.2f}" for name in ("specialization", "degeneralization"))
        rows.append([f"{pilot['tau']:g}", *figures, note + chosen])
    held_out = search["held_out"]
    kept = "holds" if held_out["degeneralization"] <= search["budget"] else "does not hold"
    return (
        f"{markdown_table(rows)}\n\n"
        f"Pilot runs of {search['pilot_steps']} steps each. After the full run, on text that had "
        f"no part in the choice: S {percent(held_out, 'specialization')} %, "
        f"DG {percent(held_out, 'degeneralization')} %, so the budget {kept} there."
    )
