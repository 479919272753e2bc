import hashlib

import numpy
import pytest
import tqdm
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from minifinetuning.data import Document, token_count, tokenize_documents
from minifinetuning.errors import InputError


def documents(*texts):
    return [Document(text, "here") for text in texts]


def test_ids_decode_to_the_text_and_close_with_eos(tokenizer):
    texts = ["the cat", "a much longer text than the window of the model", "ünï"]
    tokenized = [*tokenize_documents(documents(*texts), tokenizer)]
    for text, document in zip(texts, tokenized, strict=True):
        assert document.token_ids[-1] == 0
        assert tokenizer.decode(document.token_ids[:-1]) == text
        assert document.identity == hashlib.sha256(text.encode()).hexdigest()
        assert document.token_ids.dtype == numpy.int32


def test_what_the_tokenizer_adds_is_kept_and_eos_not_doubled(backend):
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A <|end|>", special_tokens=[("<|end|>", 0), ("<|begin|>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|begin|>", eos_token="<|end|>"
    )
    token_ids = next(tokenize_documents(documents("hat"), tokenizer)).token_ids
    assert token_ids[0] == 1
    assert token_ids.tolist().count(0) == 1
    assert token_ids[-1] == 0


def test_text_that_spells_a_special_token_stays_text(tokenizer):
    text = "say <|end|> or <|pad|>"
    token_ids = next(tokenize_documents(documents(text), tokenizer)).token_ids[:-1]
    assert not {0, 1, 2} & set(token_ids.tolist())
    assert tokenizer.decode(token_ids) == text


def test_long_documents_raise_no_warning(tokenizer, caplog, capfd):
    list(tokenize_documents(documents("cat " * 50), tokenizer))
    captured = capfd.readouterr()
    assert "maximum sequence length" not in caplog.text + captured.err + captured.out


class CountingBar(tqdm.tqdm):
    counted = 0

    def update(self, n=1):
        type(self).counted += n
        return super().update(n)


def test_batches_keep_order_and_progress_is_shown_when_asked(tokenizer, capfd, monkeypatch):
    texts = [f"text {number}" for number in range(600)]
    tokenized = [*tokenize_documents(documents(*texts), tokenizer)]
    assert [tokenizer.decode(one.token_ids[:-1]) for one in tokenized] == texts
    assert "tokenizing" not in capfd.readouterr().err
    monkeypatch.setattr("minifinetuning.data.tokens.tqdm", CountingBar)
    list(tokenize_documents(documents(*texts), tokenizer, progress=True))
    assert "0/600" in capfd.readouterr().err
    # The bar removes itself, so its last count is not to be read off the screen.
    assert CountingBar.counted == 600


def test_a_tokenizer_without_eos_is_refused(backend):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(InputError, match=r"no EOS token: set .*tokenizer_config\.json"):
        list(tokenize_documents(documents("a"), tokenizer))


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (7, 7),
        ("500000", 500_000),
        ("500_000", 500_000),
        ("0.5M", 500_000),
        ("4m", 4_000_000),
        ("100k", 100_000),
        ("2B", 2_000_000_000),
        ("0.0000011M", None),
        ("1.1", None),
        (0, None),
        (-5, None),
        ("0k", None),
        ("four", None),
        ("M", None),
        ("", None),
        (True, None),
    ],
)
def test_token_count(value, count):
    if count is not None:
        assert token_count(value) == count
    else:
        with pytest.raises(InputError, match=f"{value!r} is not a number of tokens"):
            token_count(value)
