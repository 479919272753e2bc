"""The demo: a real model adapted to real text twice, by finetuning and by minifinetuning.

Everything but the objective is equal. The model starts from a prepared reference: the 4-bit chat
weights that a package can carry are repaired by *any* training on prose, so straight from them
general perplexity falls and the comparison is void (see `prepare_reference`).
"""

from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from minifinetuning.data.config import DataConfig
from minifinetuning.errors import InputError
from minifinetuning.evaluation.scores import SPECIALIZED, TextScores
from minifinetuning.files import cache_folder, write_atomically
from minifinetuning.lab.demo.model import (
    converted_model,
    prepared_reference,
    shipped_reference,
)
from minifinetuning.lab.demo.size import (
    BUDGET_SECONDS,
    SAMPLES_SECONDS,
    Size,
    demo_size,
    measured_speed,
    said,
)
from minifinetuning.lab.demo.texts import (
    medline_texts,
    unseen_wikipedia_texts,
    wikipedia_texts,
)
from minifinetuning.models.config import AdapterConfig, ModelConfig
from minifinetuning.models.loading import load_model
from minifinetuning.report import (
    about_unprepared,
    comparison_table,
    equal_specialization,
    measured_on,
    save_dynamics,
    save_frontier,
)
from minifinetuning.training.config import MFTConfig
from minifinetuning.training.folder import report_folder
from minifinetuning.training.run import adapt
from minifinetuning.training.texts import TextNeeds, Texts, read_texts

__all__ = ["run_demo"]

SEED = 42
SEQUENCE_LENGTH = 512
SEQUENCES_A_STEP = 2
OBJECTIVES = ("ft", "mft")
_WRITTEN = ("results.md", "frontier.png", "dynamics.png", "reference", *OBJECTIVES)
_OLDER = ("*/metrics.json", "full_configuration")
"""What the demo writes, and what tells the folder of one of before version 0.2."""

PROMPT_TOKENS, CONTINUATION_TOKENS = 32, 48


def run_demo(
    output: Path,
    *,
    data: list[str] | None = None,
    model: str | None = None,
    prepare: bool = False,
    steps: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Adapt by FT and by MFT, print the table, save the picture, and let each model write on.

    `data` replaces MEDLINE, `model` replaces SmolLM2-135M and is taken as it is unless `prepare`.
    `steps` are as many as the machine does in some minutes where they are not given.
    What is fetched stays in the user's cache. Results go to `output`, one folder a method; returns
    their metrics by method. Raises InputError where something cannot be fetched or used.
    """
    if steps is not None and steps < 4:
        raise InputError(f"--steps must be at least 4, got {steps}")
    with report_folder(output, _WRITTEN, {"data": data, "model": model}, older=_OLDER):
        return _demonstrated(output, data, model, prepare, steps)


def _demonstrated(
    output: Path, data: list[str] | None, model: str | None, prepare: bool, steps: int | None
) -> dict[str, dict[str, Any]]:
    start = perf_counter()
    cache = cache_folder()
    general = [str(unseen_wikipedia_texts(cache))]
    specialized = data or [str(medline_texts(cache))]
    base = model or str(converted_model(cache))
    if prepare:
        reference = prepared_reference(base, [str(wikipedia_texts(cache))], output / "reference")
        start = perf_counter()
    else:
        reference = model or str(shipped_reference(Path(base), cache))

    size, line = _size(reference, steps, BUDGET_SECONDS - (perf_counter() - start))
    print(line)
    texts = _texts(reference, specialized, general, size)
    results: dict[str, dict[str, Any]] = {}
    scores: dict[str, TextScores] | None = None
    for objective in OBJECTIVES:
        print(f"\n{objective}: {size.steps} steps of {_tokens_a_step():,} tokens")
        results[objective], scores = adapt(
            ModelConfig(reference),
            AdapterConfig(),
            texts,
            _training(objective, size, output / objective),
            reference=scores,
            keep_checkpoints=False,
        )

    samples = _continuations(
        {"reference": reference} | {o: str(output / o) for o in OBJECTIVES}, texts
    )
    _report(results, samples, output, size)
    return results


def _tokens_a_step() -> int:
    return SEQUENCES_A_STEP * SEQUENCE_LENGTH


def _size(reference: str, steps: int | None, seconds: float) -> tuple[Size, str]:
    """How large the demo is to be on this machine, and the line that says so."""
    speed = measured_speed(reference, SEQUENCE_LENGTH // 2)
    size, taken = demo_size(speed, seconds - SAMPLES_SECONDS, _tokens_a_step(), steps)
    return size, said(size, speed, taken, _tokens_a_step())


def _texts(model: str, specialized: list[str], general: list[str], size: Size) -> Texts:
    text = DataConfig(
        data=specialized,
        general=general,
        sequence_length=SEQUENCE_LENGTH,
        train_tokens=str(size.steps * _tokens_a_step()),
        validation_tokens=str(size.validation_tokens),
    )
    return read_texts(ModelConfig(model), text, TextNeeds(SEED))


def _training(objective: str, size: Size, folder: Path) -> MFTConfig:
    return MFTConfig(
        output_dir=str(folder),
        overwrite_output_dir=True,
        objective=objective,
        max_steps=size.steps,
        per_device_train_batch_size=SEQUENCES_A_STEP,
        gradient_accumulation_steps=1,
        per_device_eval_batch_size=SEQUENCES_A_STEP,
        eval_steps=1 / size.evaluations,
        save_steps=1 / size.evaluations,
        save_only_model=True,
        logging_steps=1,
        seed=SEED,
    )


def _continuations(models: Mapping[str, str], texts: Texts) -> dict[str, str]:
    """The beginning of a validation document, and how it goes on: really, and by each model."""
    first = texts.validation[SPECIALIZED][0]["input_ids"][1:]
    prompt, really = first[:PROMPT_TOKENS], first[PROMPT_TOKENS:][:CONTINUATION_TOKENS]
    decode = texts.tokenizer.decode
    samples = {"prompt": decode(prompt), "the document itself": decode(really)}
    for name, path in models.items():
        torch.manual_seed(SEED)
        model: Any = load_model(path)
        written = model.generate(
            prompt[None],
            attention_mask=torch.ones_like(prompt)[None],
            max_new_tokens=CONTINUATION_TOKENS,
            do_sample=True,
            temperature=0.7,
            top_p=0.9,
            pad_token_id=texts.tokenizer.eos_token_id,
        )
        samples[name] = decode(written[0, len(prompt) :], skip_special_tokens=True)
    return {name: " ".join(str(text).split()) for name, text in samples.items()}


def _report(
    results: Mapping[str, dict[str, Any]],
    samples: Mapping[str, str],
    output: Path,
    size: Size,
) -> None:
    trained = (
        f"Trained {size.steps} steps of {_tokens_a_step():,} tokens, "
        f"{results['mft']['data'][SPECIALIZED]['train_tokens']:,} tokens of specialized text, "
        f"evaluated {size.evaluations} times on the way."
    )
    table = f"{comparison_table(results)}\n\n{trained} {measured_on(results['mft'])}"
    table = " ".join(filter(None, (table, about_unprepared(results))))
    equal = equal_specialization(results["mft"], results["ft"])
    written = "\n".join(f"**{name}** … {text}\n" for name, text in samples.items())
    write_atomically(output / "results.md", f"{table}\n\n{equal}\n\n{written}")
    save_frontier(results, output / "frontier.png")
    save_dynamics(results, output / "dynamics.png")
    print(f"\n{table}\n\n{equal}\n\n{written}")
    print(
        f"picture: {output / 'frontier.png'}; models: {', '.join(str(output / o) for o in results)}"
    )
