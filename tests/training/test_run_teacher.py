"""Training with a teacher's cache is training without it, cheaper."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from minifinetuning.data.batches import collate
from minifinetuning.errors import InputError
from minifinetuning.models.adapters import adapter_config
from minifinetuning.objectives import OBJECTIVES, needs_teacher
from minifinetuning.teacher import plan
from minifinetuning.teacher.columns import CachedExpectation, CachedStates
from minifinetuning.teacher.live import FrozenCopy, StartingModel
from minifinetuning.training.run_teacher import _read_ahead
from minifinetuning.training.trainer import MFTTrainer

RUNGS = [name for name in OBJECTIVES if needs_teacher(name)]


@pytest.fixture
def sequences(random_sequences):
    return random_sequences(6, 16, vocabulary=40)


@pytest.fixture
def trained(tiny_model, sequences, training_arguments):
    """`trained(cache, adapter=None, **arguments)`: the trainer after its five steps."""

    def make(cache, adapter=None, family="llama", **arguments):
        model = tiny_model(family)
        trainer = MFTTrainer(
            model=model,
            args=training_arguments(teacher_cache=cache, **arguments),
            train_dataset=sequences,
            peft_config=adapter_config(adapter, model) if adapter else None,
        )
        trainer.train()
        return trainer

    return make


def weights(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("objective", RUNGS)
@pytest.mark.parametrize("family", ["llama", "phi", "gemma2"])
def test_training_from_hidden_states_is_bit_for_bit_training_without(trained, family, objective):
    live = trained("none", family=family, objective=objective)
    cached = trained("hidden", family=family, objective=objective)
    assert isinstance(live.teacher, FrozenCopy)
    assert isinstance(cached.teacher, CachedStates)
    assert losses(cached) == losses(live)
    after = weights(live)
    assert all(torch.equal(value, after[name]) for name, value in weights(cached).items())


@pytest.mark.parametrize("adapter", ["lora", "dora", "ia3"])
@pytest.mark.parametrize("family", ["llama", "phi", "cohere"])
def test_an_adapter_trains_from_expected_embeddings_as_from_the_live_teacher(
    trained, adapter, family
):
    live = trained("none", adapter, family=family)
    cached = trained("expected", adapter, family=family)
    assert isinstance(cached.teacher, CachedExpectation)
    assert losses(cached) == pytest.approx(losses(live), rel=1e-5)
    after = weights(live)
    for name, value in weights(cached).items():
        torch.testing.assert_close(value, after[name], rtol=1e-3, atol=2e-5)


def test_full_finetuning_with_a_frozen_head_trains_from_expected_embeddings(trained, tiny_model):
    start = tiny_model("llama").get_output_embeddings().weight
    live = trained("none", freeze_head=True)
    cached = trained("auto", freeze_head=True)
    assert isinstance(cached.teacher, CachedExpectation)
    assert losses(cached) == pytest.approx(losses(live), rel=1e-5)
    assert torch.equal(cached.model.get_output_embeddings().weight, start)
    assert not torch.equal(cached.model.model.norm.weight, tiny_model("llama").model.norm.weight)


def test_under_bfloat16_the_cache_is_bfloat16_and_the_loss_is_the_same_to_its_rounding(trained):
    live = trained("none", bf16=True)
    cached = trained("hidden", bf16=True)
    columns = cached.cache_plan.stores["train"].contents.columns
    assert [column.dtype for column in columns] == [torch.bfloat16]
    assert losses(cached) == pytest.approx(losses(live), rel=2e-3)


def test_one_cache_serves_every_tau_objective_and_epoch(trained, own_cache, monkeypatch):
    first = trained("hidden", tau=0.25, max_steps=9)
    forwards = []
    compute = StartingModel.hidden_states

    def counted(self, inputs):
        forwards.append(len(inputs["input_ids"]))
        return compute(self, inputs)

    monkeypatch.setattr(StartingModel, "hidden_states", counted)
    for tau in (0.1, 0.9):
        trained("hidden", tau=tau)
    for objective in RUNGS:
        trained("hidden", objective=objective)
    # One sequence each time, to see that the cache is still the model's.
    assert set(forwards) == {1}
    assert len(forwards) == 2 + len(RUNGS)
    assert len(list((own_cache / "teachers").iterdir())) == 1
    assert first.cache_plan.stores["train"].is_complete


def test_with_a_cache_nothing_of_the_teacher_is_held_but_its_head(trained):
    cached = trained("hidden")
    head = cached.teacher.head.weight
    assert vars(cached.teacher).keys() == {"head"}
    assert head.data_ptr() != cached.model.get_output_embeddings().weight.data_ptr()
    frozen = trained("hidden", "lora")
    head = frozen.teacher.head.weight
    assert head.data_ptr() == frozen.model.get_output_embeddings().weight.data_ptr()


def test_the_loss_outside_a_run_waits_for_the_cache(tiny_model, sequences, training_arguments):
    trainer = MFTTrainer(
        model=tiny_model("llama"),
        args=training_arguments(teacher_cache="hidden"),
        train_dataset=sequences,
    )
    assert trainer.teacher is None
    assert trainer.cache_plan is None
    batch = collate(sequences[:2])
    with pytest.raises(InputError, match="the batch has no column 'teacher_hidden'"):
        trainer.compute_loss(trainer.model, batch)
    cached = trainer.get_train_dataloader().dataset
    from_cache = collate([cached[index] for index in range(2)])
    assert torch.isfinite(trainer.compute_loss(trainer.model, from_cache))


def test_nothing_is_hashed_before_the_run_begins(
    tiny_model, sequences, training_arguments, own_cache, monkeypatch
):
    hashed = []
    for name in ("text_identity", "weights_identity"):
        monkeypatch.setattr(plan, name, lambda of, name=name: hashed.append(name))
    trainer = MFTTrainer(
        model=tiny_model("llama"),
        args=training_arguments(teacher_cache="hidden"),
        train_dataset=sequences,
    )
    assert hashed == []
    assert not own_cache.exists()
    monkeypatch.undo()
    trainer.train()
    assert trainer.cache_plan.kind == "hidden"


def test_a_cache_that_cannot_be_is_refused_before_the_run_begins(
    trained, tiny_model, sequences, training_arguments, tmp_path
):
    folder = str(tmp_path / "teacher")
    trained(folder, "lora")
    with pytest.raises(InputError, match="expected embeddings, which are not possible here"):
        MFTTrainer(tiny_model("llama"), training_arguments(teacher_cache=folder), sequences)


def test_a_collator_that_drops_the_teacher_is_refused(tiny_model, sequences, training_arguments):
    def collator(examples):
        return collate([{"input_ids": example["input_ids"]} for example in examples])

    trainer = MFTTrainer(
        model=tiny_model("llama"),
        args=training_arguments(teacher_cache="hidden"),
        train_dataset=sequences,
    )
    trainer.data_collator = collator
    with pytest.raises(InputError, match="a data_collator must pass"):
        trainer.train()


def test_weights_that_moved_before_the_cache_was_computed_are_noticed(
    tiny_model, sequences, training_arguments
):
    trainer = MFTTrainer(
        model=tiny_model("llama"),
        args=training_arguments(teacher_cache="hidden"),
        train_dataset=sequences,
    )
    with torch.no_grad():
        trainer.model.model.norm.weight.mul_(1.5)
    with pytest.raises(InputError, match="the model was changed before"):
        trainer.train()


def test_a_dataset_without_length_has_no_cache(tiny_model, sequences, training_arguments):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from sequences

    def trainer(cache):
        return MFTTrainer(
            model=tiny_model("llama"),
            args=training_arguments(teacher_cache=cache),
            train_dataset=Stream(),
        )

    assert isinstance(trainer("auto").teacher, FrozenCopy)
    with pytest.raises(
        InputError, match="--teacher_cache hidden needs a training dataset of known"
    ):
        trainer("hidden")


@pytest.mark.parametrize("objective", ["mft", "ft"])
def test_the_signal_of_forgetting_is_the_same_from_the_cache(
    tiny_model, sequences, training_arguments, validation_texts, objective
):
    def followed(cache):
        trainer = MFTTrainer(
            model=tiny_model("llama"),
            args=training_arguments(
                teacher_cache=cache, objective=objective, eval_strategy="steps", eval_steps=2
            ),
            train_dataset=sequences,
            eval_dataset=validation_texts["specialized"],
        )
        trainer.train()
        log = trainer.state.log_history
        return trainer, [entry["eval_forward_kl"] for entry in log if "eval_forward_kl" in entry]

    live, expected = followed("none")
    cached, found = followed("hidden")
    assert isinstance(live.teacher, FrozenCopy)
    assert isinstance(cached.teacher, CachedStates)
    assert len(found) == 3
    assert found == pytest.approx(expected, rel=1e-5)
    assert found[-1] > 0


def test_workers_of_the_data_loader_read_the_cache(trained):
    alone = trained("hidden")
    helped = trained("hidden", dataloader_num_workers=1)
    assert losses(helped) == losses(alone)


def test_a_resumed_run_uses_the_cache_of_the_starting_weights(
    tiny_model, sequences, training_arguments, tmp_path
):
    class StopAt3(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

    def run(name, cache, callbacks=(), resume=None):
        trainer = MFTTrainer(
            model=tiny_model("llama"),
            args=training_arguments(
                output_dir=str(tmp_path / name),
                teacher_cache=cache,
                save_strategy="steps",
                save_steps=3,
                save_only_model=False,
                max_steps=6,
            ),
            train_dataset=sequences,
            callbacks=list(callbacks),
        )
        trainer.train(resume)
        return trainer

    whole = run("whole", "none")
    run("broken", "hidden", [StopAt3()])
    resumed = run("broken", "hidden", resume=True)
    after = weights(whole)
    assert all(torch.equal(value, after[name]) for name, value in weights(resumed).items())
    saved = load_file(tmp_path / "broken" / "checkpoint-6" / "model.safetensors")
    assert not any(name.startswith("teacher") for name in saved)


def test_evaluation_alone_computes_no_cache(tiny_model, sequences, training_arguments, own_cache):
    trainer = MFTTrainer(
        model=tiny_model("llama"),
        args=training_arguments(teacher_cache="hidden"),
        train_dataset=sequences,
        eval_dataset={"specialized": sequences, "general": sequences},
    )
    trainer.evaluate()
    assert not own_cache.exists()


@pytest.mark.parametrize(
    ("device", "workers", "found"),
    [("cuda", 0, (2, True)), ("cuda", 3, (3, False)), ("cpu", 0, (0, False))],
)
def test_on_a_gpu_workers_read_ahead_and_live_as_long_as_the_run(device, workers, found):
    args = SimpleNamespace(
        device=torch.device(device),
        dataloader_num_workers=workers,
        dataloader_persistent_workers=False,
    )
    _read_ahead(args)
    assert (args.dataloader_num_workers, args.dataloader_persistent_workers) == found
