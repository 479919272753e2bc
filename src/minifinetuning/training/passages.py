"""Count the passages that a run trains on and is measured on too, in whatever documents."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy

from minifinetuning.data import CorpusSummary
from minifinetuning.data.overlap import RUN, trained_runs
from minifinetuning.data.packing import PackedSequences
from minifinetuning.data.sequences import Sequences
from minifinetuning.evaluation.scores import GENERAL, SPECIALIZED

__all__ = ["note_trained_runs"]

_MUCH = 0.02
"""Of the runs that are measured: more than that is a warning."""

_TRAINED = {"train": "specialized", "replay": "replayed", "fisher": "Fisher's"}

_MEANING = {
    SPECIALIZED: (
        "the gain is measured on are trained on too, most in the {text} text, so S says in part "
        "how well they are remembered: keep one copy of what is there twice, as a book beside its "
        "chapters, and pass --drop_boilerplate where pages share their lines"
    ),
    GENERAL: (
        "forgetting is measured on are trained on too, most in the {text} text, so DG says in part "
        "how well they are learnt: leave out there what the general text holds, or give other "
        "general text"
    ),
}


def note_trained_runs(
    summaries: dict[str, CorpusSummary],
    validation: Mapping[str, Sequences],
    trained: Mapping[str, Sequences],
    warn: Callable[[str], None],
) -> str:
    """Put into the summary of each measured text which part of its runs stands in a trained one.

    The sentence that is returned says it to a person, empty where nothing is trained on or measured
    on text that was read; `warn` is told of more than 2 %.
    """
    said = []
    for name, measured in validation.items():
        if not trained or not isinstance(measured, PackedSequences):
            continue
        masks = trained_runs(measured, trained.values())
        if not len(masks[0]):
            continue
        share = float(numpy.logical_or.reduce(masks).mean())
        summaries[name] = replace(summaries[name], trained_run_share=share)
        said.append(f"{share:.1%} of the {name} ones")
        if share > _MUCH:
            of_text = dict(zip(trained, (mask.sum() for mask in masks), strict=True))
            most = max(of_text, key=lambda text: int(of_text[text]))
            sources = ", ".join(summaries[name].sources)
            meaning = _MEANING[name].format(text=_TRAINED[most])
            warn(f"{sources}: {share:.1%} of the runs of {RUN} tokens that {meaning}")
    if not said:
        return ""
    return f"measured runs of {RUN} tokens that are trained on too: {', '.join(said)}"
