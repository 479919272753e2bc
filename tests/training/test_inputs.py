"""What a trainer is given: datasets, collators and devices that are not the usual ones."""

import math

import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorForLanguageModeling, DataCollatorForSeq2Seq

from minifinetuning.data.mixing import MixedOrder
from minifinetuning.errors import InputError, TrainingDivergedError
from minifinetuning.models.causal import embedding_rows
from minifinetuning.training.trainer import MFTTrainer


@pytest.fixture
def uneven(random_sequences):
    """Sequences of two lengths, so that a batch has padding."""
    return [
        sequence
        for pair in zip(
            random_sequences(8, 16, seed=5), random_sequences(8, 12, seed=6), strict=True
        )
        for sequence in pair
    ]


def weights(trainer):
    trainer.train()
    return [value.detach().clone() for value in trainer.model.parameters()]


@pytest.mark.parametrize("column", ["text", "messages"])
def test_a_dataset_that_is_not_tokenized_says_what_to_do(tiny_model, training_arguments, column):
    rows = [{column: "a text"}]
    with pytest.raises(InputError, match=rf"^train_dataset: .* {column} and no input_ids"):
        MFTTrainer(tiny_model("llama"), training_arguments(), train_dataset=rows)
    with pytest.raises(InputError, match=rf'^eval_dataset\["specialized"\]: .* {column} and no'):
        MFTTrainer(tiny_model("llama"), training_arguments(), eval_dataset=rows)


def test_only_what_a_mask_says_is_trained(tiny_model, training_arguments, random_sequences):
    plain = random_sequences(16, 16, seed=5)
    masked = [{**row, "completion_mask": [0] * 8 + [1] * 8} for row in plain]
    labelled = [{**row, "labels": [-100] * 8 + row["input_ids"][8:]} for row in plain]
    runs = [
        weights(MFTTrainer(tiny_model("llama"), training_arguments(), train_dataset=data))
        for data in (masked, labelled, plain)
    ]
    assert all(map(torch.equal, runs[0], runs[1]))
    assert not all(map(torch.equal, runs[0], runs[2]))


def test_positions_of_packed_texts_are_refused_before_any_work(tiny_model, training_arguments):
    rows = [{"input_ids": [1, 2, 3, 4], "position_ids": [0, 1, 0, 1]}]
    with pytest.raises(InputError, match="train_dataset: position_ids"):
        MFTTrainer(tiny_model("llama"), training_arguments(), train_dataset=rows)


SHORT = [{"input_ids": [5]}] * 3
UNLEARNT = [{"input_ids": [1, 2, 3], "labels": [-100] * 3}] * 3


@pytest.mark.parametrize("argument", ["train_dataset", "replay_dataset", "eval_dataset"])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "holds no sequences: give at least one"),
        (["a text", "another"], "an example is a text and no dict of input_ids: tokenize"),
        ([{"input_ids": []}], "its input_ids are empty: leave it out"),
        ([{"input_ids": [1, -7, 2]}], "has the token id -7: ids count from 0"),
        ([{"input_ids": [1, 2, 3], "labels": [1, 2]}], "has 3 input_ids and 2 labels"),
        ([{"input_ids": [1, 2, 3], "completion_mask": [1]}], "3 input_ids and 1 completion_mask"),
        (SHORT, "has no token to predict: in every sequence"),
        (UNLEARNT, "has no token to predict: in every sequence"),
        ([{"input_ids": [1] * 129}], "a sequence of 129 tokens, above the model's limit of 128"),
    ],
)
def test_a_dataset_that_cannot_be_is_one_sentence(
    tiny_model, training_arguments, random_sequences, argument, data, said
):
    given = {"train_dataset": random_sequences(8), argument: data}
    with pytest.raises(InputError) as caught:
        MFTTrainer(tiny_model("llama"), training_arguments(), **given)
    text = 'eval_dataset["specialized"]' if argument == "eval_dataset" else argument
    assert str(caught.value).startswith(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[1, 2], [3, -7]], "has the token id -7"),
        ([[1, 2], [1] * 129], "has a sequence of 129 tokens"),
        ([[5], [6]], "has no token to predict"),
    ],
)
def test_a_table_that_cannot_be_is_one_sentence(tiny_model, training_arguments, rows, said):
    table = Dataset.from_dict({"input_ids": rows})
    with pytest.raises(InputError, match=f"^train_dataset {said}"):
        MFTTrainer(tiny_model("llama"), training_arguments(), train_dataset=table)


def test_one_sequence_without_predictions_among_others_is_taken(
    tiny_model, training_arguments, random_sequences
):
    data = [*SHORT, *UNLEARNT, *random_sequences(8)]
    MFTTrainer(tiny_model("llama"), training_arguments(), train_dataset=data)


def test_a_model_that_is_none_says_what_to_give(training_arguments, random_sequences):
    with pytest.raises(InputError, match=r"^model is a NoneType: give a causal language model"):
        MFTTrainer(None, training_arguments(), train_dataset=random_sequences(8))


def test_evaluations_without_a_text_for_them_say_what_to_give(
    tiny_model, training_arguments, random_sequences
):
    args = training_arguments(eval_strategy="steps", eval_steps=1)
    with pytest.raises(
        InputError, match=r"^eval_dataset is missing, though evaluations are to come"
    ):
        MFTTrainer(tiny_model("llama"), args, train_dataset=random_sequences(8))


@pytest.mark.parametrize("name", ["language modelling", "sequence to sequence"])
def test_collators_of_transformers_train_as_ours_does(
    tiny_model, training_arguments, uneven, tokenizer, name
):
    padding = tokenizer.__class__(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token="<eos>", pad_token="<eos>"
    )
    # The first takes the token that it pads with for no label, and makes the labels itself.
    data = [{"input_ids": [token or 1 for token in row["input_ids"]]} for row in uneven]
    collator = DataCollatorForLanguageModeling(padding, mlm=False)
    if name == "sequence to sequence":
        collator = DataCollatorForSeq2Seq(padding)
        data = [row | {"labels": row["input_ids"]} for row in data]

    def run(cache, collator=None):
        settings = {"objective": "mft", "teacher_cache": cache, "num_train_epochs": 3}
        return MFTTrainer(
            tiny_model("llama"),
            training_arguments(**settings, max_steps=-1),
            train_dataset=data,
            data_collator=collator,
        )

    theirs = run("auto", collator)
    got, expected = weights(theirs), weights(run("none"))
    for value, other in zip(got, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=1e-5)
    assert not theirs.cache_plan.stores
    assert "data_collator" in theirs.cache_plan.reason
    ours = run("auto")
    ours.train()
    assert ours.cache_plan.stores, "the case is one in which a cache would be taken"
    with pytest.raises(InputError, match=r"--teacher_cache hidden .* leave data_collator out"):
        run("hidden", collator)


@pytest.mark.parametrize(
    "argument",
    ["model_init", "compute_loss_func", "compute_metrics", "preprocess_logits_for_metrics"],
)
def test_what_trainer_takes_and_we_would_ignore_is_refused(
    tiny_model, training_arguments, argument
):
    with pytest.raises(InputError, match=rf"^{argument} has no place in MFTTrainer: "):
        MFTTrainer(tiny_model("llama"), training_arguments(), **{argument: lambda *_: None})


def test_a_search_for_hyperparameters_is_refused(tiny_model, training_arguments, uneven):
    trainer = MFTTrainer(tiny_model("llama"), training_arguments(), train_dataset=uneven)
    with pytest.raises(InputError, match="hyperparameter_search has no place"):
        trainer.hyperparameter_search(n_trials=2)


def test_the_mixture_is_of_one_gpu_where_a_process_sees_several(
    tiny_model, training_arguments, random_sequences
):
    args = training_arguments(per_device_train_batch_size=2, gradient_accumulation_steps=2)
    assert args.n_gpu <= 1
    args._n_gpu = 4
    assert args.train_batch_size == 8
    assert args.sequences_per_step == 4
    trainer = MFTTrainer(
        tiny_model("llama"),
        args,
        train_dataset=random_sequences(20, 16, seed=1),
        replay_dataset=random_sequences(20, 16, seed=2),
    )
    order = trainer.get_train_dataloader().batch_sampler.sampler
    assert isinstance(order, MixedOrder)
    indices = [index for (index,) in order]
    assert len(indices) == 40
    assert all(sum(index < 20 for index in indices[at : at + 4]) == 2 for at in range(0, 40, 4))


def test_a_batch_size_that_is_found_by_trying_has_no_fixed_mixture(
    tiny_model, training_arguments, random_sequences
):
    args = training_arguments(auto_find_batch_size=True)
    text = random_sequences(4)
    with pytest.raises(InputError, match="--auto_find_batch_size"):
        MFTTrainer(tiny_model("llama"), args, train_dataset=text, replay_dataset=text)


def test_a_loss_that_is_not_finite_names_a_narrow_dtype(tiny_model, training_arguments, uneven):
    trainer = MFTTrainer(tiny_model("llama"), training_arguments(), train_dataset=uneven)
    with pytest.raises(TrainingDivergedError) as caught:
        trainer._require_finite(math.nan)
    assert "--dtype" not in str(caught.value)
    trainer.model.half()
    with pytest.raises(TrainingDivergedError, match="--dtype float32"):
        trainer._require_finite(math.nan)


def test_a_trainer_refuses_ids_that_the_model_lacks(tiny_model, training_arguments):
    model = tiny_model("llama")
    assert embedding_rows(model) == 320
    rows = [{"input_ids": [1, 2, 320]}]
    with pytest.raises(InputError, match="train_dataset needs the token id 320"):
        MFTTrainer(model, training_arguments(), train_dataset=rows)
    with pytest.raises(InputError, match=r'eval_dataset\["specialized"\] needs the token id 320'):
        MFTTrainer(model, training_arguments(), eval_dataset=rows)


def test_a_reference_that_is_no_scores_is_refused(tiny_model, training_arguments):
    with pytest.raises(InputError, match="reference is a str: it holds the starting model's sco"):
        MFTTrainer(tiny_model("llama"), training_arguments(), reference="a/model")
