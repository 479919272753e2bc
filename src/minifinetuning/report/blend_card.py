"""The README.md of a checkpoint that lies between two others."""

from pathlib import Path

from minifinetuning.report.extent import measured_on
from minifinetuning.report.tables import Metrics, comparison_table

__all__ = ["blend_card", "blend_table"]

_LOADING = {
    "transformers": """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")""",
    "peft": """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{reference}")
model = PeftModel.from_pretrained(base, "path/to/this/folder")""",
}


def blend_table(metrics: Metrics) -> str:
    """One row for each point that was measured, in order of c; the one that was kept is marked."""
    kept = metrics["coefficient"]
    rows = {
        f"c = {point['coefficient']:g}" + (" (kept)" if point["coefficient"] == kept else ""): point
        for point in metrics["points"]
        if point["coefficient"] > 0
    }
    return f"{comparison_table(rows)}\n\n{measured_on(metrics)}"


def blend_card(metrics: Metrics) -> str:
    """Markdown with YAML front matter; no folder of the machine that made it is named."""
    configuration = metrics["configuration"]
    reference, tuned = (_shown(configuration[key]) for key in ("reference", "model"))
    library = "peft" if "adapter" in configuration else "transformers"
    budget = configuration["max_degeneralization"]
    among = "" if budget is None else f" among those with DG of at most {budget:g} %"
    return f"""---
library_name: {library}
pipeline_tag: text-generation
tags:
- minifinetuning
---

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
{_LOADING[library].format(reference=_place(configuration["reference"]))}
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```
"""


def _shown(model: str) -> str:
    """A hub id, or the last part of a path: the rest is the author's business."""
    return model if _is_hub_id(model) else Path(model).name


def _place(model: str) -> str:
    """What `from_pretrained` takes, with a reader's own folder in place of the author's."""
    return model if _is_hub_id(model) else f"path/to/{Path(model).name}"


def _is_hub_id(model: str) -> bool:
    path = Path(model)
    return len(path.parts) == 2 and not path.is_absolute() and not path.exists()
