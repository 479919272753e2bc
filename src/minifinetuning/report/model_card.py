"""The README.md of a tuned checkpoint: what was done to it, what that gained, what it cost."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from minifinetuning.data.overlap import RUN
from minifinetuning.models.origin import is_hub_id
from minifinetuning.report.extent import measured_on
from minifinetuning.report.front_matter import front_matter
from minifinetuning.report.loading_code import loading_code
from minifinetuning.report.names import shown
from minifinetuning.report.tables import Metrics, markdown_table, percent, ratio
from minifinetuning.report.tau_table import tau_table
from minifinetuning.report.unprepared import with_unprepared_note

__all__ = ["model_card"]

_OBJECTIVES = {
    "ft": "plain finetuning on the text itself (hard labels)",
    "mft": (
        "minifinetuning, a corrective self-distillation. Each token's target is the prediction of "
        "the frozen starting model, corrected towards the true token just enough: where the "
        "starting model is wrong, the true token leads its favourite by τ, and where it is right, "
        "the true token gains τ in probability"
    ),
    "corrective": (
        "corrective finetuning: distillation from the frozen starting model where that is right, "
        "and plain finetuning where it is wrong"
    ),
    "single_correction": (
        "single correction: distillation from the frozen starting model, corrected only where that "
        "is wrong, just enough for the true token to lead its favourite by τ"
    ),
    "distillation": "distillation from the frozen starting model alone",
    "kl": "finetuning with KL(p_T || p_S) to the frozen starting model as a regulariser",
    "dft": "dynamic finetuning (DFT): each token's loss is weighted by its own probability",
    "asft": "anchored finetuning (ASFT): DFT with KL(p_T || p_S) to the frozen starting model",
    "mask_the_target": (
        "Mask-the-Target: finetuning with a KL to the frozen starting model in which the true "
        "token is left out"
    ),
    "stm": "selective token masking (STM): finetuning on tokens that the starting model expects",
    "eaft": (
        "entropy-adaptive finetuning (EAFT): each token's loss is weighted by how undecided the "
        "model is between its twenty favourites"
    ),
    "talr": (
        "token-adaptive loss reweighting (TALR): each token's loss is weighted by a power of its "
        "own probability, the flatter the higher the loss of the batch"
    ),
}
_WITH_TAU = {"mft", "single_correction"}


def model_card(metrics: Metrics) -> str:
    """Markdown with YAML front matter, as the Hugging Face hub reads it.

    Names of files and folders appear without the folders that they lie in.
    """
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = files("minifinetuning.report").joinpath("model_card.md.jinja")
    configuration = metrics["configuration"]
    model = str(configuration["model"])
    objective = configuration["objective"]
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        metrics=metrics,
        front_matter=front_matter(metrics, [model], adapter=configuration.get("adapter")),
        loading=loading_code(model, adapter="adapter" in configuration),
        adapter=shown(configuration.get("adapter") or ""),
        is_on_hub=is_hub_id(model),
        model=shown(model),
        method=_OBJECTIVES.get(objective, objective),
        tau=configuration["tau"] if objective in _WITH_TAU else None,
        data_table=_data_table(metrics["data"]),
        is_self_written=(metrics["data"]["general"] or {}).get("sources") == ["self"],
        trained_runs=lambda name: _trained_runs(metrics["data"][name]),
        tau_table=tau_table(metrics) if "tau_search" in metrics else None,
        result_table=_result_table(metrics),
        measured_on=with_unprepared_note(measured_on(metrics), metrics),
        setting_table=_setting_table(metrics),
    )


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
    changes = {"specialized": ("S", "specialization"), "general": ("DG", "degeneralization")}
    for text, (letter, name) in changes.items():
        if metrics[name] is not None:
            before, after = (
                f"{metrics[model][f'{text}_perplexity']:.2f}" for model in ("reference", "tuned")
            )
            rows.append([text, before, after, f"{letter} = {percent(metrics, name)} %"])
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
