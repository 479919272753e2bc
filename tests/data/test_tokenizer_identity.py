import json

import pytest
from tokenizers import Tokenizer, normalizers, processors
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from minifinetuning.data.tokenizers import tokenizer_difference, tokenizer_identity


def fast(backend, **special):
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(backend.to_str()),
        **({"eos_token": "<|end|>"} | special),
    )


def test_a_fast_tokenizer_is_what_it_does(backend):
    identity = tokenizer_identity(fast(backend))
    assert tokenizer_identity(fast(backend, model_max_length=3)) == identity
    for special in ({"eos_token": "<|pad|>"}, {"bos_token": "a"}, {"pad_token": "a"}):
        assert tokenizer_identity(fast(backend, **special)) != identity
    backend.normalizer = normalizers.Lowercase()
    assert tokenizer_identity(fast(backend)) != identity


def test_using_a_tokenizer_does_not_change_it(backend):
    backend.enable_truncation(4)
    backend.enable_padding()
    tokenizer = fast(backend)
    identity = tokenizer_identity(tokenizer)
    state = tokenizer.backend_tokenizer.to_str()
    tokenizer(["the cat"], padding=False, truncation=False)
    assert tokenizer.backend_tokenizer.to_str() != state
    assert tokenizer_identity(tokenizer) == identity


class Characters(PreTrainedTokenizer):
    """One token a character, in plain Python."""

    def __init__(self, characters, lower=False, **options):
        self.characters, self.lower = characters, lower
        super().__init__(lower=lower, **options)

    @property
    def vocab_size(self):
        return len(self.characters)

    def get_vocab(self):
        return {c: n for n, c in enumerate(self.characters)} | self.added_tokens_encoder

    def _tokenize(self, text, **options):
        return list(text.lower() if self.lower else text)

    def _convert_token_to_id(self, token):
        return self.characters.index(token)

    def _convert_id_to_token(self, index):
        return self.characters[index]


class OtherCharacters(Characters):
    pass


@pytest.mark.parametrize(
    "other",
    [
        Characters("abd", eos_token="<e>"),
        Characters("acb", eos_token="<e>"),
        Characters("abc", eos_token="c"),
        Characters("abc", lower=True, eos_token="<e>"),
        OtherCharacters("abc", eos_token="<e>"),
    ],
)
def test_a_tokenizer_in_python_is_its_vocabulary_settings_and_class(other):
    identity = tokenizer_identity(Characters("abc", eos_token="<e>"))
    assert tokenizer_identity(Characters("abc", eos_token="<e>")) == identity
    assert tokenizer_identity(other) != identity


def test_the_same_tokenizer_makes_no_difference_whatever_it_is_called(backend):
    first = fast(backend)
    for special in ({"model_max_length": 3}, {"eos_token": "<|pad|>"}, {"pad_token": "a"}):
        assert tokenizer_difference(first, fast(backend, **special)) is None
    more = fast(backend)
    more.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    assert tokenizer_difference(first, more) is None
    assert tokenizer_difference(more, first) is None


def test_rules_written_in_another_way_make_no_difference(backend):
    """As when one version of transformers wraps in a sequence what another writes alone."""
    wrapped = Tokenizer.from_str(backend.to_str())
    wrapped.normalizer = normalizers.Sequence([])
    assert tokenizer_difference(fast(backend), fast(wrapped)) is None


def test_what_a_tokenizer_puts_around_text_is_a_difference(backend):
    opening, closing = (Tokenizer.from_str(backend.to_str()) for _ in range(2))
    for changed, template in ((opening, "<|pad|> $A"), (closing, "$A <|end|>")):
        special = [(name, backend.token_to_id(name)) for name in ("<|pad|>", "<|end|>")]
        changed.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=special
        )
    said = tokenizer_difference(fast(backend), fast(opening, bos_token="<|pad|>"))
    assert said == "one makes a of 'a', and the other <|pad|> a"
    # Every document is closed by this token anyway.
    assert tokenizer_difference(fast(backend), fast(closing)) is None


def test_what_a_tokenizer_makes_of_text_is_a_difference(backend):
    first = fast(backend)
    assert tokenizer_difference(first, first) is None
    lower = Tokenizer.from_str(backend.to_str())
    lower.normalizer = normalizers.Lowercase()
    assert "split" in str(tokenizer_difference(first, fast(lower)))
    content = json.loads(backend.to_str())
    vocabulary = content["model"]["vocab"]
    one, other = sorted(vocabulary)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    swapped = fast(Tokenizer.from_str(json.dumps(content)))
    assert "of one and" in str(tokenizer_difference(first, swapped))
    assert "known to one alone" in str(tokenizer_difference(Characters("abc"), Characters("abcd")))
