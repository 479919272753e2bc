from dataclasses import asdict

import pytest
from transformers import PreTrainedTokenizerFast

from minifinetuning.data import (
    Marks,
    corpus_from_documents,
    pack_documents,
    read_corpus,
    read_documents,
    split_documents,
    tokenize_documents,
)
from minifinetuning.errors import InputError

MARKS = Marks(end=0, openings=frozenset({1, 2}))


@pytest.fixture
def folder(tmp_path):
    for number in range(40):
        (tmp_path / f"{number:02}.txt").write_text(f"the cat {number} and the hat " * (number + 1))
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "again.txt").write_text((tmp_path / "03.txt").read_text())
    return str(tmp_path)


def test_the_corpus_is_the_documents_split_and_packed(folder, tokenizer):
    corpus = read_corpus(
        [folder], tokenizer, sequence_length=16, train_tokens=2000, validation_tokens=300, seed=7
    )
    tokenized = tokenize_documents(read_documents([folder]).items, tokenizer)
    split = split_documents(tokenized, 2000, 300, 7)
    assert corpus.train.identity == pack_documents(split.train, 16, 2, marks=MARKS).identity
    assert (
        corpus.validation.identity == pack_documents(split.validation, 16, 2, marks=MARKS).identity
    )


def test_only_as_many_documents_are_tokenized_as_the_budgets_need(tmp_path, tokenizer):
    rows = "".join(f'"a text that is number {number}"\n' for number in range(2000))
    (tmp_path / "a.jsonl").write_text(rows)
    source = str(tmp_path / "a.jsonl")
    options = {"sequence_length": 16, "validation_tokens": 200, "seed": 3}
    corpus = read_corpus([source], tokenizer, train_tokens=1000, **options)
    assert corpus.summary.tokenized_documents < 2000 == corpus.summary.documents
    split = split_documents(
        tokenize_documents(read_documents([source]).items, tokenizer), 1000, 200, 3
    )
    assert corpus.train.identity == pack_documents(split.train, 16, 2, marks=MARKS).identity
    assert (
        corpus.validation.identity == pack_documents(split.validation, 16, 2, marks=MARKS).identity
    )


def test_validation_alone_is_the_same_validation(folder, tokenizer):
    options = {"sequence_length": 16, "validation_tokens": 300}
    whole = read_corpus([folder], tokenizer, train_tokens=2000, **options)
    alone = read_corpus([folder], tokenizer, with_train=False, **options)
    assert alone.train is None
    assert alone.summary.train_tokens == 0
    assert alone.validation.identity == whole.validation.identity


def test_the_summary_counts_and_reads_well(folder, tokenizer):
    corpus = read_corpus(
        [folder], tokenizer, sequence_length=16, train_tokens=2000, validation_tokens=300
    )
    summary = asdict(corpus.summary)
    assert summary["sources"] == [folder]
    assert (summary["documents"], summary["empty"], summary["repeated"]) == (40, 1, 1)
    assert summary["train_tokens"] == 2000
    assert summary["train_sequences"] == len(corpus.train)
    assert summary["validation_sequences"] == len(corpus.validation)
    assert 300 <= summary["validation_tokens"] == corpus.validation.predicted_tokens
    lines = str(corpus.summary).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{folder}: 40 documents (left out: 1 empty, 1 repeated), ")
    assert f"{summary['tokens']:,} tokens" in lines[0]
    assert "2,000 tokens" in lines[1]
    assert f"{summary['validation_sequences']} sequences of 16" in lines[2]


def test_skipped_files_are_counted_by_ending_and_notes_said(folder, tokenizer, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\0")
    (tmp_path / "a.pdf").write_bytes(b"")
    (tmp_path / "b.pdf").write_bytes(b"")
    (tmp_path / "wide.txt").write_text("a text of its own", encoding="utf-16")
    corpus = read_corpus([folder], tokenizer, sequence_length=16, skip_unreadable=True)
    assert corpus.summary.skipped == 1
    assert "1 unreadable files" in str(corpus.summary)
    assert corpus.summary.left_out == {".pdf": 2, ".txt": 1}
    lines = str(corpus.summary).splitlines()
    assert "  files not read: 2 .pdf, 1 .txt" in lines
    assert f"  read as utf-16, as which it was recognised: {tmp_path / 'wide.txt'}" in lines


def test_one_document_is_split_by_position_with_eos_in_front(tmp_path, tokenizer):
    (tmp_path / "book.txt").write_text("the cat and the hat " * 50)
    corpus = read_corpus([str(tmp_path)], tokenizer, sequence_length=8)
    summary = corpus.summary
    assert summary.train_tokens + summary.validation_tokens == summary.tokens
    assert corpus.train[0]["input_ids"][0] == corpus.validation[0]["input_ids"][0] == 0


def test_padding_falls_back_on_eos(folder, backend):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    last = read_corpus([folder], tokenizer, sequence_length=1000).validation[-1]
    assert last["labels"][-1] == -100
    assert last["input_ids"][-1] == 0


def test_too_little_text_names_what_there_is_and_what_is_needed(tmp_path, tokenizer):
    path = tmp_path / "a.txt"
    path.write_text("cat " * 20)
    tokens = len(tokenizer("cat " * 20)["input_ids"]) + 1
    with pytest.raises(InputError) as raised:
        read_corpus([str(path)], tokenizer, sequence_length=1024)
    message = str(raised.value)
    assert str(path) in message
    assert "--sequence_length" in message
    assert f"{tokens - tokens // 10} tokens for training" in message
    assert "1,024" in message


def test_wrong_settings_are_found_before_anything_is_read(tokenizer, backend):
    no_eos = PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(InputError, match="no EOS token"):
        read_corpus(["/missing"], no_eos, sequence_length=8)
    with pytest.raises(InputError, match="--sequence_length is 1"):
        read_corpus(["/missing"], tokenizer, sequence_length=1)
    with pytest.raises(InputError, match="--train_tokens is 0"):
        read_corpus(["/missing"], tokenizer, sequence_length=8, train_tokens=0)


def test_texts_from_elsewhere_give_the_same_corpus(folder, tokenizer):
    documents = read_documents([folder])
    given = corpus_from_documents(documents, ["the demo"], tokenizer, sequence_length=16)
    read = read_corpus([folder], tokenizer, sequence_length=16)
    assert given.train.identity == read.train.identity
    assert given.summary.sources == ["the demo"]
