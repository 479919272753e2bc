"""What is read is what was written, or it is refused."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from minifinetuning.errors import InputError


def filled(store, seed=0):
    """The store with random numbers, and these by sequence."""
    generator = torch.Generator().manual_seed(seed)
    written = [
        {
            column.name: torch.randn(count, column.width, generator=generator).to(column.dtype)
            for column in store.contents.columns
        }
        for count in store.contents.predictions
    ]
    store.begin()
    for number, part in enumerate(store.parts):
        store.write(number, [written[index] for index in part])
    return written


@pytest.fixture
def sequences(random_sequences):
    return [*random_sequences(4, 16), *random_sequences(1, 9, seed=1)]


@pytest.mark.parametrize("kind", ["hidden", "expected"])
def test_every_sequence_comes_back(store_of, small_parts, sequences, kind):
    store = store_of(sequences, kind)
    assert not store.is_complete
    written = filled(store)
    assert store.is_complete
    assert len(store.parts) == 3
    again = pickle.loads(pickle.dumps(store_of(sequences, kind)))
    for index in (4, 0, 3, 1, 2):
        read = again.read(index)
        assert read.keys() == written[index].keys()
        assert all(torch.equal(read[name], written[index][name]) for name in read)


def test_a_workers_copy_opens_maps_of_its_own(store_of, sequences):
    store = store_of(sequences)
    written = filled(store)
    store.read(0)
    copy = pickle.loads(pickle.dumps(store))
    assert torch.equal(copy.read(1)["teacher_hidden"], written[1]["teacher_hidden"])


def test_a_truncated_part_is_refused(store_of, small_parts, sequences):
    filled(store_of(sequences))
    path = store_of(sequences).path(1)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"part-00001.safetensors cannot be used, .*remove that"):
        store_of(sequences).require_whole()


def test_one_flipped_bit_is_noticed(store_of, sequences):
    filled(store_of(sequences))
    path = store_of(sequences).path(0)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    store = store_of(sequences)
    store.require_whole()
    store.read(0)
    with pytest.raises(InputError, match="sequence 4 is not what was written"):
        store.read(4)


def test_a_part_of_another_cache_is_refused(store_of, sequences, tmp_path):
    store = store_of(sequences)
    filled(store)
    filled(other := store_of(sequences, weights="other", folder=tmp_path / "other"))
    store.path(0).write_bytes(other.path(0).read_bytes())
    with pytest.raises(InputError, match="it belongs to another cache"):
        store_of(sequences).require_whole()


def test_a_part_of_wrong_shape_is_refused(store_of, sequences):
    store = store_of(sequences)
    filled(store)
    metadata = {"key": store.contents.fingerprint.key, "checksums": "[]"}
    tensors = load_file(store.path(0))
    save_file({name: tensor[1:] for name, tensor in tensors.items()}, store.path(0), metadata)
    with pytest.raises(InputError, match=r"teacher_hidden is \[67, 32\], not \[68, 32\]"):
        store_of(sequences).require_whole()


def test_a_missing_part_is_named(store_of, small_parts, sequences):
    store = store_of(sequences)
    filled(store)
    store.path(2).unlink()
    assert store.missing == [2]
    with pytest.raises(InputError, match=r"part-00002.*it is missing"):
        store_of(sequences).read(4)


def test_a_folder_of_something_else_is_refused_and_left_alone(store_of, sequences, tmp_path):
    filled(store_of(sequences))
    with pytest.raises(InputError, match="is of another model"):
        store_of(sequences, weights="other")
    with pytest.raises(InputError, match="is of another text"):
        store_of(sequences[:-1])
    with pytest.raises(InputError, match="is another kind of cache: hidden, not expected"):
        store_of(sequences, "expected")
    folder = tmp_path / "letters"
    folder.mkdir()
    (folder / "letter.txt").write_text("Dear")
    with pytest.raises(InputError, match="neither empty nor a teacher's cache"):
        store_of(sequences, folder=folder)
    with pytest.raises(InputError, match="neither empty nor a teacher's cache"):
        store_of(sequences, folder=folder / "letter.txt")
    assert [path.name for path in folder.iterdir()] == ["letter.txt"]


def test_the_manifest_says_what_a_person_wants_to_know(store_of, sequences):
    store = store_of(sequences)
    filled(store)
    manifest = json.loads((store.folder / "cache.json").read_text())
    assert manifest["sequences"] == 5
    assert manifest["predictions"] == 4 * 15 + 8
    assert manifest["bytes"] == manifest["predictions"] * 32 * 4
    assert manifest["columns"] == {"teacher_hidden": [32, "float32"]}


FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from minifinetuning.teacher import fingerprint as contents
from minifinetuning.teacher.fingerprint import Contents
from minifinetuning.teacher.fingerprint import Fingerprint
from minifinetuning.teacher.columns import columns
from minifinetuning.teacher.store import TeacherStore
from minifinetuning.errors import InputError

contents.PART_BYTES = 1
fingerprint = Fingerprint("hidden", "t", "w", "float32", "c")
of = Contents(fingerprint, columns("hidden", 64, torch.float32), (8, 80))
store = TeacherStore(Path(sys.argv[1]), of)
store.begin()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
store.write(0, [{"teacher_hidden": torch.zeros(8, 64)}])
try:
    store.write(1, [{"teacher_hidden": torch.zeros(80, 64)}])
except InputError as error:
    print(error)
"""


def test_where_no_byte_more_can_be_written_the_error_says_so_and_nothing_is_torn(forked, tmp_path):
    folder = tmp_path / "store"
    with forked(FULL_DISK, str(folder)) as run:
        said = run.finished()
    assert run.returncode == 0
    assert "no space left" in said
    assert "1 of 2 parts are kept" in said
    assert "--teacher_cache none" in said
    assert sorted(path.name for path in folder.iterdir()) == [
        "cache.json",
        "part-00000.safetensors",
    ]


HOLDER = """
import sys, time, torch
from pathlib import Path
from minifinetuning.teacher.fingerprint import Contents
from minifinetuning.teacher.fingerprint import Fingerprint
from minifinetuning.teacher.columns import columns
from minifinetuning.teacher.store import TeacherStore

fingerprint = Fingerprint("hidden", "t", "w", "float32", "c")
store = TeacherStore(
    Path(sys.argv[1]), Contents(fingerprint, columns("hidden", 32, torch.float32), (15, 15))
)
store.begin()
with store.claimed(0) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


def test_a_part_belongs_to_one_process_until_it_dies(forked, tmp_path):
    from minifinetuning.teacher.columns import columns
    from minifinetuning.teacher.fingerprint import Contents, Fingerprint
    from minifinetuning.teacher.store import TeacherStore

    folder = tmp_path / "store"
    with forked(HOLDER, str(folder)) as other:
        assert other.stdout.readline().strip() == "True"
        contents = Contents(
            Fingerprint("hidden", "t", "w", "float32", "c"),
            columns("hidden", 32, torch.float32),
            (15, 15),
        )
        store = TeacherStore(folder, contents)
        with store.claimed(0) as mine:
            assert not mine
    with store.claimed(0) as mine:
        assert mine
        store.write(0, [{"teacher_hidden": torch.zeros(15, 32)}] * 2)
    with store.claimed(0) as mine:
        assert not mine
