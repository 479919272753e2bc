import json
import logging
import os
import stat

import datasets
import pytest
import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from minifinetuning.data import HeldOut, cache, read_corpus
from minifinetuning.data.near_copies import signatures
from minifinetuning.errors import InputError


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "texts" / "a.jsonl"
    path.parent.mkdir()
    texts = [f"the cat {number} and the hat " * (number + 1) for number in range(40)]
    rows = [{"text": text, "again": text.upper()} for text in [*texts, "", texts[3]]]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture
def encoded(monkeypatch):
    """The numbers of texts that tokenizers have encoded, call by call."""
    calls = []
    encode = PreTrainedTokenizerFast.__call__

    def counting(tokenizer, texts, **options):
        calls.append(len(texts))
        return encode(tokenizer, texts, **options)

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", counting)
    return calls


@pytest.fixture
def read(source, tokenizer, tmp_path):
    """`read_corpus` with the cache in `tmp_path / "cache"`, and small budgets."""

    def read(tokenizer=tokenizer, sources=(str(source),), **changes):
        options = {
            "sequence_length": 16,
            "train_tokens": 2000,
            "validation_tokens": 300,
            "cache": tmp_path / "cache",
        }
        return read_corpus(sources, tokenizer, **(options | changes))

    return read


def same(one, other):
    """Bit for bit: every tensor of every sequence, and the summary."""

    def items(sequences):
        return [item for sequence in sequences or [] for item in sequence.items()]

    for side in ("train", "validation"):
        pairs = zip(items(getattr(one, side)), items(getattr(other, side)), strict=True)
        if not all(a == b and x.dtype == y.dtype and torch.equal(x, y) for (a, x), (b, y) in pairs):
            return False
    return (
        one.summary == other.summary
        and str(one.summary) == str(other.summary)
        and one.held_out.identities == other.held_out.identities
        and one.held_out.digest == other.held_out.digest
        and one.validation.identity == other.validation.identity
        and (one.train and one.train.identity) == (other.train and other.train.identity)
    )


@pytest.mark.parametrize("with_train", [True, False])
def test_a_corpus_in_the_cache_is_the_same_and_nothing_is_encoded(read, encoded, with_train):
    without = read(with_train=with_train, cache=None)
    first = read(with_train=with_train)
    encoded.clear()
    again = read(with_train=with_train)
    assert not encoded
    assert same(without, first)
    assert same(first, again)
    assert (again.train is not None) == with_train
    assert not same(first, read(with_train=with_train, seed=7))


def test_without_a_cache_nothing_is_kept(read, encoded, tmp_path):
    read(cache=None)
    encoded.clear()
    read(cache=None)
    assert encoded
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"sequence_length": 17},
        {"train_tokens": 1999},
        {"validation_tokens": 299},
        {"seed": 43},
        {"text_field": "again"},
        {"skip_unreadable": True},
        {"with_train": False},
        {"drop_boilerplate": True},
        {"held_out": HeldOut(("another",), signatures(["a b c d e f g h i j k l m n"]))},
    ],
)
def test_every_argument_counts(read, encoded, change):
    read()
    encoded.clear()
    changed = read(**change)
    assert encoded
    assert same(changed, read(cache=None, **change))


def test_a_changed_file_is_read_anew(read, source, encoded):
    before = read()
    state = source.stat()
    content = source.read_text().replace("cat", "bat")
    source.write_text(content)
    os.utime(source, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert source.stat().st_size == state.st_size
    after = read()
    assert after.train.identity != before.train.identity
    assert same(after, read(cache=None))
    source.write_text(content + '\n"one more"')
    os.utime(source, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert read().summary.documents == before.summary.documents + 1


def test_a_file_that_comes_to_a_folder_is_read(read, source):
    folder = (str(source.parent),)
    before = read(sources=folder)
    (source.parent / "b.txt").write_text("one more")
    assert read(sources=folder).summary.documents == before.summary.documents + 1


def test_a_file_within_a_saved_dataset_counts(read, tmp_path, encoded):
    folder = tmp_path / "saved"
    texts = [f"the cat {number} " * 30 for number in range(20)]
    datasets.Dataset.from_dict({"text": texts}).save_to_disk(folder)
    sources = (str(folder),)
    read(sources=sources)
    encoded.clear()
    read(sources=sources)
    assert not encoded
    arrow = next(folder.glob("*.arrow"))
    os.utime(arrow, ns=(0, arrow.stat().st_mtime_ns + 1))
    read(sources=sources)
    assert encoded


def test_a_dataset_of_the_hub_is_not_kept(read, tmp_path, encoded, monkeypatch):
    texts = [f"the cat {number} " * 30 for number in range(20)]
    loaded = datasets.Dataset.from_dict({"text": texts})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: loaded)
    read(sources=("owner/name",))
    encoded.clear()
    read(sources=("owner/name",))
    assert encoded
    assert not (tmp_path / "cache").exists()


def test_files_that_change_while_they_are_read_are_not_kept(read, source, tmp_path, monkeypatch):
    encode = PreTrainedTokenizerFast.__call__

    def touching(tokenizer, texts, **options):
        os.utime(source, ns=(0, source.stat().st_mtime_ns + 1))
        return encode(tokenizer, texts, **options)

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", touching)
    read()
    assert not (tmp_path / "cache").exists()


def test_another_tokenizer_is_used(read, backend, tokenizer, encoded):
    before = read()
    equal = PreTrainedTokenizerFast(
        tokenizer_object=type(backend).from_str(backend.to_str()),
        eos_token="<|end|>",
        pad_token="<|pad|>",
    )
    encoded.clear()
    assert same(read(equal), before)
    assert not encoded
    equal.add_tokens([AddedToken("cat")])
    assert read(equal).train.identity != before.train.identity
    other_end = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|begin|>", pad_token="<|pad|>"
    )
    assert read(other_end).train[0]["input_ids"][0] == 1


def entries(folder):
    return sorted(folder.glob("corpus-*.safetensors"))


def damaged(content):
    """The entry cut, with changed tokens or signatures, a changed count, of another kind, empty."""
    length = 8 + int.from_bytes(content[:8], "little")
    yield content[:-3]
    yield content[: length // 2]
    yield content[:length] + bytes([content[length] ^ 1]) + content[length + 1 :]
    yield content[:-1] + bytes([content[-1] ^ 1])
    assert content.count(rb"\"train_tokens\": 2000") == 1
    yield content.replace(rb"\"train_tokens\": 2000", rb"\"train_tokens\": 2001")
    yield (2).to_bytes(8, "little") + b"{}"
    yield b"something else"
    yield b""


def test_a_damaged_or_foreign_entry_is_made_anew(read, tmp_path, encoded):
    expected = read()
    (path,) = entries(tmp_path / "cache")
    content = path.read_bytes()
    for number, other in enumerate(damaged(content)):
        path.write_bytes(other)
        encoded.clear()
        assert same(read(), expected), number
        assert encoded, number
        encoded.clear()
        assert same(read(), expected), number
        assert not encoded, number


def test_a_mistake_is_found_though_the_corpus_is_in_the_cache(read, source, backend):
    read()
    with pytest.raises(InputError, match="no EOS token"):
        read(PreTrainedTokenizerFast(tokenizer_object=backend))
    with pytest.raises(InputError, match="does not exist"):
        read(sources=(str(source), "/missing.txt"))


def test_what_was_used_longest_ago_makes_room(read, tmp_path, monkeypatch):
    folder = tmp_path / "cache"

    def new_entry(seed):
        before = entries(folder)
        read(seed=seed)
        (path,) = set(entries(folder)) - set(before)
        return path

    first, second = new_entry(1), new_entry(2)
    leftover = folder / ".corpus-0.safetensors.1234"
    leftover.write_bytes(b"x")
    foreign = folder / "model.safetensors"
    foreign.write_bytes(b"x" * 10**6)
    for time, path in enumerate((leftover, foreign, first, second)):
        os.utime(path, ns=(0, time))
    monkeypatch.setattr(cache, "LIMIT", int(2.5 * first.stat().st_size))

    read(seed=1)
    third = new_entry(3)
    assert set(folder.iterdir()) == {first, third, foreign}


def test_a_corpus_above_the_limit_is_not_kept(read, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "LIMIT", 1000)
    read()
    assert not (tmp_path / "cache").exists()


def test_only_the_user_may_read_an_entry(read, tmp_path):
    read()
    (path,) = entries(tmp_path / "cache")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_folder_that_cannot_be_written_is_a_warning(read, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        kept = read(cache=tmp_path / "file" / "cache")
        assert same(kept, read(cache=None))
    (record,) = [one for one in caplog.records if "CACHE" in one.getMessage()]
    assert "MINIFINETUNING_CACHE" in record.getMessage()
    assert str(tmp_path / "file" / "cache") in record.getMessage()
