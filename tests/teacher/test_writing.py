"""What a model writes by itself: its own distribution, the same every time, nothing twice."""

import signal

import pytest
import torch

from minifinetuning.data.batches import collate
from minifinetuning.errors import InputError
from minifinetuning.teacher import writing
from minifinetuning.teacher.sampling import sampled_sequences
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


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of four sequences."""
    monkeypatch.setattr(writing, "_SEQUENCES_OF_PART", {"cpu": (4, 4)})


def files_in(folder):
    """The content and the time of each file, by its name."""
    (parts,) = folder.iterdir()
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in parts.iterdir()}


def test_written_text_is_kept_and_a_damaged_part_written_again(
    tiny_model, tokenizer, tmp_path, small_parts
):
    model = tiny_model("llama")
    settings = {"sequences": 10, "sequence_length": 6, "cache": tmp_path / "kept"}
    first = self_written(model, tokenizer, **settings)
    before = files_in(tmp_path / "kept")
    assert sorted(before) == [f"part-0000{part}.safetensors" for part in range(3)]
    assert torch.equal(self_written(model, tokenizer, **settings).tokens, first.tokens)
    assert files_in(tmp_path / "kept") == before
    (damaged,) = (tmp_path / "kept").glob("*/part-00001.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:20])
    assert torch.equal(self_written(model, tokenizer, **settings).tokens, first.tokens)
    after = files_in(tmp_path / "kept")
    assert [name for name in before if after[name] != before[name]] == [damaged.name]
    assert after[damaged.name][0] == before[damaged.name][0]


@pytest.mark.parametrize("changed", ["weights", "seed", "sequence_length", "bf16", "torch", "rows"])
def test_what_changes_the_text_is_kept_apart(tiny_model, tokenizer, tmp_path, monkeypatch, changed):
    model = tiny_model("llama")
    settings = {"sequence_length": 6, "seed": 1, "bf16": False, "cache": tmp_path / "kept"}
    self_written(model, tokenizer, sequences=3, **settings)
    if changed == "weights":
        with torch.no_grad():
            next(model.parameters()).mul_(3.0)
    elif changed == "torch":
        monkeypatch.setattr(torch, "__version__", "another")
    elif changed == "rows":
        monkeypatch.setattr(writing, "_SEQUENCES_OF_PART", {"cpu": (4, 4)})
    else:
        settings[changed] = {"seed": 2, "sequence_length": 7, "bf16": True}[changed]
    self_written(model, tokenizer, sequences=3, **settings)
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_a_longer_text_goes_on_with_the_shorter(tiny_model, tokenizer, tmp_path, small_parts):
    model = tiny_model("llama")
    settings = {"sequence_length": 6, "cache": tmp_path / "kept"}
    whole = self_written(model, tokenizer, sequences=14, sequence_length=6).tokens
    for count in (3, 6, 5, 14):
        text = self_written(model, tokenizer, sequences=count, **settings).tokens
        assert torch.equal(text, whole[:count])
    assert len(files_in(tmp_path / "kept")) == 4


def test_parts_follow_the_model_as_independent_text(tiny_model, tokenizer, small_parts):
    # Of parts that drew alike, all but the first would be repetitions, and left out.
    model = tiny_model("llama")
    parts = writing._Parts(model, 0, 9, seed=3, bf16=False, rows=4)
    assert len({tuple(row) for row in parts.first(40, progress=False).tolist()}) == 40


def test_interrupted_writing_goes_on_where_it_stopped(
    tiny_model, tokenizer, tmp_path, small_parts, monkeypatch
):
    model = tiny_model("llama")
    settings = {"sequences": 11, "sequence_length": 6, "cache": tmp_path / "kept"}
    whole = self_written(model, tokenizer, sequences=11, sequence_length=6).tokens
    wrote = []

    def interrupted(model, start, uniforms, **others):
        if len(wrote) == 2:
            raise KeyboardInterrupt
        return noted(model, start, uniforms, **others)

    def noted(model, start, uniforms, **others):
        wrote.append(len(uniforms))
        return sampled_sequences(model, start, uniforms, **others)

    monkeypatch.setattr(writing, "sampled_sequences", interrupted)
    with pytest.raises(KeyboardInterrupt):
        self_written(model, tokenizer, **settings)
    assert len(files_in(tmp_path / "kept")) == 2
    monkeypatch.setattr(writing, "sampled_sequences", noted)
    assert torch.equal(self_written(model, tokenizer, **settings).tokens, whole)
    assert wrote == [4, 4, 3]


WORKER = """
import os, signal, sys, time, torch
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
from minifinetuning.teacher import sampling, writing

torch.set_num_threads(1)
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64,
    num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2))
written = 0

def slow(*arguments, **others):
    global written
    if written == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    written += 1
    return sampling.sampled_sequences(*arguments, **others)

writing.sampled_sequences = slow
print("ready", flush=True)
sys.stdin.readline()
parts = writing._Parts(model, 0, 8, seed=1, bf16=False, rows=2, folder=Path(sys.argv[1]))
tokens = parts.first(24, progress=False)
print(written, parts.key, tokens.flatten().tolist(), flush=True)
"""


def test_processes_share_the_writing_and_take_over_from_one_that_is_killed(forked, tmp_path):
    folder = str(tmp_path / "parts")
    with (
        forked(WORKER, folder, "-1") as first,
        forked(WORKER, folder, "-1") as second,
        forked(WORKER, folder, "2") as killed,
        forked(WORKER, str(tmp_path / "other"), "-1") as alone,
    ):
        workers = (first, second, killed, alone)
        for one in workers:
            assert one.stdout.readline().strip() == "ready"
        for one in workers:
            one.stdin.write("go\n")
            one.stdin.flush()
        done = [one.finished().split(maxsplit=1) for one in workers]
    assert killed.returncode == -signal.SIGKILL
    assert done[2] == []
    shares = [int(done[0][0]), int(done[1][0])]
    assert min(shares) > 0
    # Two of the twelve were finished by the one that died at its third.
    assert sum(shares) == 10
    assert done[0][1] == done[1][1] == done[3][1]
    kept = sorted(path.name for path in (tmp_path / "parts").iterdir())
    assert kept == [f"part-{part:05d}.safetensors" for part in range(12)]


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
