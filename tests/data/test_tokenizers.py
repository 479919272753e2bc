"""What a text spells stays text, on every kind of tokenizer."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from minifinetuning.data import Document, read_corpus, tokenize_documents
from minifinetuning.data.tokenizers import PlainText
from minifinetuning.errors import InputError

NAMES = ["<unk>", "<s>", "</s>"]
LETTERS = list("</s>taginp")


def unigram():
    pieces = [*NAMES, "▁a", "▁tag", "▁in", "▁", *LETTERS]
    backend = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return backend


def numbered(pieces):
    return {piece: number for number, piece in enumerate(pieces)}


def words():
    backend = Tokenizer(models.WordLevel(numbered([*NAMES, "a", "tag", "in", "</", "s>"]), "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return backend


def pieces():
    vocabulary = numbered([*NAMES, *LETTERS, *("##" + letter for letter in LETTERS)])
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.normalizer = normalizers.Lowercase()
    return backend


def whole_words_first():
    backend = Tokenizer(models.BPE(numbered([*NAMES, *LETTERS, " "]), [], ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return backend


class Characters(PreTrainedTokenizer):
    """One token a character, in plain Python."""

    def __init__(self, **options):
        self.characters = [*LETTERS, " ", "▁"]
        super().__init__(**options)

    @property
    def vocab_size(self):
        return len(self.characters)

    def get_vocab(self):
        return {c: n for n, c in enumerate(self.characters)} | self.added_tokens_encoder

    def _tokenize(self, text, **options):
        return list(text)

    def _convert_token_to_id(self, token):
        return self.characters.index(token) if token in self.characters else self.unk_token_id

    def _convert_id_to_token(self, index):
        return self.characters[index]


SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
KINDS = {"unigram": unigram, "words": words, "pieces": pieces, "bpe": whole_words_first}


@pytest.fixture(params=[*KINDS, "python"])
def own(request):
    if request.param == "python":
        return Characters(**SPECIAL)
    return PreTrainedTokenizerFast(tokenizer_object=KINDS[request.param](), **SPECIAL)


@pytest.mark.parametrize("text", ["a tag </s> in a", "</s>", "</s></s> <s> a</s>"])
def test_a_control_token_that_a_text_spells_stays_text(own, text):
    (document,) = tokenize_documents([Document(text, "here")], own)
    ids = document.token_ids.tolist()
    assert ids[-1] == own.eos_token_id
    assert not {own.eos_token_id, own.bos_token_id} & set(ids[:-1])
    assert set(document.broken) <= {"<s>", "</s>"}
    assert document.broken


def test_nothing_but_the_string_changes(own):
    plain = PlainText(own)
    text = "a tag </s> in"
    (whole,) = plain.encoded([text])
    front, end = plain.encoded(["a tag </", "s> in"])
    # Behind the cut, "s" is no front of a word.
    space = [own.convert_tokens_to_ids("▁")] if own.is_fast else []
    start = own.convert_tokens_to_ids("##s")
    continued = end.token_ids[len(space) :] if end.token_ids[:1] == space else end.token_ids
    if start != own.unk_token_id:
        continued = [start, *continued[1:]]
    assert whole.token_ids == front.token_ids + continued
    assert plain.encoded(["a tag in"])[0].broken == ()


def test_letters_that_a_normalizer_changes_are_found():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces(), **SPECIAL)
    (found,) = PlainText(tokenizer).encoded(["a </S> in"])
    assert found.broken == ("</S>",)
    assert "".join(tokenizer.convert_ids_to_tokens(found.token_ids)) == "a<##/##s##>i##n"


@pytest.mark.parametrize("text", ["a tag </s> in", "</s>", "</s></s> <s> a</s>", "a</s>"])
def test_a_broken_string_decodes_to_what_it_was(text):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=unigram(), **SPECIAL)
    (found,) = PlainText(tokenizer).encoded([text])
    assert tokenizer.decode(found.token_ids) == text


@pytest.mark.parametrize("letter", ["ß", "İ", "ŉ"])
def test_letters_that_become_two_when_folded_move_no_cut(letter):
    tokenizer = Characters(**SPECIAL)
    (found,) = PlainText(tokenizer).encoded([letter * 30 + "</s> tag"])
    assert found.broken == ("</s>",)
    assert len(found.token_ids) == 30 + len("</s> tag")


def test_a_text_may_spell_a_control_token_more_often_than_python_calls_itself(own):
    (found,) = PlainText(own).encoded(["a </s> " * 1500])
    assert found.broken == ("</s>",) * 1500
    assert own.eos_token_id not in found.token_ids


def test_what_the_tokenizer_puts_around_a_document_is_kept():
    backend = unigram()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)
    for text in ("a tag in", "a tag </s> in"):
        (document,) = tokenize_documents([Document(text, "here")], tokenizer)
        ids = document.token_ids.tolist()
        assert (ids[0], ids[-1]) == (1, 2)
        assert not {1, 2} & set(ids[1:-1])


def test_a_control_token_of_one_letter_is_refused():
    backend = Tokenizer(models.WordLevel(numbered(["<unk>", "§", "a"]), "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="§")
    with pytest.raises(InputError, match="a text spells '§', which this tokenizer cannot encode"):
        list(tokenize_documents([Document("a § a", "here")], tokenizer))


def test_unknown_words_are_no_control_token_though_the_tokenizer_has_one_for_both():
    backend = Tokenizer(models.WordLevel(numbered(["<end>", "a"]), "<end>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<end>", eos_token="<end>"
    )
    (document,) = tokenize_documents([Document("a word a", "here")], tokenizer)
    assert (document.token_ids.tolist(), document.unknown) == ([1, 0, 1, 0], 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a tag in " * 200 + "ไทย", None),
        ("a tag ภาษา in ไทย " * 50, "warning: 28.4% of all tokens"),
    ],
)
def test_many_unknown_tokens_are_a_warning_and_few_are_not(text, said, tmp_path):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=unigram(), **SPECIAL)
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    summary = read_corpus([str(path)], tokenizer, sequence_length=16).summary
    if said is None:
        assert summary.notes == []
    else:
        assert summary.notes[0].startswith(said)
        assert "<unk>" in str(summary)


def test_a_broken_string_is_said_once(tmp_path):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=unigram(), **SPECIAL)
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'"{"a " * n} tag </s> in"\n' for n in range(40)))
    summary = read_corpus([str(path)], tokenizer, sequence_length=16).summary
    assert [note for note in summary.notes if "</s>" in note] == summary.notes
    assert len(summary.notes) == 1


def test_padding_is_an_id_that_every_model_has(tmp_path):
    """A tokenizer may pad with an id behind the vocabulary."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=unigram(), **SPECIAL, pad_token="[PAD]")
    assert tokenizer.pad_token_id == len(unigram().get_vocab())
    path = tmp_path / "a.txt"
    path.write_text("a tag in " * 30)
    last = read_corpus([str(path)], tokenizer, sequence_length=50).validation[-1]
    assert last["labels"][-1] == -100
    assert last["input_ids"].max() < tokenizer.pad_token_id
