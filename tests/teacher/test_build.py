"""A cache holds what the starting model says, however it came to be whole."""

import signal
from contextlib import nullcontext

import pytest
import torch

from minifinetuning.errors import InputError
from minifinetuning.teacher.build import build, require_agreement
from minifinetuning.teacher.live import StartingModel


class Counting(StartingModel):
    """Counts the sequences that it computes, and may stop at one."""

    def __init__(self, model, stop_at=None):
        super().__init__(model)
        self.sequences, self.stop_at = 0, stop_at

    def hidden_states(self, inputs):
        if self.stop_at is not None and self.sequences >= self.stop_at:
            raise KeyboardInterrupt
        self.sequences += len(inputs["input_ids"])
        return super().hidden_states(inputs)


@pytest.fixture
def sequences(random_sequences):
    return [*random_sequences(4, 16), *random_sequences(2, 9, seed=1)]


def run(store, teacher, sequences, batch_size=2):
    build(store, teacher, sequences, batch_size=batch_size, autocast=nullcontext)


def test_hidden_states_are_those_of_transformers(tiny_model, store_of, small_parts, sequences):
    model = tiny_model("llama", attention_dropout=0.5).train()
    store = store_of(sequences)
    run(store, StartingModel(model), sequences)
    model.eval()
    for index, sequence in enumerate(sequences):
        tokens = torch.tensor([sequence["input_ids"]])
        with torch.no_grad():
            states = model(tokens, output_hidden_states=True).hidden_states[-1][0, :-1]
        torch.testing.assert_close(
            store.read(index)["teacher_hidden"], states, rtol=1e-5, atol=1e-5
        )


def test_expected_embeddings_are_the_sums_that_they_are_named_for(tiny_model, store_of, sequences):
    model = tiny_model("phi").eval()
    store = store_of(sequences, "expected")
    run(store, StartingModel(model), sequences)
    head = model.get_output_embeddings()
    for index in (1, 5):
        tokens = torch.tensor([sequences[index]["input_ids"]])
        with torch.no_grad():
            p = torch.softmax(model(tokens).logits[0, :-1].double(), 1)
            embedding = p @ head.weight.double()
            scalars = torch.stack(
                [
                    p @ head.bias.double(),
                    p[range(len(p)), tokens[0, 1:]],
                    p.amax(1),
                    (p * p.log()).sum(1),
                ],
                1,
            )
        read = store.read(index)
        torch.testing.assert_close(
            read["teacher_embedding"].double(), embedding, rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(read["teacher_scalars"].double(), scalars, rtol=1e-4, atol=1e-5)


def test_stopped_half_way_it_goes_on_where_it_stopped(
    tiny_model, store_of, small_parts, sequences, tmp_path
):
    model = tiny_model("llama")
    with pytest.raises(KeyboardInterrupt):
        run(store_of(sequences), Counting(model, stop_at=3), sequences, batch_size=1)
    store = store_of(sequences)
    assert store.missing == [1, 2]
    rest = Counting(model)
    run(store, rest, sequences, batch_size=1)
    assert store.is_complete
    assert rest.sequences == 4
    whole = store_of(sequences, folder=tmp_path / "whole")
    run(whole, Counting(model), sequences, batch_size=1)
    for index in range(len(sequences)):
        assert torch.equal(store.read(index)["teacher_hidden"], whole.read(index)["teacher_hidden"])
    again = Counting(model)
    run(store, again, sequences)
    assert again.sequences == 0


WORKER = """
import os, signal, sys, time, torch
from contextlib import nullcontext
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
from minifinetuning.teacher import fingerprint as contents
from minifinetuning.teacher.build import build
from minifinetuning.teacher.fingerprint import Contents
from minifinetuning.teacher.fingerprint import Fingerprint, text_identity
from minifinetuning.teacher.columns import columns
from minifinetuning.teacher.store import TeacherStore
from minifinetuning.teacher.live import StartingModel

torch.set_num_threads(1)
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64,
    num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2))
sequences = [{"input_ids": [(7 * i + j) % 64 for j in range(16)]} for i in range(12)]
contents.PART_BYTES = 1

class Slow(StartingModel):
    computed = 0
    def hidden_states(self, inputs):
        if self.computed == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        self.computed += 1
        time.sleep(0.05)
        return super().hidden_states(inputs)

identity = text_identity(sequences)
fingerprint = Fingerprint("hidden", identity.digest, "w", "float32", "c")
store = TeacherStore(Path(sys.argv[1]), Contents(fingerprint, columns("hidden", 32, torch.float32),
    identity.predictions))
print("ready", flush=True)
sys.stdin.readline()
teacher = Slow(model)
build(store, teacher, sequences, batch_size=1, autocast=nullcontext)
print(teacher.computed, flush=True)
"""


def test_processes_share_the_work_and_take_over_from_one_that_is_killed(forked, tmp_path):
    folder = str(tmp_path / "store")
    with (
        forked(WORKER, folder, "-1") as first,
        forked(WORKER, folder, "-1") as second,
        forked(WORKER, folder, "2") as killed,
    ):
        workers = (first, second, killed)
        for one in workers:
            assert one.stdout.readline().strip() == "ready"
        for one in workers:
            one.stdin.write("go\n")
            one.stdin.flush()
        done = [one.finished().split() for one in workers]
    assert killed.returncode == -signal.SIGKILL
    assert done[2] == []
    shares = [int(done[0][0]), int(done[1][0])]
    assert min(shares) > 0
    # Two of the twelve were finished by the one that died at its third.
    assert sum(shares) == 10
    assert len(list((tmp_path / "store").glob("part-*.safetensors"))) == 12
    assert not list((tmp_path / "store").glob("*.lock"))


@pytest.mark.parametrize("kind", ["hidden", "expected"])
def test_a_cache_that_disagrees_with_the_model_is_refused(tiny_model, store_of, sequences, kind):
    model = tiny_model("llama")
    store = store_of(sequences, kind)
    run(store, StartingModel(model), sequences)
    require_agreement(store, StartingModel(model), sequences, autocast=nullcontext)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1.1)
    with pytest.raises(InputError, match="is not what this model gives here"):
        require_agreement(store, StartingModel(model), sequences, autocast=nullcontext)
