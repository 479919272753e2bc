"""The README.md of a checkpoint: tuned, blended from two others, or prepared as a reference."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from minifinetuning.data.overlap import RUN
from minifinetuning.models.origin import is_hub_id, origin
from minifinetuning.report.sentences import (
    Metrics,
    is_self_written,
    loadable,
    measured_on,
    percent,
    ratio,
    shown,
    validation_extent,
    with_unprepared_note,
)
from minifinetuning.report.tables import comparison_table, markdown_table, tau_table

__all__ = ["blend_card", "blend_table", "model_card", "reference_card", "template"]

_CHANGES = {
    "specialized": ("S", "specialization", "drop"),
    "general": ("DG", "degeneralization", "rise"),
}
_HERE = '"path/to/this/folder"'


def model_card(metrics: Metrics) -> str:
    """Markdown with YAML front matter, as the Hugging Face hub reads it.

    Names of files and folders appear without the folders that they lie in.
    """
    configuration = metrics["configuration"]
    model = str(configuration["model"])
    return template("model_card.md.jinja").render(
        metrics=metrics,
        front_matter=_front_matter(metrics, [model], adapter=configuration.get("adapter")),
        loading=_loading_code(model, adapter="adapter" in configuration),
        adapter=shown(configuration.get("adapter") or ""),
        is_on_hub=is_hub_id(model),
        model=shown(model),
        objective=configuration["objective"],
        data_table=_data_table(metrics["data"]),
        is_self_written=is_self_written(metrics),
        trained_runs=lambda name: _trained_runs(metrics["data"][name]),
        tau_table=tau_table(metrics) if "tau_search" in metrics else None,
        result_table=_result_table(metrics),
        measured_on=with_unprepared_note(measured_on(metrics), metrics),
        setting_table=_setting_table(metrics),
    )


def blend_card(metrics: Metrics) -> str:
    """Markdown with YAML front matter; no folder of the machine that made it is named."""
    configuration = metrics["configuration"]
    adapter = configuration.get("adapter")
    # An adapter is loaded on the reference alone.
    bases = [configuration["reference"], *([] if adapter else [configuration["model"]])]
    return template("blend_card.md.jinja").render(
        metrics=metrics,
        front_matter=_front_matter(metrics, bases, adapter=adapter),
        loading=_loading_code(configuration["reference"], adapter=adapter is not None),
        reference=shown(configuration["reference"]),
        tuned=shown(configuration["model"]),
        table=blend_table(metrics),
    )


def blend_table(metrics: Metrics) -> str:
    """One row for each point that was measured, in order of c; the one that was kept is marked."""
    kept = metrics["coefficient"]
    rows = {
        f"c = {point['coefficient']:g}" + (" (kept)" if point["coefficient"] == kept else ""): point
        for point in metrics["points"]
        if point["coefficient"] > 0
    }
    return f"{comparison_table(rows)}\n\n{with_unprepared_note(measured_on(metrics), metrics)}"


def reference_card(metrics: Metrics) -> str:
    """Markdown with YAML front matter; no folder of the machine that made it is named."""
    configuration = metrics["configuration"]
    return template("reference_card.md.jinja").render(
        metrics=metrics,
        front_matter=_front_matter(metrics, [str(configuration["model"])]),
        model=shown(configuration["model"]),
        sources=shown(metrics["data"]["general"]["sources"]),
        measured_on=validation_extent("general", metrics["validation"]["general"]),
    )


def template(name: str, *, autoescape: bool = False) -> jinja2.Template:
    """A template of this package, in which a word without a value is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("minifinetuning.report", ""),
        undefined=jinja2.StrictUndefined,
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)


def _front_matter(metrics: Metrics, bases: Sequence[str], *, adapter: str | None = None) -> str:
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
        eval_results=list(_model_index(metrics)) or None,
        **licence,
    )
    return f"---\n{data.to_yaml()}\n---"


def _model_index(metrics: Metrics) -> Iterator[EvalResult]:
    """Each text's perplexity after tuning, then what became of it."""
    for text, (letter, name, change) in _CHANGES.items():
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
                metric_name=(
                    f"{letter}, the relative {change} of perplexity in %, {percent(metrics, name)}"
                ),
            )


def _loading_code(base: str, *, adapter: bool) -> str:
    """Imports, the model, on its base where it is an adapter, and the tokenizer."""
    imports = ["from transformers import AutoModelForCausalLM, AutoTokenizer"]
    if adapter:
        imports.insert(0, "from peft import PeftModel")
    if origin(base).architecture == "openelm":
        imports.append(
            "import minifinetuning.models.openelm  # pip install minifinetuning: transformers "
            "alone does not know OpenELM"
        )
    if adapter:
        model = [
            f'base = AutoModelForCausalLM.from_pretrained("{loadable(base)}")',
            f"model = PeftModel.from_pretrained(base, {_HERE})",
        ]
    else:
        model = [f"model = AutoModelForCausalLM.from_pretrained({_HERE})"]
    tokenizer = f"tokenizer = AutoTokenizer.from_pretrained({_HERE})"
    return "\n".join([*imports, "", *model, tokenizer])


def _data_table(data: Mapping[str, Any]) -> str:
    rows = [["text", "files", "documents", "training tokens", "validation tokens"]]
    for name, summary in data.items():
        if summary is not None:
            counts = [summary[key] for key in ("documents", "train_tokens", "validation_tokens")]
            names = ", ".join(shown(source) for source in summary["sources"])
            rows.append([name, names, *(f"{count:,}" for count in counts)])
    return markdown_table(rows)


def _trained_runs(summary: Mapping[str, Any] | None) -> str:
    """The end of a sentence: how much of a measured text stands in the training text even so."""
    share = None if summary is None else summary.get("trained_run_share")
    if share is None:
        return ""
    return f"; {100 * share:.1f} % of their runs of {RUN} tokens stand in the training text"


def _result_table(metrics: Metrics) -> str:
    rows = [["text", "perplexity before", "perplexity after", "change"]]
    for text, (letter, name, _) in _CHANGES.items():
        if metrics[name] is not None:
            before, after = (
                metrics[model][f"{text}_perplexity"] for model in ("reference", "tuned")
            )
            change = f"{letter} = {percent(metrics, name)} %"
            rows.append([text, f"{before:.2f}", f"{after:.2f}", change])
    if metrics["ratio"] is not None:
        rows.append(["", "", "", f"DG/S = {ratio(metrics)}"])
    return markdown_table(rows)


def _setting_table(metrics: Metrics) -> str:
    """Configuration, device and versions; what was not set is left out."""
    settings = {
        **metrics["configuration"],
        "step kept": metrics["step"],
        "seed": metrics["seed"],
        "device": metrics["device"],
        **metrics["versions"],
    }
    rows = [[name, shown(value)] for name, value in settings.items() if value is not None]
    return markdown_table([["setting", "value"], *rows])
