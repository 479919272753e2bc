"""What each process sees in each step of a run with replay."""

import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, DataLoader

from minifinetuning.data.batches import collate, model_inputs
from minifinetuning.data.mixing import Addition, MixedOrder, MixedSequences, Mixture
from minifinetuning.errors import InputError


def steps_of(order, process):
    """For each step of an epoch the indices of one process, as accelerate deals them out."""
    mixture = order.mixture
    batches = BatchSampler(order, mixture.batch_size, drop_last=False)
    own = list(BatchSamplerShard(batches, mixture.processes, process))
    assert len(own) % mixture.accumulation == 0
    return [
        [
            index
            for batch in own[start : start + mixture.accumulation]
            for slot in batch
            for index in slot
        ]
        for start in range(0, len(own), mixture.accumulation)
    ]


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize(
    ("fraction", "batch_size", "accumulation"),
    [(0.5, 2, 2), (0.5, 4, 1), (0.25, 1, 4), (0.8, 5, 2)],
)
def test_every_process_has_the_exact_share_in_every_step(
    processes, fraction, batch_size, accumulation
):
    mixture = Mixture.of(fraction, batch_size, accumulation, processes)
    order = MixedOrder(50, 31, mixture, seed=7)
    seen = []
    for process in range(processes):
        steps = steps_of(order, process)
        assert len(steps) == order.steps
        for step in steps:
            assert sum(index < 50 for index in step) == fraction * batch_size * accumulation
            seen += step
    new = [index for index in seen if index < 50]
    # An epoch is a pass over the specialized text: nothing twice, and less than a step left out.
    assert len(set(new)) == len(new) > 50 - mixture.new * processes
    replayed = [index - 50 for index in seen if index >= 50]
    assert set(replayed) <= set(range(31))
    rounds = len(replayed) // 31
    assert all(rounds <= replayed.count(index) <= rounds + 1 for index in range(31))


def test_passes_are_shuffled_anew_and_go_on_over_epochs():
    mixture = Mixture.of(0.5, 2, 1, 1)
    order = MixedOrder(6, 4, mixture, seed=1)
    epochs = []
    for epoch in range(3):
        order.set_epoch(epoch)
        epochs.append([index for (index,) in order if index < 6])
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    again = MixedOrder(6, 4, mixture, seed=1)
    again.set_epoch(2)
    assert [index for (index,) in again if index < 6] == epochs[2]
    other = MixedOrder(6, 4, mixture, seed=2)
    assert [index for (index,) in other if index < 6] != epochs[0]


def test_a_text_smaller_than_a_step_is_gone_through_again_within_it():
    order = MixedOrder(3, 1, Mixture.of(0.5, 4, 2, 1), seed=0)
    (step,) = steps_of(order, 0)
    assert sorted(index for index in step if index < 3)[:3] != [0, 0, 0]
    assert {index for index in step if index < 3} == {0, 1, 2}
    assert [index for index in step if index >= 3] == [3] * 4


@pytest.mark.parametrize(("fraction", "sequences"), [(0.3, 4), (0.5, 1), (0.99, 4), (0.01, 4)])
def test_a_share_that_is_no_whole_number_of_sequences_is_refused(fraction, sequences):
    with pytest.raises(InputError, match=rf"--new_data_fraction {fraction} of {sequences} seq"):
        Mixture.of(fraction, sequences, 1, 1)


def test_a_batch_has_its_replayed_rows_last_and_says_how_many_they_are():
    new, old = [{"input_ids": [1, 2, 3]}], [{"input_ids": [4, 5, 6]}]
    mixed = MixedSequences(new, old)
    assert len(mixed) == 2
    batch = collate(mixed.__getitems__([(1,), (0, 1)]))
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 5, 6], [4, 5, 6]]
    assert batch["replayed_rows"] == 2
    assert "replayed_rows" not in collate([mixed[0]])
    assert set(model_inputs(collate([mixed[1]]))) == {"input_ids", "attention_mask", "labels"}


@pytest.mark.parametrize("share", [0.25, 0.1, 0.5, 1.5, 0.3])
@pytest.mark.parametrize(("batch_size", "accumulation", "processes"), [(4, 1, 1), (1, 3, 2)])
def test_added_replay_leaves_steps_whole_and_has_its_exact_share(
    share, batch_size, accumulation, processes
):
    sequences = batch_size * accumulation * processes
    order = Addition.of(share, sequences).order(36, 7, seed=5)
    replayed = []
    for epoch in range(12):
        order.set_epoch(epoch)
        slots = list(order)
        # An epoch is a pass over the specialized text.
        assert sorted(slot[0] for slot in slots) == list(range(36))
        replayed += [index - 36 for slot in slots for index in slot[1:]]
        # Exactly the share of all that was trained on, rounded down: no error adds up.
        assert len(replayed) == (epoch + 1) * 36 * round(share * 100) // 100
    rounds = len(replayed) // 7
    assert all(rounds <= replayed.count(index) <= rounds + 1 for index in range(7))
    again = Addition.of(share, sequences).order(36, 7, seed=5)
    again.set_epoch(11)
    assert list(again) == slots


def test_added_replay_is_spread_evenly_over_steps():
    order = Addition.of(0.1, 4).order(40, 9, seed=0)
    slots = list(order)
    by_step = [sum(len(slot) - 1 for slot in slots[at : at + 4]) for at in range(0, 40, 4)]
    assert by_step == [0, 0, 1, 0, 1, 0, 0, 1, 0, 1]


def test_workers_are_given_whole_slots():
    new = [{"input_ids": [index + 1, 2, 3]} for index in range(8)]
    old = [{"input_ids": [50 + index, 2, 3]} for index in range(3)]
    order = Addition.of(0.5, 4).order(8, 3, seed=0)
    loader = DataLoader(
        MixedSequences(new, old), batch_size=4, sampler=order, collate_fn=collate, num_workers=1
    )
    batches = list(loader)
    assert [len(batch["input_ids"]) for batch in batches] == [6, 6]
    assert [batch["replayed_rows"] for batch in batches] == [2, 2]
    assert all((batch["input_ids"][:4, 0] < 50).all() for batch in batches)
    assert all((batch["input_ids"][4:, 0] >= 50).all() for batch in batches)
