"""What a run must be given: options, texts and model that fit, checked before any work."""

from collections.abc import Collection, Mapping, Sized
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from minifinetuning.data.mixing import Addition, Mixture
from minifinetuning.data.sequences import (
    Sequences,
    require_embeddings,
    require_lengths,
    require_sequences,
)
from minifinetuning.errors import InputError, did_you_mean
from minifinetuning.evaluation.scores import GENERAL, SPECIALIZED
from minifinetuning.models.causal import check_halves, embedding_rows
from minifinetuning.models.loading import limit_of, load_model, load_tokenizer
from minifinetuning.training.config import MFTConfig
from minifinetuning.training.selection import metric_name

__all__ = [
    "metrics_of_evaluations",
    "named_texts",
    "refuse_ignored",
    "require_texts",
    "usable_model",
]


def require_texts(
    args: MFTConfig,
    validation: Mapping[str, object | None] | None,
    *,
    replay: object | None,
    fisher: object | None,
    train: object | None = None,
) -> Mixture | Addition | None:
    """Raise InputError where an option needs a text that is not there, or does not fit it.

    `validation` are the texts to evaluate on by name, `fisher` that of the Fisher information. Each
    text may be a dataset, or what it is only named by as yet. Returns how new and replayed
    sequences share a step; None without replayed text.
    """
    if validation is None and args.eval_strategy != "no":
        raise InputError(
            "eval_dataset is missing, though evaluations are to come: pass "
            '{"specialized": ..., "general": ...}, or MFTConfig(eval_strategy="no", '
            'save_strategy="no", load_best_model_at_end=False) to train without measuring'
        )
    measured = [name for name, text in (validation or {}).items() if text is not None]
    if args.max_degeneralization is not None and GENERAL not in measured:
        raise InputError(
            "--max_degeneralization needs general text to measure DG on: give it as --general"
        )
    if args.load_best_model_at_end:
        _require_metric(args, measured)
    if args.ewc_lambda:
        _require_fisher(args, fisher)
    if replay is not None:
        return _mixture(args, [text for text in (train, replay) if text is not None])
    if args.adds_replay:
        raise InputError(
            "--replay_share and --replay_weight need replayed text: give it as --replay"
        )
    if args.replay_objective is not None:
        raise InputError("--replay_objective needs replayed text: give it as --replay")
    return None


def metrics_of_evaluations(texts: Collection[str], *, with_kl: bool = True) -> list[str]:
    """The names of what an evaluation on these texts logs.

    KL(p_T || p_S), unless it is not followed, stands in for DG where there is no general text.
    """
    names = ["loss", "specialization", "selection_perplexity"]
    names += [f"{text}_perplexity" for text in texts]
    if GENERAL in texts:
        names += ["degeneralization", "ratio"]
    elif with_kl:
        names.append("forward_kl")
    return [f"eval_{name}" for name in names]


def _require_metric(args: MFTConfig, texts: list[str]) -> None:
    """Raise InputError where --metric_for_best_model is nothing that an evaluation says."""
    name = metric_name(args)
    known = metrics_of_evaluations(texts, with_kl=args.watches_forgetting)
    if name in known:
        return
    problem = did_you_mean(name, known)
    if GENERAL in texts and name in metrics_of_evaluations([SPECIALIZED]):
        problem = ", which has general text: leave --general out, or choose another"
    elif GENERAL not in texts and name in metrics_of_evaluations([SPECIALIZED, GENERAL]):
        problem = ", which has none: give general text as --general, or choose another"
    raise InputError(
        f"--metric_for_best_model {args.metric_for_best_model} is no metric of this run{problem}"
    )


def _require_fisher(args: MFTConfig, text: object | None) -> None:
    """Raise InputError where --ewc_lambda has no text to work on, or no whole weights."""
    if text is None:
        raise InputError(
            "--ewc_lambda needs general text for its Fisher information: give --replay or --general"
        )
    if args.fsdp or args.deepspeed:
        raise InputError("--ewc_lambda needs whole weights in each process: train without sharding")


def _mixture(args: MFTConfig, texts: list[object]) -> Mixture | Addition:
    """How replay shares a step. Raises InputError where options do not fit batch or texts."""
    if not all(isinstance(text, Sized) for text in texts):
        raise InputError("replay needs training texts of known length: give datasets that have it")
    if args.auto_find_batch_size:
        raise InputError(
            "--auto_find_batch_size would change what a step holds of either text: with --replay "
            "choose --per_device_train_batch_size"
        )
    if args.adds_replay:
        assert args.replay_share is not None, "settled with the weight"
        return Addition.of(args.replay_share, args.sequences_per_step)
    return Mixture.of(
        args.new_data_fraction,
        args.per_device_train_batch_size,
        args.gradient_accumulation_steps,
        args.world_size,
    )


def named_texts(
    texts: Sequences | Mapping[str, Sequences] | None,
) -> dict[str, Sequences] | None:
    """Validation texts by name: a dataset alone is the specialized one.

    Raises InputError where there are texts, and none of them is the specialized one.
    """
    if texts is None:
        return None
    named = dict(texts) if isinstance(texts, dict) else {SPECIALIZED: texts}
    if SPECIALIZED not in named:
        raise InputError(
            f'eval_dataset needs the key "{SPECIALIZED}", got {", ".join(map(str, named))}'
        )
    return named  # type: ignore[return-value]


def usable_model(
    model: str | PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase | None,
    texts: Mapping[str, Any],
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase | None]:
    """The model, loaded where it is a name, and its tokenizer where none is given.

    Raises InputError, naming the text, where it cannot be trained on one of `texts`.
    """
    for name, text in texts.items():
        if text is not None:
            require_sequences(text, name)
    if not isinstance(model, (str, nn.Module)):
        raise InputError(
            f"model is a {type(model).__name__}: give a causal language model of transformers, "
            "or its folder or hub id"
        )
    if isinstance(model, str):
        tokenizer = tokenizer or load_tokenizer(model)
        model = load_model(model)
    check_halves(model)
    for name, text in texts.items():
        require_embeddings(text, embedding_rows(model), name)
        require_lengths(text, limit_of(model.config), name)
    return model, tokenizer


_IGNORED = {
    "model_init": "S and DG are relative to the one model that is given: pass model, and make a "
    "trainer for each trial",
    "compute_loss_func": "the loss is that of --objective: leave it out",
    "compute_metrics": "evaluation gives perplexities, S and DG: leave it out",
    "preprocess_logits_for_metrics": "evaluation makes no logits: leave it out",
}


def refuse_ignored(given: dict[str, Any]) -> None:
    """Raise InputError for an argument of Trainer's that would be ignored; None of them is left."""
    for name, reason in _IGNORED.items():
        if given.pop(name, None) is not None:
            raise InputError(f"{name} has no place in MFTTrainer: {reason}")
