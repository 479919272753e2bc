"""A step never waits for its device to tell the host a number, so that the device is never idle."""

import traceback

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minifinetuning.data.batches import collate
from minifinetuning.models.adapters import adapter_config
from minifinetuning.training.trainer import MFTTrainer

WAITING = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)


class Waits(TorchDispatchMode):
    """Who asked for the value of a tensor on the device, or made a shape of it."""

    def __init__(self):
        super().__init__()
        self.callers = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in WAITING:
            self.callers.append([frame.filename for frame in traceback.extract_stack()])
        return function(*args, **(kwargs or {}))


def test_the_watch_sees_what_waits():
    with Waits() as waits:
        float(torch.ones(1))
        torch.ones(1).nonzero()
    assert len(waits.callers) == 2


@pytest.mark.parametrize(
    ("objective", "cache", "adapter"),
    [
        ("ft", "none", None),
        ("mft", "none", None),
        ("mft", "hidden", None),
        ("mft", "none", "lora"),
        ("mft", "expected", "lora"),
    ],
)
def test_no_step_waits_but_for_the_mask_of_transformers(
    tiny_model, random_sequences, training_arguments, objective, cache, adapter
):
    model = tiny_model("llama")
    trainer = MFTTrainer(
        model=model,
        args=training_arguments(objective=objective, teacher_cache=cache),
        train_dataset=random_sequences(4),
        peft_config=adapter_config(adapter, model) if adapter else None,
    )
    trainer._run_teacher.begin()
    sequences = trainer.get_train_dataloader().dataset
    batch = collate([sequences[index] for index in range(2)])
    count = torch.tensor(30)
    with Waits() as waits:
        trainer.training_step(trainer.model, batch, num_items_in_batch=count)
    # It looks whether the attention mask hides anything, with or without us.
    ours = [
        stack
        for stack in waits.callers
        if not any(file.endswith("transformers/masking_utils.py") for file in stack)
    ]
    assert ours == []
