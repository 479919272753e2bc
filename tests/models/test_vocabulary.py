import datasets
import numpy
import pytest
import torch

from minifinetuning.data.packing import PackedSequences
from minifinetuning.data.sequences import require_embeddings
from minifinetuning.errors import InputError
from minifinetuning.models.vocabulary import embedding_rows
from minifinetuning.training.trainer import MFTTrainer

IDS = [3, 9, 5]


@pytest.mark.parametrize(
    "text",
    [
        PackedSequences(numpy.array(IDS, dtype=numpy.int32), 3, 0),
        [{"input_ids": [1]}, {"input_ids": IDS}, {"input_ids": []}],
        [{"input_ids": torch.tensor(IDS)}],
        [{"input_ids": numpy.array(IDS)}],
        datasets.Dataset.from_list([{"input_ids": IDS, "n": 99}, {"input_ids": []}]),
        datasets.Dataset.from_list([{"input_ids": [99]}, {"input_ids": IDS}]).select([1]),
    ],
)
def test_the_largest_id_is_found_in_every_kind_of_text(text):
    require_embeddings(text, 10, "the text")
    require_embeddings(text, None, "the text")
    with pytest.raises(InputError, match=r"the text needs the token id 9, .* embeddings for 9 tok"):
        require_embeddings(text, 9, "the text")


def test_nothing_is_asked_of_a_text_that_says_nothing_in_advance():
    streamed = datasets.Dataset.from_list([{"input_ids": IDS}]).to_iterable_dataset()
    for text in (streamed, iter([{"input_ids": IDS}]), None, []):
        require_embeddings(text, 9, "the text")


def test_a_trainer_refuses_ids_that_the_model_lacks(tiny_model, training_arguments):
    model = tiny_model("llama")
    assert embedding_rows(model) == 320
    rows = [{"input_ids": [1, 2, 320]}]
    with pytest.raises(InputError, match="train_dataset needs the token id 320"):
        MFTTrainer(model, training_arguments(), train_dataset=rows)
    with pytest.raises(InputError, match=r'eval_dataset\["specialized"\] needs the token id 320'):
        MFTTrainer(model, training_arguments(), eval_dataset=rows)
