"""What a model writes by itself: its own distribution, the same every time, nothing twice."""

import pytest
import torch

from minifinetuning.data.batches import collate
from minifinetuning.errors import InputError
from minifinetuning.teacher.writing import self_written, start_token_id


@pytest.mark.parametrize("family", ["llama", "gpt_neo", "gemma2"])
def test_the_text_follows_the_models_own_distribution(tiny_model, tokenizer, family):
    model = tiny_model(family).eval()
    text = self_written(model, tokenizer, sequences=300, sequence_length=12, seed=1)
    ids = text.tokens.long()
    with torch.no_grad():
        log_p = torch.log_softmax(model(ids).logits[:, :-1].double(), 2)
    surprise = -log_p.gather(2, ids[:, 1:, None])[..., 0]
    entropy = -(log_p.exp() * log_p).sum(2)
    # What is drawn is as surprising as p says, on the average: the difference has mean zero.
    difference = (surprise - entropy).flatten()
    assert abs(difference.mean()) < 4 * difference.std() / len(difference) ** 0.5


def test_the_first_token_is_spread_as_the_model_says(tiny_model, tokenizer):
    model = tiny_model("llama", vocab_size=12)
    text = self_written(model, tokenizer, sequences=3000, sequence_length=10)
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor([[0]])).logits[0, 0], 0)
    found = torch.bincount(text.tokens[:, 1].long(), minlength=12) / len(text)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.035)


def test_a_model_that_only_repeats_itself_is_refused(tiny_model, tokenizer):
    model = tiny_model("llama", vocab_size=3)
    with pytest.raises(InputError, match="9 different"):
        self_written(model, tokenizer, sequences=200, sequence_length=3)


def test_the_same_seed_gives_the_same_text(tiny_model, tokenizer):
    def tokens(seed):
        torch.manual_seed(len(str(seed)) * 17)
        model = tiny_model("llama")
        return self_written(model, tokenizer, sequences=40, sequence_length=8, seed=seed).tokens

    assert torch.equal(tokens(1), tokens(1))
    assert not torch.equal(tokens(1), tokens(2))


def test_every_sequence_begins_with_the_start_token_and_is_distinct(tiny_model, tokenizer):
    text = self_written(tiny_model("llama"), tokenizer, sequences=64, sequence_length=3)
    assert set(text.tokens[:, 0].tolist()) == {tokenizer.eos_token_id}
    assert len({tuple(row) for row in text.tokens.tolist()}) == len(text) == 64
    assert collate([text[0], text[1]])["labels"].tolist()[0][0] == -100


def test_a_tokenizer_that_opens_texts_names_the_start_token(tokenizer):
    assert start_token_id(tokenizer) == tokenizer.eos_token_id


def test_written_text_is_kept_and_a_damaged_copy_written_again(tiny_model, tokenizer, tmp_path):
    model = tiny_model("llama")
    settings = {"sequences": 5, "sequence_length": 6, "cache": tmp_path / "kept"}
    first = self_written(model, tokenizer, **settings)
    (path,) = (tmp_path / "kept").iterdir()
    changed = path.stat().st_mtime_ns
    assert torch.equal(self_written(model, tokenizer, **settings).tokens, first.tokens)
    assert path.stat().st_mtime_ns == changed
    path.write_bytes(path.read_bytes()[:20])
    assert torch.equal(self_written(model, tokenizer, **settings).tokens, first.tokens)
    with torch.no_grad():
        next(model.parameters()).mul_(3.0)
    self_written(model, tokenizer, **settings)
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_writing_leaves_the_model_as_it_was(tiny_model, tokenizer):
    model = tiny_model("llama").train()
    self_written(model, tokenizer, sequences=2, sequence_length=5)
    assert model.training
    assert all(value.grad is None for value in model.parameters())


def test_a_start_that_the_model_has_no_embedding_for_is_refused(tiny_model, tokenizer):
    longer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="[END]")
    assert start_token_id(longer) == 320
    with pytest.raises(InputError, match="the start of each text needs the token id 320"):
        self_written(tiny_model("llama"), longer, sequences=2, sequence_length=4)
