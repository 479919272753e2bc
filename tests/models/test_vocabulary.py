import pytest

from minifinetuning.errors import InputError
from minifinetuning.models.vocabulary import embedding_rows
from minifinetuning.training.trainer import MFTTrainer


def test_a_trainer_refuses_ids_that_the_model_lacks(tiny_model, training_arguments):
    model = tiny_model("llama")
    assert embedding_rows(model) == 320
    rows = [{"input_ids": [1, 2, 320]}]
    with pytest.raises(InputError, match="train_dataset needs the token id 320"):
        MFTTrainer(model, training_arguments(), train_dataset=rows)
    with pytest.raises(InputError, match=r'eval_dataset\["specialized"\] needs the token id 320'):
        MFTTrainer(model, training_arguments(), eval_dataset=rows)
