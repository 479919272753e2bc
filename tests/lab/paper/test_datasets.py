"""The paper's corpora, from stand-ins of the same layout on this disk."""

import gzip
import json
import lzma
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from minifinetuning.data import DocumentStream, read_corpus
from minifinetuning.errors import InputError
from minifinetuning.lab.paper import samples
from minifinetuning.lab.paper.cells import published_values
from minifinetuning.lab.paper.datasets import (
    DATASETS,
    GENERAL,
    dataset_named,
    hub_sample,
    local_text,
)

ALL = [*DATASETS, GENERAL]
PUBMED, PILE_OF_LAW, OPENWEBMATH = DATASETS
FILES = {
    "pubmed": "data/{}_pubmedcentral.jsonl.gz",
    "pile_of_law": "data/train.source{}.jsonl.xz",
    "openwebmath": "data/train-{}-of-00114-5a023365406cb9c4.parquet",
    "openwebtext": "plain_text/train-{}-of-00080.parquet",
}
"""Names of the hub's files, one for each pattern."""


@pytest.fixture(autouse=True)
def _small_portions(monkeypatch):
    monkeypatch.setattr(samples, "PORTION", 500)


@pytest.fixture
def stand_in(tmp_path):
    """`stand_in(dataset, files)`: the dataset in a folder, with these texts in its files."""

    def make(dataset, files):
        folder = tmp_path / "hub" / dataset.key
        for number, texts in enumerate(files):
            write(folder / FILES[dataset.key].format(f"{number:05}"), texts)
        return replace(dataset, path=str(folder))

    return make


def write(path, texts):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        table = pyarrow.table({"url": ["u"] * len(texts), "text": texts})
        pyarrow.parquet.write_table(table, path, row_group_size=20)
        return
    # What stands beside the text is of no fixed kind, as in real files.
    beside = [{"a": 1}, ["b"], None, "c", 2.5]
    rows = [{"id": n, "metadata": beside[n % 5], "text": text} for n, text in enumerate(texts)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes((gzip if path.suffix == ".gz" else lzma).compress(lines))


@pytest.fixture
def sample(tokenizer, tmp_path):
    """`sample(dataset, tokens)`: the rows of the file that is kept of it."""

    def make(dataset, tokens, tokenizer=tokenizer):
        source = hub_sample(dataset, tokenizer, tokens, tmp_path / "samples")
        with gzip.open(source, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    return make


def kept(tmp_path):
    return sorted((tmp_path / "samples").glob("*")) + sorted((tmp_path / "samples").glob(".*"))


def counts(rows, tokenizer):
    """By the tokenizer itself: the tokens of each text, and one that closes it."""
    return [len(tokenizer.encode(row["text"], add_special_tokens=False)) + 1 for row in rows]


def files(rows):
    return {row["source"].rpartition(":")[0] for row in rows}


def test_datasets_have_the_names_of_the_published_tables():
    assert {dataset.name for dataset in DATASETS} == {
        row.cell.dataset for row in published_values()
    }


def test_a_dataset_is_found_by_name_key_and_domain_in_any_case():
    for dataset in ALL:
        for name in (dataset.name, dataset.key, dataset.domain, dataset.name.upper()):
            assert dataset_named(name) is dataset
    with pytest.raises(InputError, match="PubMed, Pile of Law, OpenWebMath, OpenWebText"):
        dataset_named("law")


@pytest.mark.parametrize("dataset", ALL, ids=lambda dataset: dataset.key)
def test_a_sample_meets_its_budget_with_whole_documents(
    dataset, stand_in, sample, tokenizer, sentences
):
    texts = [sentences(60, seed) for seed in range(4)]
    rows = sample(stand_in(dataset, texts), 2000)
    held = counts(rows, tokenizer)
    assert sum(held[:-1]) < 2000 <= sum(held)
    known = {text for of_file in texts for text in of_file}
    assert {row["text"] for row in rows} <= known
    # A sample, and not the front of the first file.
    assert len(files(rows)) > 1
    assert len(rows) < len(known) / 2


def test_the_product_finds_as_many_tokens_in_it(stand_in, tokenizer, sentences, tmp_path):
    texts = sentences(30, 1)
    dataset = stand_in(PUBMED, [["", " \n", f"{texts[0]}\n", *texts], [*texts, *sentences(30, 2)]])
    sources = [str(hub_sample(dataset, tokenizer, 2000, tmp_path / "samples"))]
    documents = DocumentStream(sources)
    list(documents)
    assert (documents.empty, documents.repeated) == (0, 0)
    options = {"sequence_length": 32, "train_tokens": 1800, "validation_tokens": 200}
    summary = read_corpus(sources, tokenizer, **options).summary
    assert summary.train_tokens == 1800
    assert summary.validation_tokens >= 200


def test_a_sample_is_kept_and_found_without_the_dataset(stand_in, sample, sentences, tmp_path):
    dataset = stand_in(PILE_OF_LAW, [sentences(60, 1)])
    first = sample(dataset, 1000)
    for path in (tmp_path / "hub").rglob("*.xz"):
        path.unlink()
    assert sample(dataset, 1000) == first
    with pytest.raises(InputError, match="could not be streamed"):
        sample(dataset, 1001)


def test_another_tokenizer_dataset_or_budget_is_another_sample(
    stand_in, sample, tokenizer, sentences, tmp_path
):
    dataset = stand_in(PUBMED, [sentences(60, 1)])
    other = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<eos>")
    other.add_tokens(["pressure"])
    sample(dataset, 1000)
    sample(dataset, 900)
    sample(dataset, 1000, other)
    sample(replace(dataset, files="data/00000*.jsonl.gz"), 1000)
    assert len(kept(tmp_path)) == 4


def test_files_that_are_not_drawn_are_not_read(stand_in, sample, sentences, tmp_path):
    dataset = stand_in(OPENWEBMATH, [sentences(60, seed) for seed in range(12)])
    rows = sample(dataset, 1500)
    unread = [
        path for path in Path(dataset.path).rglob("*.parquet") if str(path) not in files(rows)
    ]
    assert len(unread) >= 9
    for path in unread:
        path.write_bytes(bytes(path.stat().st_size))
    kept(tmp_path)[0].unlink()
    assert sample(dataset, 1500) == rows


def test_the_end_of_a_file_is_not_read(stand_in, sample, sentences, tmp_path):
    dataset = stand_in(PUBMED, [[f"{number} {'word ' * 200}" for number in range(15_000)]])
    [path] = Path(dataset.path).rglob("*.gz")
    path.write_bytes(path.read_bytes()[:-100])
    assert len(sample(dataset, 5000)) < 30


def test_files_give_tokens_in_proportion_to_their_size(stand_in, sample, tokenizer, sentences):
    short, long = sentences(4000, 1), [" ".join(sentences(20, seed)) for seed in range(50)]
    dataset = stand_in(OPENWEBMATH, [short, long])
    sizes = [path.stat().st_size for path in sorted(Path(dataset.path).rglob("*.parquet"))]
    rows = sample(dataset, 30_000)
    held = [0, 0]
    for row, count in zip(rows, counts(rows, tokenizer), strict=True):
        held["00001-of" in row["source"]] += count
    # 60 draws: two standard deviations are less than 0.15.
    assert held[1] / sum(held) == pytest.approx(sizes[1] / sum(sizes), abs=0.15)
    assert 0.1 < sizes[1] / sum(sizes) < 0.4


def test_files_of_another_split_are_left_alone(stand_in, sample, sentences):
    dataset = stand_in(PILE_OF_LAW, [sentences(60, 1)])
    (Path(dataset.path) / "pile-of-law.py").write_text("raise SystemExit")
    (Path(dataset.path) / "data/validation.source00000.jsonl.xz").write_bytes(bytes(10**6))
    assert sample(dataset, 1000)


def test_a_huge_document_gives_its_front_alone(stand_in, sample, monkeypatch, sentences):
    monkeypatch.setattr(samples, "LONGEST", 1000)
    code = " ".join(sentences(200, 1))
    rows = sample(stand_in(PILE_OF_LAW, [[code], sentences(60, 2)]), 2000)
    assert code[:1000] in [row["text"] for row in rows]
    assert max(len(row["text"]) for row in rows) == 1000


def test_files_that_end_early_are_made_up_for_by_others(stand_in, sample, tokenizer, sentences):
    texts = [sentences(number, seed) for seed, number in enumerate((1, 2, 40, 1))]
    dataset = stand_in(PILE_OF_LAW, texts)
    everything = sum(counts([{"text": text} for file in texts for text in file], tokenizer))
    assert len(sample(dataset, everything)) == 44
    with pytest.raises(InputError, match=rf"^/.*only {everything:,} of the {everything + 1:,} tok"):
        sample(dataset, everything + 1)


def test_a_stream_that_is_cut_leaves_nothing(stand_in, sample, sentences, tmp_path):
    dataset = stand_in(PUBMED, [sentences(60, 1)])
    [path] = Path(dataset.path).rglob("*.gz")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"PubMed could not be streamed .*--corpora DIR"):
        sample(dataset, 5000)
    assert kept(tmp_path) == []
    path.write_bytes(whole)
    assert sample(dataset, 5000)


def test_a_person_who_interrupts_it_leaves_nothing(
    stand_in, sample, sentences, tmp_path, monkeypatch
):
    calls = []

    def interrupted(documents, tokenizer):
        calls.append(documents)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return tokenize(documents, tokenizer)

    tokenize = samples.tokenize_documents
    monkeypatch.setattr(samples, "tokenize_documents", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sample(stand_in(GENERAL, [sentences(60, 1)]), 1000)
    assert kept(tmp_path) == []


@pytest.mark.parametrize("dataset", ALL, ids=lambda dataset: dataset.key)
def test_a_hub_out_of_reach_is_one_sentence(dataset, sample, tmp_path):
    with pytest.raises(InputError) as caught:
        sample(dataset, 1000)
    message = str(caught.value)
    assert message.startswith(f"{dataset.name} could not be streamed (")
    assert f"--corpora DIR that holds {dataset.key}.jsonl.gz" in message
    assert "\n" not in message
    assert kept(tmp_path) == []


def test_a_refusal_of_the_hub_is_one_sentence(sample, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(f"403 Client Error.\n\nCannot access gated repo.\n{'x' * 1000}")

    monkeypatch.setattr("fsspec.core.url_to_fs", refused)
    with pytest.raises(
        InputError, match=r"\(403 Client Error\. Cannot access gated repo\. x*\): "
    ) as it:
        sample(PUBMED, 1000)
    assert len(str(it.value)) < 600


@pytest.mark.parametrize("name", ["pubmed.jsonl.gz", "medical.txt", "PubMed.parquet", "medical"])
def test_a_local_text_is_called_by_key_or_domain(name, tmp_path):
    (tmp_path / "legal.txt").write_text("not this one")
    (tmp_path / "pubmed.pdf").write_text("of no supported kind")
    path = tmp_path / name
    if path.suffix:
        path.write_bytes(b"")
    else:
        path.mkdir()
        (path / "a.txt").write_text("text")
    assert local_text(PUBMED, tmp_path) == path


def test_a_local_text_that_is_missing_or_not_clear_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no text for Pile of Law.*pile_of_law or legal"):
        local_text(PILE_OF_LAW, tmp_path)
    (tmp_path / "legal.txt").write_text("one")
    (tmp_path / "pile_of_law.jsonl").write_text("")
    with pytest.raises(InputError, match=r"legal\.txt, pile_of_law\.jsonl for Pile of Law"):
        local_text(PILE_OF_LAW, tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        local_text(PILE_OF_LAW, tmp_path / "missing")
    (tmp_path / "math").mkdir()
    with pytest.raises(InputError, match="math holds no file of a supported kind"):
        local_text(OPENWEBMATH, tmp_path)
