import json
import random
import re
from dataclasses import asdict, replace

import pytest
from transformers import PreTrainedTokenizerFast

from minifinetuning.data import (
    DocumentStream,
    HeldOut,
    Marks,
    corpus_from_sources,
    pack_documents,
    read_corpus,
    split_documents,
    tokenize_documents,
)
from minifinetuning.data.config import TextConfig
from minifinetuning.data.near_copies import signatures
from minifinetuning.data.tokens import document_identity
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
    tokenized = [*tokenize_documents([*DocumentStream([folder])], tokenizer)]
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
        [*tokenize_documents([*DocumentStream([source])], tokenizer)], 1000, 200, 3
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
    assert "1 unreadable file" in str(corpus.summary)
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
    with pytest.raises(InputError, match="--sequence_length must be 2 or above, got 1"):
        read_corpus(["/missing"], tokenizer, sequence_length=1)
    with pytest.raises(InputError, match="--train_tokens: '0' is not a number of tokens"):
        read_corpus(["/missing"], tokenizer, sequence_length=8, train_tokens=0)


def test_a_configuration_and_keywords_say_the_same(folder, tokenizer):
    text = TextConfig(sequence_length=16, train_tokens="2k", validation_tokens="300")
    given = corpus_from_sources([folder], tokenizer, text, seed=3)
    read = read_corpus(
        [folder], tokenizer, sequence_length=16, train_tokens=2000, validation_tokens=300, seed=3
    )
    assert given.train.identity == read.train.identity
    assert given.summary == read.summary


SYLLABLES = [a + b for a in "bdfgklmnprst" for b in ("an", "er", "i", "ost", "ul")]


def marked(count, seed, length=60):
    """Documents of random words, each with a mark at its end: `... <17>`."""
    source = random.Random(seed)
    bodies = [" ".join(source.choices(SYLLABLES, k=length)) for _ in range(count)]
    return [f"{body} <{number}>" for number, body in enumerate(bodies)]


def lightly_edited(text, seed):
    """Three words in a hundred exchanged, the mark kept."""
    source = random.Random(seed)
    words = text.split()
    for place in range(len(words) - 1):
        if source.random() < 0.03:
            words[place] = source.choice(SYLLABLES)
    return " ".join(words)


def table(path, texts):
    path.write_text("\n".join(json.dumps(text) for text in texts))
    return str(path)


def text_of(sequences, tokenizer):
    return tokenizer.decode(sequences.stream)


def marks(sequences, tokenizer):
    return set(re.findall(r"<\d+>", text_of(sequences, tokenizer)))


def test_one_of_a_kind_is_said_as_one(tmp_path, tokenizer):
    source = table(tmp_path / "a.jsonl", [" ".join(marked(10, 1))])
    corpus = read_corpus([source], tokenizer, sequence_length=16, warn=lambda caution: None)
    assert ": 1 document (" in str(corpus.summary)
    assert "validation: 1 document (1 cut by position), " in str(corpus.summary)
    assert "(1 document, " in corpus.summary.cautions()[0]


def test_near_copies_are_never_on_both_sides(tmp_path, tokenizer):
    """Also where only the front of the order is tokenized."""
    texts = marked(60, 1)
    copies = [lightly_edited(text, seed) for seed in range(4) for text in texts]
    source = table(tmp_path / "a.jsonl", texts + copies)
    for seed in range(5):
        for validation_tokens, is_left_out in ((10**6, False), (1000, True)):
            corpus = read_corpus(
                [source],
                tokenizer,
                sequence_length=16,
                seed=seed,
                validation_tokens=validation_tokens,
            )
            summary = corpus.summary
            validation = marks(corpus.validation, tokenizer)
            assert validation
            assert not validation & marks(corpus.train, tokenizer)
            assert summary.are_near_copies_apart
            assert summary.near_copies >= 0.98 * summary.tokenized_documents
            assert (summary.left_out_near_copies > 0) == is_left_out
            assert "near-copies: " in str(summary)
            assert summary.validation_documents == len(validation)


def test_a_text_of_near_copies_alone_is_warned_of(tmp_path, tokenizer, caplog):
    source = table(
        tmp_path / "a.jsonl", [lightly_edited(marked(1, 1, 300)[0], seed) for seed in range(60)]
    )
    corpus = read_corpus([source], tokenizer, sequence_length=16)
    assert corpus.summary.validation_tokens > 0.09 * corpus.summary.tokens
    assert not corpus.summary.are_near_copies_apart
    assert "near-copies of one another" in caplog.text
    assert source in caplog.text


def test_boilerplate_is_reported_and_dropped(tmp_path, tokenizer):
    menu = "".join(f"Go to our page about {word}\n" for word in SYLLABLES[:20])
    source = table(tmp_path / "a.jsonl", [f"{menu}{text}\n" for text in marked(100, 1)])
    options = {"sequence_length": 16, "train_tokens": 10**6}
    summary = read_corpus([source], tokenizer, **options).summary
    assert summary.repeated_lines == 20
    assert 0.5 < summary.repeated_line_share < 0.8
    assert "20 of 20 documents or more" in str(summary)
    assert "--drop_boilerplate" in str(summary)
    assert ', such as "Go to our page about ' in str(summary)
    assert "--drop_boilerplate" not in str(replace(summary, repeated_line_share=0.019))
    for seed in range(5):
        corpus = read_corpus([source], tokenizer, drop_boilerplate=True, seed=seed, **options)
        sides = [text_of(side, tokenizer) for side in (corpus.train, corpus.validation)]
        assert sum(side.count("Go to our page") for side in sides) == 20
        lines = [set(side.split("\n")) - {""} for side in sides]
        assert not any(line in lines[0] & lines[1] for line in menu.splitlines())
        assert corpus.summary.are_repeated_lines_dropped
        assert corpus.summary.documents == 100


def test_validation_is_the_same_whatever_is_held_out_and_trained(tmp_path, tokenizer):
    texts = marked(150, 1)
    own = table(tmp_path / "own.jsonl", [f"the menu of all our pages\n{text}" for text in texts])
    other = table(
        tmp_path / "other.jsonl", [f"the menu of all our pages\n{text} \n" for text in texts[::2]]
    )
    for dropped in (False, True):
        options = {"sequence_length": 16, "drop_boilerplate": dropped, "validation_tokens": 1000}
        held_out = read_corpus([other], tokenizer, with_train=False, **options).held_out
        assert len(held_out) >= 4
        whole = read_corpus([own], tokenizer, **options)
        changes = [{"with_train": False}, {"train_tokens": 100}, {"held_out": held_out}]
        for change in [*changes, changes[0] | changes[2]]:
            changed = read_corpus([own], tokenizer, **(options | change))
            assert changed.validation.identity == whole.validation.identity, change


def test_held_out_documents_and_near_copies_of_them_are_not_trained_on(tmp_path, tokenizer):
    texts = marked(200, 1)
    other = table(tmp_path / "other.jsonl", texts)
    options = {"sequence_length": 16, "validation_tokens": 2000}
    held_out = read_corpus([other], tokenizer, with_train=False, **options).held_out
    # Half of them are the same but for white space around them, half are edited.
    own = [f"{text} \n" if n % 2 else lightly_edited(text, n) for n, text in enumerate(texts)]
    source = table(tmp_path / "own.jsonl", own)
    identities = {document_identity(text): f"<{n}>" for n, text in enumerate(texts)}
    exact = {document_identity(text) for text in own}
    measured = {identities[identity] for identity in held_out.identities}
    for train_tokens in (10**6, 8000):
        corpus = read_corpus(
            [source], tokenizer, held_out=held_out, train_tokens=train_tokens, **options
        )
        assert not measured & marks(corpus.train, tokenizer)
        assert corpus.summary.train_tokens == train_tokens or train_tokens == 10**6
    summary = read_corpus([source], tokenizer, held_out=held_out, **options).summary
    assert summary.held_out_copies == len(exact & set(held_out.identities)) > 0
    assert summary.held_out_near_copies == len(measured) - summary.held_out_copies > 0
    assert summary.held_out_met == len(measured)
    assert "not trained on: " in str(summary)


def test_training_is_filled_though_most_of_a_text_is_held_out(tmp_path, tokenizer):
    """The front of the order is widened until enough can be trained on."""
    texts = marked(400, 1)
    held_out = HeldOut(
        tuple(document_identity(text) for text in texts[:340]), signatures(texts[:340])
    )
    source = table(tmp_path / "own.jsonl", texts)
    options = {"sequence_length": 16, "validation_tokens": 500, "train_tokens": 5000}
    assert read_corpus([source], tokenizer, **options).summary.tokenized_documents < 120
    summary = read_corpus([source], tokenizer, held_out=held_out, **options).summary
    assert summary.train_tokens == 5000
    assert summary.tokenized_documents > 120


def test_little_validation_is_warned_of(tmp_path, tokenizer, caplog):
    source = table(tmp_path / "a.jsonl", marked(60, 1))
    corpus = read_corpus([source], tokenizer, sequence_length=16)
    message = caplog.text
    assert source in message
    assert f"{corpus.summary.validation_tokens:,} tokens" in message
    assert f"{corpus.summary.validation_documents} documents" in message
    assert "give more text" in message
    caplog.clear()
    source = table(tmp_path / "b.jsonl", marked(300, 1))
    corpus = read_corpus([source], tokenizer, sequence_length=16)
    assert corpus.summary.validation_tokens >= 2000
    assert not caplog.text
    read_corpus([source], tokenizer, sequence_length=corpus.summary.validation_tokens + 100)
    assert "1 sequence)" in caplog.text
