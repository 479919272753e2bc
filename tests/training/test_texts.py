"""Which text a run trains on, and that none of it is what forgetting is measured on."""

import json
from dataclasses import replace
from pathlib import Path

import numpy
import pytest

from minifinetuning.data.config import DataConfig, TextConfig
from minifinetuning.data.packing import Marks, PackedSequences
from minifinetuning.data.sequences import predicts_text
from minifinetuning.errors import InputError
from minifinetuning.models.config import AdapterConfig, ModelConfig
from minifinetuning.training.caching import CacheConfig, cache_teacher
from minifinetuning.training.texts import TextNeeds, read_texts


@pytest.fixture
def model(tmp_path, llama, tokenizer):
    folder = tmp_path / "model"
    llama.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ModelConfig(str(folder))


@pytest.fixture
def text():
    return TextConfig(sequence_length=32, train_tokens="2k", validation_tokens="300")


@pytest.fixture
def table(tmp_path, sentences):
    """`table(name, texts)`: the path of a table of them."""

    def make(name: str, texts: list[str]) -> str:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
        return str(path)

    return make


def read(model, text, specialized, general, *, seed, replay=None, say=None, warn=None, **needs):
    """`read_texts` of a `TextConfig` and of the sources of each text."""
    sources = {"data": specialized, "general": general, "replay": replay}
    data = DataConfig(**vars(text) | sources)
    told = {name: one for name, one in (("say", say), ("warn", warn)) if one is not None}
    return read_texts(model, data, TextNeeds(seed, **needs), **told)


def written_in(sequences, tokenizer):
    """The text of all sequences, the token that neighbours share not repeated."""
    rows = [sequences[index]["input_ids"][1:].tolist() for index in range(len(sequences))]
    return tokenizer.decode([token for row in rows for token in row])


def test_replayed_text_is_none_of_the_general_validation(model, text, table, sentences):
    own = table("own", sentences(60, 1))
    general = sentences(60, 2)
    # The replayed table holds every general document, and some of its own.
    sources = {
        "the same": ([table("general", general)], [table("general", general)]),
        "another": ([table("general", general)], [table("more", general + sentences(20, 3))]),
    }
    for named, (measured, replayed) in sources.items():
        texts = read(model, text, [own], measured, seed=1, replay=replayed, new_data_fraction=0.25)
        validation = written_in(texts.validation["general"], texts.tokenizer)
        again = written_in(texts.replay, texts.tokenizer)
        held_out = [one for one in general if one in validation]
        assert len(held_out) >= 3, named
        assert not any(one in again for one in held_out), named
        assert sum(one in again for one in general) > 10, named


def test_replay_holds_as_many_tokens_as_its_share_asks_for(model, text, table, sentences):
    own, general = table("own", sentences(90, 1)), table("general", sentences(400, 2))
    for fraction, times in ((0.5, 1), (0.25, 3)):
        texts = read(model, text, [own], None, seed=1, replay=[general], new_data_fraction=fraction)
        assert texts.summaries["replay"].train_tokens == times * 2000
        assert texts.summaries["specialized"].train_tokens == 2000


def long_documents(sentences, count):
    """Documents of which validation takes no more than the end."""
    parts = sentences(6 * count, 2)
    return [" ".join(parts[6 * number : 6 * number + 6]) for number in range(count)]


def test_what_is_trained_on_holds_no_part_of_a_measured_document(
    model, text, table, sentences, monkeypatch, tmp_path
):
    """However its source is spelt, and though validation takes the ends of documents alone."""
    monkeypatch.chdir(tmp_path)
    general = long_documents(sentences, 20)
    own, measured = table("own", sentences(60, 1)), table("general", general)
    copy = table("copy", [f"{one}\n" for one in general])
    spellings = [[measured], ["./general.jsonl"], [copy], [measured, measured], ["gen*.jsonl"]]
    as_fisher = [{"fisher": one} for one in spellings]
    for named in [{"replay": one} for one in spellings] + as_fisher:
        texts = read(model, text, [own], [measured], seed=1, **named)
        held_out = ends_in(texts.validation["general"], texts.tokenizer, general)
        assert texts.summaries["general"].validation_tokens < 400
        assert len(held_out) >= 2, named
        trained = written_in(texts.replay or texts.fisher, texts.tokenizer)
        fronts = {one for one in general if one[:50] in trained}
        assert fronts, named
        assert not fronts & held_out, named


def test_neither_replay_nor_fisher_has_what_the_gain_is_measured_on(model, text, table, sentences):
    own = long_documents(sentences, 20)
    data, general = table("own", own), table("general", sentences(60, 1))
    for named in ({"replay": [data]}, {"fisher": [data]}):
        texts = read(model, text, [data], [general], seed=1, **named)
        held_out = ends_in(texts.validation["specialized"], texts.tokenizer, own)
        trained = written_in(texts.replay or texts.fisher, texts.tokenizer)
        fronts = {one for one in own if one[:50] in trained}
        assert held_out
        assert fronts
        assert not fronts & held_out, named
        # Its own training side keeps the fronts: the split is by position there.
        assert held_out <= {
            one for one in own if one[:50] in written_in(texts.train, texts.tokenizer)
        }


def test_one_measured_document_cannot_be_replayed(model, text, table, sentences):
    own, general = table("own", sentences(60, 1)), table("general", [" ".join(sentences(80, 2))])
    with pytest.raises(InputError, match="a lower --validation_tokens holds out fewer"):
        read(model, text, [own], [general], seed=1, replay=[general])


def test_replay_that_is_all_held_out_is_refused(model, text, table, sentences):
    own, general = table("own", sentences(60, 1)), sentences(60, 2)
    texts = read(model, text, [own], [table("general", general)], seed=1)
    validation = written_in(texts.validation["general"], texts.tokenizer)
    held_out = table("held", [one for one in general if one in validation])
    with pytest.raises(InputError, match="held out for validation already: "):
        read(model, text, [own], [table("general", general)], seed=1, replay=[held_out])


def test_a_fisher_has_the_training_side_of_the_general_text(model, text, table, sentences):
    own, general = table("own", sentences(60, 1)), sentences(60, 2)
    texts = read(
        model, text, [own], [table("general", general)], seed=1, fisher=[table("general", general)]
    )
    validation = written_in(texts.validation["general"], texts.tokenizer)
    fisher = written_in(texts.fisher, texts.tokenizer)
    assert not any(one in fisher for one in general if one in validation)
    assert any(one in fisher for one in general)


def test_the_model_writes_what_is_missing(model, text, table, sentences):
    own = table("own", sentences(60, 1))
    texts = read(model, text, [own], ["self"], seed=1, replay=["self"], fisher=["self"])
    assert len(texts.validation["general"]) == len(texts.validation["specialized"])
    assert len(texts.replay) == len(texts.train)
    rows = {tuple(texts.replay[index]["input_ids"].tolist()) for index in range(len(texts.replay))}
    measured = texts.validation["general"]
    assert not rows & {tuple(measured[i]["input_ids"].tolist()) for i in range(len(measured))}
    summary = texts.summary()
    assert "repeated_line" not in summary["general"]
    assert summary["general"]["sources"] == summary["replay"]["sources"] == ["self"]
    assert summary["general"]["validation_tokens"] == 32 * len(measured)


def test_a_folder_called_self_is_a_folder(model, text, table, sentences, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("self").mkdir()
    Path("self/one.txt").write_text("\n".join(sentences(40, 5)))
    own = table("own", sentences(60, 1))
    texts = read(model, text, [own], ["./self"], seed=1)
    assert texts.summary()["general"]["sources"] == ["./self"]


def test_ids_beyond_the_embeddings_are_refused_before_any_work(
    text, table, sentences, tmp_path, tokenizer, llama
):
    own = table("own", [f"{one} <|user|>" for one in sentences(60, 1)])
    longer = tokenizer.__class__.from_pretrained(_saved(tokenizer, tmp_path / "longer"))
    longer.add_tokens(["<|user|>"])
    for changes, name in (({"eos_token": "[END]"}, "the end of each document"), ({}, "own")):
        llama.save_pretrained(tmp_path / "model")
        longer.save_pretrained(tmp_path / "model")
        given = tokenizer.__class__.from_pretrained(tmp_path / "model", **changes)
        given.save_pretrained(tmp_path / "model")
        said = []
        with pytest.raises(InputError, match=rf"{name}.* needs the token id 32\d, .* for 320"):
            read(ModelConfig(str(tmp_path / "model")), text, [own], None, seed=1, say=said.append)
        assert not said


def _saved(tokenizer, folder):
    tokenizer.save_pretrained(folder)
    return folder


def ends_in(sequences, tokenizer, documents):
    """The documents whose ends are in the sequences."""
    written = written_in(sequences, tokenizer)
    return {one for one in documents if one[-50:] in written}


def test_the_same_text_as_both_is_refused(model, text, table, sentences):
    everything = sentences(60, 1)
    own, same = table("own", everything), table("same", [f"\n{one} " for one in everything])
    part = table("part", everything[:30])
    for with_train in (True, False):
        for general in (own, same, part):
            with pytest.raises(InputError, match=f"--general {general}: every document"):
                read(model, text, [own], [general], seed=1, with_train=with_train)


def test_a_document_that_forgetting_is_measured_on_is_not_trained_on(model, text, table, sentences):
    general = sentences(80, 1)
    own = sentences(60, 2) + [f"{one}\n" for one in general[::2]]
    text = replace(text, validation_tokens="700")
    texts = read(model, text, [table("own", own)], [table("general", general)], seed=1)
    measured = ends_in(texts.validation["general"], texts.tokenizer, general)
    assert len(measured) >= 3
    assert not measured & ends_in(texts.train, texts.tokenizer, general)
    assert ends_in(texts.train, texts.tokenizer, general)
    summary = texts.summary()["specialized"]
    assert summary["held_out_copies"] == len(measured & set(general[::2])) > 0
    assert summary["train_tokens"] == 2000


def test_near_copies_of_what_forgetting_is_measured_on_are_not_trained_on(
    model, text, table, sentences, caplog
):
    general = sentences(80, 1)
    edited = [one.replace(" drug ", " dose ") + " end." for one in general]
    own = table("own", sentences(60, 2) + edited[::2])
    text = replace(text, train_tokens="20k", validation_tokens="700")
    texts = read(model, text, [own], [table("general", general)], seed=1)
    measured = ends_in(texts.validation["general"], texts.tokenizer, general)
    copies = {one for one, of in zip(edited, general, strict=True) if of in measured}
    assert not copies & ends_in(texts.train, texts.tokenizer, edited)
    assert texts.summary()["specialized"]["held_out_near_copies"] > 0
    assert "has a near-copy" not in caplog.text
    read(model, text, [table("all", edited)], [table("general", general)], seed=1)
    assert "every document that forgetting is measured on has a near-copy" in caplog.text


def test_passages_that_are_measured_and_trained_on_are_counted(model, text, table, sentences):
    """In documents that are no near-copies, also where the texts come from the cache."""
    pages, own = sentences(40, 2), sentences(60, 1)
    general, joined = table("general", pages), " ".join(pages)
    text = replace(text, train_tokens="20k")
    cases = [
        # data, replay, and the text that is warned of, if any is.
        ([joined, *own], None, "general", "specialized text, so DG"),
        (own, [joined, *sentences(60, 3)], "general", "replayed text, so DG"),
        ([*own, *(f"{one} {one}" for one in sentences(40, 4))], None, "own", "so S says"),
        (own, sentences(60, 3), None, ""),
    ]
    for data, replay, warned, words in cases:
        for _ in range(2):
            warnings, said = [], []
            texts = read(
                model,
                text,
                [table("own", data)],
                [general],
                seed=1,
                replay=replay and [table("replay", replay)],
                say=said.append,
                warn=warnings.append,
            )
            summary = texts.summary()
            shares = {name: summary[name]["trained_run_share"] for name in texts.validation}
            found = [one for one in warnings if "runs of 24 tokens" in one]
            if warned is None:
                assert max(shares.values()) < 0.02
                assert not found
            else:
                assert shares[{"own": "specialized"}.get(warned, warned)] > 0.1, (data[-1], shares)
                assert words in " ".join(found)
                assert f"{warned}.jsonl: " in found[-1]
            percents = [f"{shares[name]:.1%} of the {name} ones" for name in texts.validation]
            assert ", ".join(percents) in said[-1]
    only = read(model, text, [general], None, seed=1, with_train=False)
    assert only.summary()["specialized"]["trained_run_share"] is None


def test_replay_holds_nothing_that_the_gain_is_measured_on(model, text, table, sentences):
    own = sentences(60, 1)
    other = table("other", own + sentences(20, 2))
    texts = read(
        model, text, [table("own", own)], None, seed=1, replay=[other], new_data_fraction=0.25
    )
    measured = ends_in(texts.validation["specialized"], texts.tokenizer, own)
    assert len(measured) >= 3
    assert not measured & ends_in(texts.replay, texts.tokenizer, own)


def test_an_evaluation_has_the_validation_texts_of_training(model, table, sentences):
    """With copies between the texts, near-copies and boilerplate, whatever is trained on."""
    general = [f"the menu of all our pages\n{one}" for one in sentences(80, 1)]
    own = [*sentences(60, 2), *general[:20], *(f"{one} end." for one in sentences(9, 2))]
    sources = ([table("own", own)], [table("general", general)])
    for drop_boilerplate in (False, True):
        text = TextConfig(
            sequence_length=32,
            train_tokens="2k",
            validation_tokens="600",
            drop_boilerplate=drop_boilerplate,
        )
        trained = read(model, text, *sources, seed=3)
        for changes in ({"with_train": False}, {"replay": [sources[0][0], sources[1][0]]}):
            again = read(model, text, *sources, seed=3, **changes)
            for name in ("specialized", "general"):
                assert again.validation[name].identity == trained.validation[name].identity
        alone = read(model, text, sources[0], None, seed=3, with_train=False)
        own_validation = trained.validation["specialized"]
        assert alone.validation["specialized"].identity == own_validation.identity


@pytest.mark.parametrize(
    ("general", "replay", "read"),
    [(["a"], None, ["a"]), (["self"], None, None), (["self"], ["b"], ["self"]), (None, None, None)],
)
def test_a_teacher_is_cached_for_the_text_that_is_trained_on(monkeypatch, general, replay, read):
    """Which is without what forgetting is measured on."""
    asked = []

    def stopped(model, data, needs):
        asked.append(data.general)
        raise InputError("read")

    monkeypatch.setattr("minifinetuning.training.caching.read_texts", stopped)
    data = DataConfig(data=["own"], general=general, replay=replay)
    with pytest.raises(InputError, match="read"):
        cache_teacher(ModelConfig("model"), AdapterConfig(), data, CacheConfig())
    assert asked == [read]


@pytest.mark.parametrize("which", ["own", "general"])
def test_a_validation_side_without_a_token_to_predict_is_refused(model, table, sentences, which):
    text = TextConfig(sequence_length=32, validation_tokens="1")
    sources = [table("own", sentences(60, 1))]
    other = [table("general", sentences(60, 2))] if which == "general" else None
    with pytest.raises(InputError) as caught:
        read(model, text, sources, other, seed=1)
    assert "has no token of text to predict: raise --validation_tokens" in str(caught.value)
    assert f"{which}.jsonl has no token" in str(caught.value)


def test_a_text_of_ends_alone_has_nothing_to_predict():
    stream = numpy.array([7, 7, 7, 7], dtype=numpy.int32)
    assert not predicts_text(PackedSequences(stream, 3, 7, marks=Marks(end=7)))
    assert predicts_text(PackedSequences(stream, 3, 7))


def test_a_column_is_no_choice_where_no_text_is_a_table(model, table, sentences, tmp_path):
    text = TextConfig(sequence_length=32, text_field="text", validation_tokens="300")
    page = tmp_path / "page.txt"
    page.write_text("\n\n".join(sentences(60, 1)))
    with pytest.raises(InputError, match="--text_field text does nothing here"):
        read(model, text, [str(page)], None, seed=1)
    read(model, text, [str(page)], [table("general", sentences(60, 2))], seed=1)


@pytest.mark.parametrize("name", ["./nowhere", "empty"])
def test_a_tokenizer_that_is_none_is_named_by_its_option(model, text, table, tmp_path, name):
    place = tmp_path / name
    if name == "empty":
        place.mkdir()
    with pytest.raises(InputError, match=f"^--tokenizer {place} "):
        read(replace(model, tokenizer=str(place)), text, ["d"], None, seed=1)
