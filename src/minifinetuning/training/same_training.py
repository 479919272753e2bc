"""Compare a run with the one that wrote a checkpoint: options, texts, model and adapter."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel

from minifinetuning.data.sequences import normalized
from minifinetuning.errors import InputError
from minifinetuning.models.weights import bytes_of, sampled_weights_identity, spread
from minifinetuning.training.checkpoints import manifest_of
from minifinetuning.training.config import AUTO, MFTConfig

__all__ = ["require_same_settings", "require_same_training", "training_record"]

logger = logging.getLogger(__name__)

_LOSS = ("objective", "tau", "kl_weight", "ewc_lambda", "neftune_noise_alpha")
_REPLAY = ("new_data_fraction", "replay_share", "replay_weight", "replay_objective")
_ORDER = ("train_sampling_strategy", "dataloader_drop_last", "data_seed")
_STEPS = ("max_steps", "num_train_epochs", "learning_rate", "lr_scheduler_type", "warmup_steps")
_OPTIMIZER = ("optim", "optim_args", "optim_target_modules", "lr_scheduler_kwargs", "weight_decay")
_ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm")
_MODEL = ("freeze_head", "seed", "bf16", "fp16")
_CHOICE = ("metric_for_best_model", "greater_is_better")
_SETTINGS = _LOSS + _REPLAY + _ORDER + _STEPS + _OPTIMIZER + _ADAM + _MODEL + _CHOICE
"""The options that decide what each step does to the weights, and which step is the best.

How often a run is logged, evaluated and saved may change, and so may the budget that stops it.
"""

_BATCH = "sequences_per_step"

_SAMPLED_SEQUENCES = 256
"""Of a text that does not know its own identity."""

_TEXTS = {
    "train": "the training text (--data)",
    "replay": "the replayed text (--replay)",
    "fisher": "the text of --ewc_lambda (--replay or --general)",
    "specialized": "the specialized validation text (--data)",
    "general": "the general validation text (--general)",
}


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


def sampled_text_identity(text: Any) -> str | None:
    """The text's own `identity`, else a SHA-256 of its length and 256 sequences spread over it.

    None for a text of unknown length, which may give other sequences each time.
    """
    own = getattr(text, "identity", None)
    if isinstance(own, str):
        return own
    if not isinstance(text, Sized) or not hasattr(text, "__getitem__"):
        return None
    digest = hashlib.sha256(f"{len(text)}:".encode())
    for index in spread(len(text), _SAMPLED_SEQUENCES):
        for name, values in sorted(normalized(text[index]).items()):
            digest.update(f"{name}:{len(values)}:".encode())
            digest.update(bytes_of(values))
    return digest.hexdigest()


def require_same_settings(checkpoint: Path, args: MFTConfig) -> None:
    """Raise InputError where options differ from those of the checkpoint: known at once."""
    known, step = _written(checkpoint)
    _refuse(checkpoint, _other_settings(known["settings"], _settings(args), args, step))


def require_same_training(checkpoint: Path, training: Mapping[str, Any], args: MFTConfig) -> None:
    """Raise InputError, naming each, where options, texts or model differ from the checkpoint's."""
    known, step = _written(checkpoint)
    found = _other_settings(known["settings"], training["settings"], args, step)
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
    was, processes = known["processes"], training["processes"]
    if was != processes:
        logger.warning(
            f"{checkpoint} was written by {was} processes and {processes} go on with it: what is "
            "random, like dropout, is not what it would have been"
        )


def _written(checkpoint: Path) -> tuple[dict[str, Any], int]:
    """The record of the training that wrote a whole checkpoint, and the checkpoint's step."""
    manifest = manifest_of(checkpoint)
    assert manifest is not None, "a whole checkpoint has one"
    return manifest["training"], manifest["step"]


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
    places = {"base_model_name_or_path", "revision", "auto_mapping", "inference_mode"}
    places.add("peft_version")
    kept = {
        name: sorted(value) if isinstance(value, set) else value
        for name, value in config.items()
        if name not in places
    }
    found: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return found


def _other_adapter(known: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> list[str]:
    if known == now:
        return []
    if known is None or now is None:
        return [f"there was {'no' if known is None else 'an'} adapter (--adapter)"]
    names = [name for name in sorted({*known, *now}) if known.get(name) != now.get(name)]
    changes = ", ".join(f"{name} was {known.get(name)} and is {now.get(name)}" for name in names)
    return [f"the adapter is another (--adapter, --rank: {changes})"]
