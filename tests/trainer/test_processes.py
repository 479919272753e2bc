"""Two processes with data parallelism, replay, EWC and a teacher's cache, against one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import minifinetuning

CHILD = """
import json, os, sys
import torch
from minifinetuning.cache import contents
from minifinetuning.config import MFTConfig
from minifinetuning.models.loading import load_model
from minifinetuning.trainer import MFTTrainer

torch.set_num_threads(1)
given = json.loads(sys.argv[1])
world_size = int(os.environ.get("WORLD_SIZE", "1"))
contents.PART_BYTES = 1
trainer = MFTTrainer(
    load_model(given["model"]),
    MFTConfig(
        **given["settings"],
        output_dir=f"{given['folder']}/{world_size}",
        per_device_train_batch_size=4 // world_size,
        teacher_cache="none" if world_size == 1 else f"{given['folder']}/teacher",
    ),
    train_dataset=given["train"],
    replay_dataset=given["replay"],
    eval_dataset=given["texts"],
)
trainer.train()
if trainer.is_world_process_zero():
    weights = {name: value.tolist() for name, value in trainer.model.named_parameters()}
    with open(f"{given['folder']}/{world_size}.json", "w") as file:
        json.dump({"log": trainer.state.log_history, "weights": weights}, file)
# gloo's threads must not outlive the interpreter: a process that leaves first would abort.
trainer.accelerator.wait_for_everyone()
trainer.accelerator.end_training()
"""


@pytest.mark.slow
def test_two_processes_give_the_weights_and_the_figures_of_one(
    tmp_path, tiny_model, random_sequences, validation_texts
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
    }
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    source = str(Path(minifinetuning.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    for command in ([sys.executable], [*launcher, "2"]):
        done = subprocess.run(
            [*command, str(script), json.dumps(given)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    assert len(list((tmp_path / "teacher").glob("part-*.safetensors"))) == 40
    one, two = (json.loads((tmp_path / f"{size}.json").read_text()) for size in (1, 2))
    for name, values in one["weights"].items():
        assert _flat(two["weights"][name]) == pytest.approx(_flat(values), abs=1e-6), name
    figures = ("loss", "eval_specialized_perplexity", "eval_general_perplexity")
    for name in figures:
        logged = [[entry[name] for entry in run["log"] if name in entry] for run in (one, two)]
        assert len(logged[0]) == 2
        assert logged[1] == pytest.approx(logged[0], rel=1e-5)


def _flat(values):
    return (
        [number for row in values for number in _flat(row)]
        if isinstance(values, list)
        else [values]
    )
