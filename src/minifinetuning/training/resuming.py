"""Going on with a run: from which checkpoint, and whether it is of the same training."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel

from minifinetuning.errors import InputError
from minifinetuning.training.callbacks import Budget, last_evaluation
from minifinetuning.training.checkpoints import (
    FINAL_STATE,
    checkpoints,
    flaw,
    manifest_of,
    starting_point,
)
from minifinetuning.training.config import AUTO, MFTConfig
from minifinetuning.training.sampled_identity import sampled_text_identity, sampled_weights_identity

__all__ = [
    "asked_checkpoint",
    "checkpoint_to_resume",
    "final_state",
    "require_same_settings",
    "require_same_training",
    "training_record",
]

logger = logging.getLogger(__name__)

_SETTINGS = (
    *("objective", "tau", "kl_weight", "new_data_fraction", "replay_objective", "ewc_lambda"),
    *("freeze_head", "seed", "data_seed", "max_steps", "num_train_epochs", "learning_rate"),
    *("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args"),
    *("optim_target_modules", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
    *("max_grad_norm", "bf16", "fp16", "train_sampling_strategy", "dataloader_drop_last"),
    *("neftune_noise_alpha", "metric_for_best_model", "greater_is_better"),
)
"""The options that decide what each step does to the weights, and which step is the best.

How often a run is logged, evaluated and saved may change, and so may the budget that stops it.
"""

_BATCH = "sequences_per_step"

_TEXTS = {
    "train": "the training text (--data)",
    "replay": "the replayed text (--replay)",
    "fisher": "the text of --ewc_lambda (--replay or --general)",
    "specialized": "the specialized validation text (--data)",
    "general": "the general validation text (--general)",
}


def asked_checkpoint(value: str | bool | None) -> str | bool:
    """What --resume_from_checkpoint says: True for the last one, False for none, or a folder.

    The command line knows strings only.
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    word = value.strip().lower()
    if word in ("true", "yes", "1", "last"):
        return True
    return False if word in ("", "false", "no", "0", "none") else value


def training_record(
    args: MFTConfig, model: PreTrainedModel | PeftModel, texts: Mapping[str, Any]
) -> dict[str, Any]:
    """What decides the course of a training, for the manifest of its checkpoints.

    `texts` are by the names of `_TEXTS`; the model has not been trained yet.
    """
    return {
        "settings": _settings(args),
        "processes": args.world_size,
        "model": sampled_weights_identity(model),
        "adapter": _adapter(model),
        "texts": {name: sampled_text_identity(text) for name, text in texts.items()},
    }


def checkpoint_to_resume(
    asked: str | bool, folder: Path, args: MFTConfig | None = None, *, thoroughly: bool = True
) -> Path | None:
    """The checkpoint to go on from: the newest whole one in `folder`, or the one that is named.

    None where that is the start: nothing is asked for, or no step after the start was saved. Of a
    run with `args` that has ended, with the start as its best step, it is the start all the same.
    Raises InputError where the named one is not whole, where there is none, or where those there
    are hold no optimizer. `thoroughly` reads all of their files, and says what is passed over.
    """
    if asked is False:
        return None
    if asked is not True:
        return _named(Path(asked), args, thoroughly)
    passed_over: list[str] = []
    later = [path for path in checkpoints(folder) if path != starting_point(folder)]
    for path in later:
        found = flaw(path, thoroughly=thoroughly) or _lack(path)
        if found is None:
            if thoroughly:
                _warn(passed_over)
            return path
        passed_over.append(f"{path.name} is passed over: {found}")
    if starting_point(folder).is_dir() and not any(
        flaw(path, thoroughly=False) is None for path in later
    ):
        if final_state(starting_point(folder), args) is not None:
            return starting_point(folder)
        if thoroughly:
            _warn([*passed_over, f"{folder} holds no later checkpoint: training begins anew"])
        return None
    said = f" ({'; '.join(passed_over)})" if passed_over else ""
    raise InputError(
        f"--output_dir {folder} holds no whole checkpoint to resume from{said}: leave "
        "--resume_from_checkpoint out"
        + (" and pass --overwrite_output_dir to train from the start" if passed_over else "")
    )


def _warn(sentences: list[str]) -> None:
    for sentence in sentences:
        logger.warning("%s", sentence)


def final_state(checkpoint: Path, args: MFTConfig | None) -> Path | None:
    """How the run ended that `checkpoint` was kept of, where one with `args` has ended by then."""
    path = checkpoint / FINAL_STATE
    if args is None or manifest_of(checkpoint) is None:
        return None
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        planned = args.max_steps if args.max_steps > 0 else state["max_steps"]
        has_ended = state["global_step"] >= planned
        evaluation = last_evaluation(state["log_history"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    budget = Budget(args.max_degeneralization, args.target_specialization)
    return path if has_ended or budget.reason_to_stop(evaluation) is not None else None


def _named(path: Path, args: MFTConfig | None, thoroughly: bool) -> Path | None:
    found = None
    if not path.is_dir():
        found = "there is no such folder"
    elif manifest_of(path) is None and checkpoints(path):
        found = f"it is the folder of a run: name {checkpoints(path)[0]}, say"
    found = found or flaw(path, thoroughly=thoroughly)
    manifest = manifest_of(path)
    if found is None and manifest is not None and manifest["step"] == 0:
        return None if final_state(path, args) is None else path
    found = found or _lack(path)
    if found is None:
        return path
    raise InputError(
        f"--resume_from_checkpoint {path}: {found}; name another checkpoint, or pass True for the "
        "newest whole one of --output_dir"
    )


def _lack(path: Path) -> str | None:
    manifest = manifest_of(path)
    if manifest is None or manifest["resumable"]:
        return None
    return "it holds no optimizer (it was written with --save_only_model), so a run cannot go on"


def require_same_settings(checkpoint: Path, args: MFTConfig) -> None:
    """Raise InputError where options differ from those of the checkpoint: known at once."""
    manifest = manifest_of(checkpoint)
    assert manifest is not None, "a whole checkpoint has one"
    known = manifest["training"]["settings"]
    _refuse(checkpoint, _other_settings(known, _settings(args), args, manifest["step"]))


def require_same_training(checkpoint: Path, training: Mapping[str, Any], args: MFTConfig) -> None:
    """Raise InputError, naming each, where options, texts or model differ from the checkpoint's."""
    manifest = manifest_of(checkpoint)
    assert manifest is not None, "a whole checkpoint has one"
    known = manifest["training"]
    found = _other_settings(known["settings"], training["settings"], args, manifest["step"])
    found += _other_adapter(known["adapter"], training["adapter"])
    if known["model"] != training["model"]:
        found.append("the model (--model, --dtype) is another")
    for name in _TEXTS:
        known_text, text = known["texts"].get(name), training["texts"].get(name)
        if (name in known["texts"]) != (name in training["texts"]):
            found.append(f"{_TEXTS[name]} is {'there' if text else 'missing'} now")
        elif known_text != text:
            found.append(f"{_TEXTS[name]} is another")
    _refuse(checkpoint, found)
    if known["processes"] != training["processes"]:
        logger.warning(
            "%s was written by %d processes and %d go on with it: what is random, like dropout, "
            "is not what it would have been",
            *(checkpoint, known["processes"], training["processes"]),
        )


def _refuse(checkpoint: Path, found: list[str]) -> None:
    if found:
        raise InputError(
            f"{checkpoint} is of another training: {', '.join(found)}; give what the run was "
            "started with, or train in another --output_dir"
        )


def _settings(args: MFTConfig) -> dict[str, Any]:
    found = {name: getattr(args, name, None) for name in _SETTINGS}
    if args.tau == AUTO:
        del found["tau"]
    else:
        found["tau"] = args.fixed_tau
    if args.max_steps > 0:
        del found["num_train_epochs"]
    # As JSON has it: the same before it is written and after it was read.
    written: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return written | {_BATCH: args.sequences_per_step}


def _other_settings(
    known: Mapping[str, Any], now: Mapping[str, Any], args: MFTConfig, step: int
) -> list[str]:
    found = []
    for name in sorted({*known, *now}):
        was, value = known.get(name), now.get(name)
        if was == value or (name == "max_steps" and _goes_on_longer(args, step)):
            continue
        if name == "tau" and args.tau == AUTO:
            continue  # It is still to be chosen.
        if name == _BATCH:
            found.append(
                f"a step had {was} sequences (--per_device_train_batch_size x "
                f"--gradient_accumulation_steps x processes) and has {value}"
            )
        else:
            found.append(f"--{name} was {was} and is {value}")
    return found


def _goes_on_longer(args: MFTConfig, step: int) -> bool:
    """Whether more steps are the same training: no learning rate depends on how many they are."""
    if args.max_steps < step:
        return False
    if args.lr_scheduler_type == "constant":
        return True
    warmup = float(args.warmup_steps or 0)
    return args.lr_scheduler_type == "constant_with_warmup" and (warmup == 0 or warmup >= 1)


def _adapter(model: PreTrainedModel | PeftModel) -> dict[str, Any] | None:
    """The settings of the adapter that is trained, without the places that it names."""
    if not isinstance(model, PeftModel):
        return None
    config = model.peft_config[model.active_adapter].to_dict()
    places = ("base_model_name_or_path", "revision", "auto_mapping", "inference_mode")
    kept = {
        name: sorted(value) if isinstance(value, set) else value
        for name, value in config.items()
        if name not in (*places, "peft_version")
    }
    found: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return found


def _other_adapter(known: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> list[str]:
    if known == now:
        return []
    if known is None or now is None:
        return [f"there was {'no' if known is None else 'an'} adapter (--adapter)"]
    names = [name for name in sorted({*known, *now}) if known.get(name) != now.get(name)]
    said = ", ".join(f"{name} was {known.get(name)} and is {now.get(name)}" for name in names)
    return [f"the adapter is another (--adapter, --rank: {said})"]
