"""Two processes with data parallelism, replay, EWC and a teacher's cache, against one; resumed.

Replay is a part of each step, or added to it.
"""

import json
import socket

import pytest

CHILD = """
import json, os, sys
import torch
from transformers import TrainerCallback
from minifinetuning.teacher import fingerprint as contents
from minifinetuning.training.config import MFTConfig
from minifinetuning.errors import InputError
from minifinetuning.models.loading import load_model
from minifinetuning.training.trainer import MFTTrainer

torch.set_num_threads(1)
given = json.loads(sys.argv[1])
world_size = int(os.environ.get("WORLD_SIZE", "1"))
contents.PART_BYTES = 1


class Interrupt(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 7:
            raise KeyboardInterrupt


def trainer(name, callbacks=(), **changes):
    settings = given["settings"] | {"per_device_train_batch_size": 4 // world_size} | changes
    sequences = settings.pop("sequences", None)
    return MFTTrainer(
        load_model(given["model"]),
        MFTConfig(**settings, output_dir=f"{given['folder']}/{name}"),
        train_dataset=given["train"][:sequences],
        replay_dataset=given["replay"] if "replay" in name else None,
        eval_dataset=given["texts"],
        callbacks=list(callbacks),
    )


def weights(trainer):
    return {name: value.tolist() for name, value in trainer.model.named_parameters()}


def resumed_and_whole(name):
    # Epochs of four steps with replay, of two without: the checkpoint lies within a later one.
    short = given["resumed"]
    try:
        trainer(f"{name}-resumed", [Interrupt()], **short).train()
    except KeyboardInterrupt:
        pass
    try:
        trainer(f"{name}-resumed", **short, seed=7).train(resume_from_checkpoint=True)
    except InputError as error:
        assert "--seed was 42 and is 7" in str(error)
    else:
        raise AssertionError("every process refuses what the first one does")
    run, whole = trainer(f"{name}-resumed", **short), trainer(f"{name}-whole", **short)
    run.train(resume_from_checkpoint=True)
    whole.train()
    return [weights(run), weights(whole)]


teacher = "none" if world_size == 1 else f"{given['folder']}/teacher"
run = trainer(f"{world_size}-replay", teacher_cache=teacher)
run.train()
added = trainer(f"{world_size}-added-replay", teacher_cache=teacher, **given["added"])
added.train()
results = {"log": run.state.log_history, "weights": weights(run)}
results |= {"added_log": added.state.log_history, "added_weights": weights(added)}
results |= {"reference": {
    name: [scores.losses.negative_log_likelihood.tolist(), scores.losses.tokens.tolist(),
           scores.ends.negative_log_likelihood]
    for name, scores in run.reference.items()
}}
if world_size == 2:
    results["resumed"] = {name: resumed_and_whole(name) for name in ("replay", "plain")}
    given["resumed"] |= given["added"]
    results["resumed"]["added"] = resumed_and_whole("added-replay")
if run.is_world_process_zero():
    with open(f"{given['folder']}/{world_size}.json", "w") as file:
        json.dump(results, file)
# gloo's threads must not outlive the interpreter: a process that leaves first would abort.
run.accelerator.wait_for_everyone()
run.accelerator.end_training()
"""


@pytest.mark.slow
def test_two_processes_give_the_weights_and_the_figures_of_one(
    tmp_path, tiny_model, random_sequences, validation_texts, script
):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    given = {
        "model": str(tmp_path / "model"),
        "folder": str(tmp_path),
        "train": random_sequences(40, 16, seed=3),
        "replay": random_sequences(12, 16, seed=4),
        # Numbers of sequences that two processes cannot share evenly.
        "texts": {
            "specialized": validation_texts["specialized"][:7],
            "general": validation_texts["general"][:5],
        },
        "settings": {
            **{"max_steps": 4, "gradient_accumulation_steps": 2, "learning_rate": 0.1},
            **{"new_data_fraction": 0.5, "ewc_lambda": 1.0},
            **{"optim": "sgd", "eval_steps": 2, "save_strategy": "no", "logging_steps": 2},
            **{"load_best_model_at_end": False, "bf16": False, "use_cpu": True},
            **{"per_device_eval_batch_size": 2, "disable_tqdm": True},
        },
        "resumed": {
            **{"max_steps": 12, "gradient_accumulation_steps": 1, "ewc_lambda": 0.0},
            **{"eval_strategy": "no", "save_strategy": "steps", "save_steps": 7},
            **{"per_device_train_batch_size": 2, "teacher_cache": "none", "sequences": 8},
        },
        # Some steps have a replayed sequence, in one of the two processes; some have none.
        "added": {"replay_share": 0.1, "replay_weight": 3.0, "ewc_lambda": 0.0},
    }
    for index, sequence in enumerate([*given["train"], *given["replay"]]):
        masked = (0, 9, 3)[index % 3]
        sequence["labels"] = [-100] * masked + sequence["input_ids"][masked:]
    for size in (1, 2):
        port = free_port()
        ranks = [
            script(CHILD, json.dumps(given), **(launched(rank, size, port) if size > 1 else {}))
            for rank in range(size)
        ]
        for rank in ranks:
            assert rank.end() == 0, rank.output

    assert len(list((tmp_path / "teacher").glob("part-*.safetensors"))) == 40
    one, two = (json.loads((tmp_path / f"{size}.json").read_text()) for size in (1, 2))
    for kind in ("weights", "added_weights"):
        for name, values in one[kind].items():
            assert _flat(two[kind][name]) == pytest.approx(_flat(values), abs=1e-6), name
    for name in ("loss", "specialized_loss", "replay_kl", "forward_kl", "mixing"):
        logged = [[e[name] for e in run["added_log"] if name in e] for run in (one, two)]
        assert len(logged[0]) >= 1, name
        assert logged[1] == pytest.approx(logged[0], rel=1e-4, abs=1e-6), name
    figures = ("loss", "eval_specialized_perplexity", "eval_general_perplexity")
    for name in figures:
        logged = [[entry[name] for entry in run["log"] if name in entry] for run in (one, two)]
        assert len(logged[0]) == 2
        assert logged[1] == pytest.approx(logged[0], rel=1e-5)
    # The same weights have the same scores, to the last digit.
    assert two["reference"] == one["reference"]
    for name, (resumed, whole) in two["resumed"].items():
        assert resumed == whole, f"{name}: the run went on in another order"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def launched(rank, size, port):
    """What torchrun tells each process."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    return {
        **{name: str(value) for name, value in ranks.items()},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
    }


def _flat(values):
    return (
        [number for row in values for number in _flat(row)]
        if isinstance(values, list)
        else [values]
    )
