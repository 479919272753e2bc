"""The demo: a real model adapted to real text twice, by finetuning and by minifinetuning.

Everything but the objective is equal. The model starts from a prepared reference: the 4-bit chat
weights that a package can carry are repaired by *any* training on prose, so straight from them
general perplexity falls and the comparison is void (see `prepare_reference`).
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from minifinetuning.config import (
    AdapterConfig,
    DataConfig,
    MFTConfig,
    ModelConfig,
)
from minifinetuning.errors import InputError
from minifinetuning.evaluation import SPECIALIZED, TextScores
from minifinetuning.experiments.adaptation import adapt
from minifinetuning.experiments.demo_material import (
    medline_texts,
    wikipedia_texts,
)
from minifinetuning.experiments.demo_model import (
    converted_model,
    prepared_reference,
    shipped_reference,
)
from minifinetuning.experiments.run_folder import report_folder
from minifinetuning.experiments.texts import Texts, read_texts
from minifinetuning.files import cache_folder, write_atomically
from minifinetuning.models.loading import load_model
from minifinetuning.report import (
    comparison_table,
    equal_specialization,
    measured_on,
    save_dynamics,
    save_frontier,
)

__all__ = ["run_demo"]

SEED = 42
TRAIN_TOKENS, VALIDATION_TOKENS = "41k", "12k"
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
    steps: int = 40,
) -> dict[str, dict[str, Any]]:
    """Adapt by FT and by MFT, print the table, save the picture, and let each model write on.

    `data` replaces MEDLINE, `model` replaces SmolLM2-135M and is taken as it is unless `prepare`.
    What is fetched stays in the user's cache. Results go to `output`, one folder a method; returns
    their metrics by method. Raises InputError where something cannot be fetched or used.
    """
    if steps < 4:
        raise InputError(f"--steps must be at least 4, got {steps}")
    with report_folder(output, _WRITTEN, {"data": data, "model": model}, older=_OLDER):
        return _demonstrated(output, data, model, prepare, steps)


def _demonstrated(
    output: Path, data: list[str] | None, model: str | None, prepare: bool, steps: int
) -> dict[str, dict[str, Any]]:
    cache = cache_folder()
    general = [str(wikipedia_texts(cache))]
    specialized = data or [str(medline_texts(cache))]
    base = model or str(converted_model(cache))
    if prepare:
        reference = prepared_reference(base, general, output / "reference")
    else:
        reference = model or str(shipped_reference(Path(base), cache))

    texts = _texts(reference, specialized, general)
    results: dict[str, dict[str, Any]] = {}
    scores: dict[str, TextScores] | None = None
    for objective in OBJECTIVES:
        print(f"\n{objective}: {steps} steps of {SEQUENCES_A_STEP * SEQUENCE_LENGTH} tokens")
        adaptation = adapt(
            ModelConfig(reference),
            AdapterConfig(),
            texts,
            _training(objective, steps, output / objective),
            reference=scores,
        )
        results[objective], scores = adaptation.metrics, adaptation.reference
        for checkpoint in (output / objective).glob("checkpoint-*"):
            shutil.rmtree(checkpoint)

    samples = _continuations(
        {"reference": reference} | {o: str(output / o) for o in OBJECTIVES}, texts
    )
    _report(results, samples, output)
    return results


def _texts(model: str, specialized: list[str], general: list[str]) -> Texts:
    text = DataConfig(
        data=specialized,
        general=general,
        sequence_length=SEQUENCE_LENGTH,
        train_tokens=TRAIN_TOKENS,
        validation_tokens=VALIDATION_TOKENS,
    )
    return read_texts(ModelConfig(model), text, text.data, text.general, seed=SEED)


def _training(objective: str, steps: int, folder: Path) -> MFTConfig:
    return MFTConfig(
        output_dir=str(folder),
        overwrite_output_dir=True,
        objective=objective,
        max_steps=steps,
        per_device_train_batch_size=SEQUENCES_A_STEP,
        gradient_accumulation_steps=1,
        per_device_eval_batch_size=SEQUENCES_A_STEP,
        eval_steps=0.25,
        save_steps=0.25,
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
    results: Mapping[str, dict[str, Any]], samples: Mapping[str, str], output: Path
) -> None:
    table = f"{comparison_table(results)}\n\n{measured_on(results['mft'])}"
    equal = equal_specialization(results["mft"], results["ft"])
    written = "\n".join(f"**{name}** … {text}\n" for name, text in samples.items())
    write_atomically(output / "results.md", f"{table}\n\n{equal}\n\n{written}")
    save_frontier(results, output / "frontier.png")
    save_dynamics(results, output / "dynamics.png")
    print(f"\n{table}\n\n{equal}\n\n{written}")
    print(
        f"picture: {output / 'frontier.png'}; models: {', '.join(str(output / o) for o in results)}"
    )
