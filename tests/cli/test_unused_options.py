"""Options that would do nothing are refused, and those that do something are taken."""

import pytest

from minifinetuning.cli.parsing import parsed
from minifinetuning.errors import InputError

MODEL = ["--model", "m", "--data", "d", "--output_dir", "o"]
NEEDED = {
    "train": MODEL,
    "compare": MODEL,
    "cache": MODEL[:4],
    "prepare-reference": ["--model", "m", "--general", "g", "--output_dir", "o"],
}


@pytest.mark.parametrize(
    ("verb", "words", "said"),
    [
        ("train", "--rank 4", "--rank does nothing here: it is that of lora and dora, and this is"),
        ("train", "--rank 4 --adapter ia3", "--rank does nothing here: .* of ia3, which has no"),
        ("cache", "--rank 4", "--rank does nothing here"),
        ("prepare-reference", "--rank 4", "--rank does nothing here"),
        ("train", "--objective ft --tau 0.3", "--tau does nothing here: the objective ft has no"),
        ("prepare-reference", "--tau 0.3", "--tau does nothing here: the objective ft has no tau"),
        ("train", "--objective mft --kl_weight 0.3", "--kl_weight does nothing here: the obj"),
        ("train", "--new_data_fraction 0.3", "--new_data_fraction does nothing here: nothing is"),
        ("cache", "--new_data_fraction 0.3", "--new_data_fraction does nothing here: nothing is"),
        ("train", "--replay_share 0.25", "--replay_share does nothing here: nothing is"),
        ("train", "--replay_weight 1", "--replay_weight does nothing here: nothing is"),
        ("cache", "--replay_share 0.25", "--replay_share does nothing here: nothing is"),
        (
            "train",
            "--replay r --new_data_fraction 0.5 --replay_weight 1",
            "--new_data_fraction does nothing here: replayed text is added to whole steps",
        ),
        (
            "cache",
            "--replay r --new_data_fraction 0.5 --replay_share 1",
            "--new_data_fraction does nothing here: replayed text is added to whole steps",
        ),
        ("train", "--replay r --new_data_fraction 0.25 --replay_share 1", "leave one or the"),
        ("compare", "--methods replay --replay_share 0.25", "--replay_share means nothing to"),
        ("prepare-reference", "--replay_weight 1", "--replay_weight means nothing to"),
        ("train", "--num_train_epochs 2", "--num_train_epochs does nothing here: --max_steps 1000"),
        ("train", "--do_train no", "--do_train means nothing to mft train"),
        ("compare", "--do_eval yes", "--do_eval means nothing to mft compare"),
        (
            "train",
            "--resume_from_checkpoint True --overwrite_output_dir",
            "--overwrite_output_dir does nothing here: --resume_from_checkpoint goes on",
        ),
        (
            "compare",
            "--learning_rates 1e-5 --learning_rate 3e-5",
            "--learning_rate does nothing here: --learning_rates is in its place",
        ),
        ("compare", "--methods ft@1e-5 --learning_rate 1e-4", "every method of --methods has a"),
        ("compare", "--methods ft@1e-5 --learning_rates 1e-4", "every method of --methods has a"),
        ("compare", "--replay g", "--replay does nothing here: no method of --methods is replay"),
        ("compare", "--ewc_lambda 30", "--ewc_lambda does nothing here: no method of --methods"),
        ("compare", "--methods ft,mft --rank 4", "--rank does nothing here: no method"),
        ("compare", "--methods ft,kl --tau 0.3", "--tau does nothing here: no method"),
        ("compare", "--kl_weight 0.3", "--kl_weight does nothing here: no method"),
        ("compare", "--new_data_fraction 0.3", "--new_data_fraction does nothing here: no method"),
    ],
)
def test_an_option_that_does_nothing_is_refused(verb, words, said):
    with pytest.raises(InputError, match=said):
        parsed(verb, [*NEEDED[verb], *words.split()])


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("train", "--rank 4 --adapter dora"),
        ("train", "--objective mft --tau 0.3"),
        ("train", "--objective ft --replay r --replay_objective mft --tau 0.3"),
        ("train", "--objective kl --kl_weight 0.3"),
        ("train", "--new_data_fraction 0.25 --replay r"),
        ("train", "--objective ft --replay r --replay_share 0.25 --replay_weight 3"),
        ("train", "--replay r --replay_share 0.25 --replay_objective kl --kl_weight 1"),
        ("cache", "--replay r --replay_share 0.25"),
        ("train", "--num_train_epochs 2 --max_steps -1"),
        ("prepare-reference", "--num_train_epochs 2"),
        ("train", "--resume_from_checkpoint False --overwrite_output_dir"),
        ("compare", "--learning_rates 1e-5,3e-5"),
        ("compare", "--methods ft@1e-5,mft --learning_rate 1e-4"),
        ("compare", "--methods ewc --replay g --ewc_lambda 30"),
        ("compare", "--methods lora,mft --rank 4 --tau 0.3"),
        ("compare", "--methods self_replay+ft --new_data_fraction 0.25"),
    ],
)
def test_an_option_that_does_something_is_taken(verb, words):
    parsed(verb, [*NEEDED[verb], *words.split()])


def test_a_file_may_hold_what_the_command_line_has_no_use_for(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: m\ndata: d\noutput_dir: o\ntau: 0.3\n")
    parsed("train", [str(file), "--objective", "ft"])
    file.write_text("model: m\ndata: d\noutput_dir: o\ntau: 0.3\nobjective: ft\n")
    with pytest.raises(InputError, match="--tau does nothing here"):
        parsed("train", [str(file)])
