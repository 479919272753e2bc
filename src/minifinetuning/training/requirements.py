"""What a run must be given: each rule that ties an option to a text, checked before any work."""

from collections.abc import Mapping, Sized

from minifinetuning.data.batches import Sequences
from minifinetuning.data.mixing import Mixture
from minifinetuning.errors import InputError, did_you_mean
from minifinetuning.evaluation.scores import SPECIALIZED
from minifinetuning.training.callbacks import metric_name
from minifinetuning.training.config import MFTConfig

__all__ = [
    "metrics_of_evaluations",
    "named_texts",
    "require_fisher_text",
    "require_measurable",
    "require_metric",
    "require_texts",
    "require_validation",
    "required_mixture",
]


def require_texts(args: MFTConfig, *, general: object | None, replay: object | None) -> None:
    """All of the below, for texts that have only been named yet."""
    require_measurable(args, with_general=bool(general))
    require_metric(args, with_general=bool(general))
    required_mixture(args, replay)
    require_fisher_text(args, replay or general)


def require_measurable(args: MFTConfig, *, with_general: bool) -> None:
    """Raise InputError where a forgetting budget is set that nothing can measure."""
    if args.max_degeneralization is not None and not with_general:
        raise InputError(
            "--max_degeneralization needs general text to measure DG on: give it as --general"
        )


def metrics_of_evaluations(*, with_general: bool) -> list[str]:
    """The names of what an evaluation logs; KL(p_T || p_S) stands in for DG where that is not."""
    names = ["loss", "specialized_perplexity", "specialization", "selection_perplexity"]
    of_general = ["general_perplexity", "degeneralization", "ratio"]
    return [f"eval_{name}" for name in names + (of_general if with_general else ["forward_kl"])]


def require_metric(args: MFTConfig, *, with_general: bool) -> None:
    """Raise InputError where --metric_for_best_model is nothing that an evaluation says."""
    known = metrics_of_evaluations(with_general=with_general)
    other = metrics_of_evaluations(with_general=not with_general)
    if args.load_best_model_at_end and metric_name(args) in {*other} - {*known}:
        remedy = "leave --general out" if with_general else "give general text as --general"
        raise InputError(
            f"--metric_for_best_model {args.metric_for_best_model} is no metric of this run, which "
            f"has {'general text' if with_general else 'none'}: {remedy}, or choose another"
        )
    if args.load_best_model_at_end and metric_name(args) not in known:
        raise InputError(
            f"--metric_for_best_model {args.metric_for_best_model} is no metric of this run"
            f"{did_you_mean(metric_name(args), known)}"
        )


def required_mixture(
    args: MFTConfig, replay: object | None, train: object | None = None
) -> Mixture | None:
    """How new and replayed sequences share a step; None without replayed text.

    Raises InputError where --new_data_fraction or --replay_objective do not fit the batch, and for
    a training text of unknown length, which cannot be mixed.
    """
    if replay is None:
        if args.replay_objective is not None:
            raise InputError("--replay_objective needs replayed text: give it as --replay")
        return None
    if not all(isinstance(text, Sized) for text in (train, replay) if text is not None):
        raise InputError("replay needs training texts of known length: give datasets that have it")
    if args.auto_find_batch_size:
        raise InputError(
            "--auto_find_batch_size would change the share of new text in a step: with --replay "
            "choose --per_device_train_batch_size"
        )
    mixture = Mixture.of(
        args.new_data_fraction,
        args.per_device_train_batch_size,
        args.gradient_accumulation_steps,
        args.world_size,
    )
    if args.replay_objective not in (None, args.objective) and not mixture.is_separate:
        raise InputError(
            f"--replay_objective needs forward passes of one text alone: {mixture.new} new "
            f"sequences a step are no multiple of --per_device_train_batch_size "
            f"{args.per_device_train_batch_size}, choose a smaller one and more "
            "--gradient_accumulation_steps"
        )
    return mixture


def require_fisher_text(args: MFTConfig, text: object | None) -> None:
    """Raise InputError where --ewc_lambda has no text to work on, or no whole weights."""
    if not args.ewc_lambda:
        return
    if text is None:
        raise InputError(
            "--ewc_lambda needs general text for its Fisher information: give --replay or --general"
        )
    if args.fsdp or args.deepspeed:
        raise InputError("--ewc_lambda needs whole weights in each process: train without sharding")


def require_validation(args: MFTConfig, texts: object | None) -> None:
    """Raise InputError where evaluations are to come, and nothing is there to evaluate on."""
    if texts is None and args.eval_strategy != "no":
        raise InputError(
            "eval_dataset is missing, though evaluations are to come: pass "
            '{"specialized": ..., "general": ...}, or MFTConfig(eval_strategy="no", '
            'save_strategy="no", load_best_model_at_end=False) to train without measuring'
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
