"""The README.md of a checkpoint that lies between two others."""

from minifinetuning.report.extent import measured_on
from minifinetuning.report.front_matter import front_matter
from minifinetuning.report.loading_code import loading_code
from minifinetuning.report.names import shown
from minifinetuning.report.tables import Metrics, comparison_table
from minifinetuning.report.unprepared import with_unprepared_note

__all__ = ["blend_card", "blend_table"]


def blend_table(metrics: Metrics) -> str:
    """One row for each point that was measured, in order of c; the one that was kept is marked."""
    kept = metrics["coefficient"]
    rows = {
        f"c = {point['coefficient']:g}" + (" (kept)" if point["coefficient"] == kept else ""): point
        for point in metrics["points"]
        if point["coefficient"] > 0
    }
    return f"{comparison_table(rows)}\n\n{with_unprepared_note(measured_on(metrics), metrics)}"


def blend_card(metrics: Metrics) -> str:
    """Markdown with YAML front matter; no folder of the machine that made it is named."""
    configuration = metrics["configuration"]
    reference, tuned = (shown(configuration[key]) for key in ("reference", "model"))
    adapter = configuration.get("adapter")
    # An adapter is loaded on the reference alone.
    bases = [configuration["reference"], *([] if adapter else [configuration["model"]])]
    budget = configuration["max_degeneralization"]
    among = "" if budget is None else f" among those with DG of at most {budget:g} %"
    return f"""{front_matter(metrics, bases, adapter=adapter)}

# {tuned}, blended with {reference}

The weights lie between those of `{reference}`, θ_A, and those of `{tuned}`, θ_B, which was tuned
from it: (1 - c) θ_A + c θ_B with **c = {metrics["coefficient"]:g}** (WiSE-FT,
[Wortsman et al.](https://arxiv.org/abs/2109.01903)).
Of the {len(metrics["points"])} points measured along c it has the largest S{among}.

{blend_table(metrics)}

![What was gained against what was lost](frontier.png)

S is the relative drop of perplexity on held-out specialized text (higher is better), DG the
relative rise on general text (lower is better), both against `{reference}` (c = 0); DG/S is what
each percent of gain has cost.

## How to load it

```python
{loading_code(configuration["reference"], adapter=adapter is not None)}
```
"""
