"""Sources far larger than what is wanted of them."""

import csv
import gzip
import hashlib
import json
import random
import tracemalloc
import weakref

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from minifinetuning.data import (
    Document,
    DocumentStream,
    pack_documents,
    read_corpus,
    split_documents,
    streaming,
    tokenize_documents,
)
from minifinetuning.data.near_copies import signatures
from minifinetuning.data.packing import Marks
from minifinetuning.data.readers.columns import row_texts
from minifinetuning.data.splits import Extent
from minifinetuning.data.streaming import first_in_order
from minifinetuning.errors import InputError

TEXTS = [f"{number:08}" * 1000 for number in range(1000)]  # 8 MB


def written(kind, folder, texts):
    path = folder / f"a.{kind}"
    if kind in ("jsonl", "jsonl.gz"):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
        path.write_bytes(gzip.compress(lines, 1) if kind == "jsonl.gz" else lines)
    elif kind == "csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["id", "text"], *enumerate(texts)])
    elif kind == "parquet":
        # Small pages, which is how little of a file can be read.
        table = pyarrow.table({"text": texts})
        options = {"write_batch_size": 16, "use_dictionary": False, "compression": "none"}
        pyarrow.parquet.write_table(table, path, **options)
    elif kind == "saved":
        datasets.Dataset.from_dict({"text": texts}).save_to_disk(path)
    else:
        path.mkdir()
        for number, text in enumerate(texts):
            (path / f"{number:04}.txt").write_text(text)
    return str(path)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv", "parquet", "saved", "folder"])
def test_documents_come_one_at_a_time(kind, tmp_path):
    stream = DocumentStream([written(kind, tmp_path, TEXTS)])
    before = pyarrow.total_allocated_bytes()
    next(iter(stream))  # What is imported and set up once does not count.
    tracemalloc.start()
    most_of_arrow = 0
    for document, text in zip(stream, TEXTS, strict=True):
        assert document.text == text
        most_of_arrow = max(most_of_arrow, pyarrow.total_allocated_bytes() - before)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert stream.count == 1000
    assert most + most_of_arrow < 4 << 20


def test_counts_are_those_of_the_last_iteration(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(["b", " \n", "a", " b\n", "", "a"]))
    (tmp_path / "bad.txt").write_bytes(b"\0")
    stream = DocumentStream([str(tmp_path)], skip_unreadable=True)
    for _ in range(2):
        assert [document.text for document in stream] == ["b", "a"]
        assert (stream.count, stream.empty, stream.repeated) == (2, 2, 2)
        assert stream.skipped == [str(tmp_path / "bad.txt")]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv", "parquet"])
def test_damage_at_the_end_leaves_all_of_a_table_out(kind, tmp_path):
    source = written(kind, tmp_path, TEXTS)
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        # Valid as a file, and its last text no UTF-8.
        texts = [text.encode() for text in TEXTS] + [b"caf\xe9"]
        binary = pyarrow.array(texts, pyarrow.binary())
        arrow = pyarrow.Array.from_buffers(pyarrow.string(), len(texts), binary.buffers())
        pyarrow.parquet.write_table(pyarrow.table({"text": arrow}), path)
    elif kind == "jsonl.gz":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        path.write_bytes(path.read_bytes() + b"caf\0\n")
    (tmp_path / "b.txt").write_text("fine")
    stream = DocumentStream([str(tmp_path)], skip_unreadable=True)
    assert [document.text for document in stream] == ["fine"]
    assert (stream.count, stream.skipped) == (1, [source])
    with pytest.raises(InputError, match=r"cannot read as text: .*a\."):
        list(DocumentStream([str(tmp_path)]))


def test_bytes_cut_at_the_border_of_a_chunk_are_text(tmp_path):
    path = tmp_path / "a.jsonl"
    text = "x" + "€" * 500_000
    path.write_text(json.dumps(text, ensure_ascii=False), encoding="utf-8")
    assert next(iter(DocumentStream([str(path)]))).text == text
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(InputError, match="damaged UTF-8"):
        list(DocumentStream([str(path)]))
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match="binary"):
        list(DocumentStream([str(path)]))


def test_line_ends_and_marks_are_those_of_whole_files(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbftext,n\r\n"a\r\nb\rc",1\r"d",2\n')
    assert [document.text for document in DocumentStream([str(path)])] == ["a\nb\nc", "d"]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf"a"\r\n\r"b"\r{"text": \r\n')
    with pytest.raises(InputError, match=r"a\.jsonl, line 4: .* column 10\)"):
        list(DocumentStream([str(path)]))


def test_the_column_is_chosen_by_all_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"title": "t", "body": None}, {"title": 7, "body": "x"}, {"note": None}]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert [document.text for document in DocumentStream([str(path)])] == ["x"]
    path.write_text("\n".join(json.dumps(row) for row in [*rows, {"text": "last"}]))
    assert [document.text for document in DocumentStream([str(path)])] == ["last"]


def test_no_more_rows_than_decide_the_column_are_read_twice():
    reads = []

    def read():
        reads.append(0)
        for number in range(10):
            reads[-1] += 1
            yield {"note": "n", "body" if number < 3 else "text": str(number)}

    texts = list(row_texts(read, "a.jsonl", None, pytest.fail)())
    assert texts == ["", "", "", *"3456789"]
    assert reads == [4, 10]


@pytest.fixture
def corpus(tmp_path):
    """Many short documents, a few long ones, and repeated ones."""
    source = random.Random(1)
    words = ["the", "cat", "and", "hat", "bat", "unusual", "é"]
    texts = [
        f"{number} " + " ".join(source.choices(words, k=source.choice([3, 10, 30, 300])))
        for number in range(1500)
    ]
    return written("jsonl", tmp_path, texts + texts[::7])


def expected(corpus, tokenizer, seed):
    """All documents tokenized and split: what the front must come to."""
    items = [*DocumentStream([corpus])]
    tokenized = [*tokenize_documents(items, tokenizer)]
    rows = signatures(document.text for document in items)
    # Of so few words long documents are near-copies by chance.
    near = {document.identity: row for document, row in zip(tokenized, rows, strict=True)}
    return split_documents(tokenized, 3000, 200, seed, signatures=near)


@pytest.mark.parametrize("characters_per_token", [8, 1])
def test_the_front_alone_gives_the_split_of_all(
    corpus, tokenizer, monkeypatch, characters_per_token
):
    fronts = []

    def noted(*arguments, **options):
        fronts.append(reading_front(*arguments, **options))
        return fronts[-1]

    marks = Marks(end=0, openings=frozenset({1, 2}))
    reading_front = streaming.first_in_order
    monkeypatch.setattr(streaming, "first_in_order", noted)
    monkeypatch.setattr(streaming, "_CHARACTERS_PER_TOKEN", characters_per_token)
    options = {"sequence_length": 16, "validation_tokens": 200}
    for seed in range(3):
        read = read_corpus([corpus], tokenizer, train_tokens=3000, seed=seed, **options)
        alone = read_corpus([corpus], tokenizer, seed=seed, with_train=False, **options)
        split = expected(corpus, tokenizer, seed)
        train = pack_documents(split.train, 16, 0, marks=marks)
        validation = pack_documents(split.validation, 16, 0, marks=marks)
        assert read.train.identity == train.identity
        assert read.validation.identity == alone.validation.identity == validation.identity
        assert (read.summary.documents, read.summary.repeated) == (1500, 215)
    assert not any(front.is_all for front in fronts)
    # With too few characters for the tokens, some sources were read once more.
    assert (len(fronts) > 6) == (characters_per_token == 1)


def test_no_more_documents_count_as_tokenized_than_decide(corpus, tokenizer, monkeypatch):
    options = {"sequence_length": 16, "train_tokens": 3000, "validation_tokens": 200}
    summary = read_corpus([corpus], tokenizer, **options).summary
    longest = 4 * 300
    assert 3000 + 200 < summary.tokens < 3000 + 2 * (200 + longest)
    monkeypatch.setattr("minifinetuning.data.tokens._BATCH_DOCUMENTS", 3)
    assert read_corpus([corpus], tokenizer, **options).summary == summary


@pytest.fixture
def documents():
    source = random.Random(0)
    return [Document(f"{number} " * source.randint(1, 40), "here") for number in range(300)]


def in_order(documents, seed):
    """The documented order, written out anew."""

    def key(document):
        identity = hashlib.sha256(document.text.strip().encode()).hexdigest()
        return hashlib.sha256(f"{seed}:{identity}".encode()).hexdigest()

    return sorted(documents, key=key)


@pytest.mark.parametrize("characters", [1, 100, 2500, 10_000])
def test_the_front_is_the_shortest_that_holds_the_characters(documents, characters):
    for seed in range(5):
        front = first_in_order(documents, seed, Extent(characters))
        count = len(front.documents)
        assert front.documents == in_order(documents, seed)[:count]
        held = sum(len(document.text) for document in front.documents)
        assert held - len(front.documents[-1].text) < characters <= held
        assert not front.is_all


def test_the_front_is_of_many_documents_unless_they_are_long(documents):
    for most, held in ((10**9, 40), (500, None)):
        front = first_in_order(documents, 3, Extent(100, 40, most))
        order = in_order(documents, 3)
        assert front.documents == order[: len(front.documents)]
        if held is None:
            lengths = [len(document.text) for document in front.documents]
            assert sum(lengths[:-1]) < most <= sum(lengths)
        else:
            assert len(front.documents) == held


def test_all_documents_are_a_front(documents):
    characters = sum(len(document.text) for document in documents)
    for enough in (characters, 10 * characters):
        front = first_in_order(documents, 7, Extent(enough))
        assert front.documents == in_order(documents, 7)
        assert front.is_all


def test_repeated_documents_keep_their_order():
    documents = [Document("same", str(number)) for number in range(9)]
    assert first_in_order(documents, 0, Extent(100)).documents == documents
    assert first_in_order(documents, 0, Extent(12)).documents == documents[:3]


def test_no_more_than_the_front_is_held():
    alive = weakref.WeakSet()
    most = 0

    def made():
        nonlocal most
        for number in range(500):
            document = Document(f"{number:0100}", "here")
            alive.add(document)
            most = max(most, len(alive))
            yield document

    front = first_in_order(made(), 0, Extent(1000))
    assert len(front.documents) == 10
    # Beside the front: the one just made, and the one before it, which the loop still names.
    assert most <= 12


def test_the_end_of_each_document_counts(documents):
    held = first_in_order(documents, 1, Extent(1000), end=50).documents
    sizes = [len(document.text) + 50 for document in held]
    assert held == in_order(documents, 1)[: len(held)]
    assert sum(sizes[:-1]) < 1000 <= sum(sizes)
