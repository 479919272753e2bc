"""The README.md of a prepared reference checkpoint."""

from minifinetuning.report.extent import validation_extent
from minifinetuning.report.front_matter import front_matter
from minifinetuning.report.names import shown
from minifinetuning.report.tables import Metrics

__all__ = ["reference_card"]


def reference_card(metrics: Metrics) -> str:
    """Markdown with YAML front matter; no folder of the machine that made it is named."""
    configuration, summary = metrics["configuration"], metrics["data"]["general"]
    model, sources = shown(configuration["model"]), shown(summary["sources"])
    before = metrics["reference"]["general_perplexity"]
    after = metrics["tuned"]["general_perplexity"]
    return f"""{front_matter(metrics, [str(configuration["model"])])}

# {model}, prepared as a reference

`{model}` was lightly finetuned on general text ({sources}: {summary["train_tokens"]:,} tokens,
learning rate {configuration["learning_rate"]:g}) and the step of least validation perplexity was
kept: step {metrics["step"]} of {metrics["last_step"]}, perplexity {before:.2f} before and
{after:.2f} after on {validation_extent("general", metrics["validation"]["general"])},
held out.

It is where a comparison of finetuning methods starts from: without it the first prose that the
model is trained on improves its general perplexity, and what a method forgets cannot be seen.
"""
