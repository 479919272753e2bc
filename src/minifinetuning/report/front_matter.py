"""The YAML that opens a model card: what the hub shows, filters and links by."""

from collections.abc import Iterator, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from minifinetuning.models.origin import origin
from minifinetuning.report.extent import validation_extent
from minifinetuning.report.names import shown
from minifinetuning.report.tables import Metrics, percent

__all__ = ["front_matter"]

_CHANGES = {
    "specialized": ("specialization", "S, the relative drop of perplexity in %"),
    "general": ("degeneralization", "DG, the relative rise of perplexity in %"),
}


def front_matter(metrics: Metrics, bases: Sequence[str], *, adapter: str | None = None) -> str:
    """The front matter, with its lines of dashes, of a model made of `bases`.

    Bases on the hub are named, and the first licence that one of them carries goes on. An adapter
    has the tags of PEFT's own cards. The figures are a model-index, each with the documents that it
    was measured on.
    """
    origins = [origin(base) for base in bases]
    on_hub = [each.hub_id for each in origins if each.hub_id is not None]
    licence: dict[str, Any] = next((each.licence for each in origins if each.licence), {})
    tags = ["minifinetuning"]
    if adapter:
        tags += [*(["lora"] if adapter in ("lora", "dora") else []), "transformers"]
        tags += [f"base_model:adapter:{hub_id}" for hub_id in on_hub[:1]]
    data = ModelCardData(
        base_model=on_hub[0] if len(on_hub) == 1 else on_hub or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=sorted(tags),
        model_name=f"{shown(bases[-1])}, {metrics['method']}",
        eval_results=list(_results(metrics)) or None,
        **licence,
    )
    return f"---\n{data.to_yaml()}\n---"


def _results(metrics: Metrics) -> Iterator[EvalResult]:
    """Each text's perplexity after tuning, then what became of it."""
    for text, (name, words) in _CHANGES.items():
        perplexity = metrics["tuned"].get(f"{text}_perplexity")
        if perplexity is None:
            continue
        measured: dict[str, Any] = {
            "task_type": "text-generation",
            "dataset_type": text,
            "dataset_name": validation_extent(text, metrics["validation"][text]),
            "dataset_split": "validation",
        }
        before = metrics["reference"][f"{text}_perplexity"]
        yield EvalResult(
            **measured,
            metric_type="perplexity",
            metric_value=perplexity,
            metric_name=f"perplexity ({before:.2f} before)",
        )
        if metrics.get(name) is not None:
            yield EvalResult(
                **measured,
                metric_type=name,
                metric_value=metrics[name],
                metric_name=f"{words}, {percent(metrics, name)}",
            )
