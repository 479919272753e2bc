"""Words and YAML files to options: one converter, every range, and hints for what is misspelt."""

from contextlib import nullcontext
from functools import cache
from types import SimpleNamespace
from typing import get_args, get_type_hints

import pytest

from minifinetuning.cli import main, parsing, verbs
from minifinetuning.cli.options import option_types
from minifinetuning.cli.parsing import parsed
from minifinetuning.errors import InputError
from minifinetuning.lab.executors import executor_from
from minifinetuning.options import RANGES

NEEDED = {
    "train": ["--model", "m", "--data", "d", "--output_dir", "o"],
    "compare": ["--model", "m", "--data", "d", "--output_dir", "o"],
    "cache": ["--model", "m", "--data", "d"],
    "write": ["--model", "m", "--data", "d"],
    "evaluate": ["--model", "m", "--reference", "r", "--data", "d"],
    "blend": ["--reference", "r", "--tuned", "t", "--output_dir", "o", "--data", "d"],
    "prepare-reference": ["--model", "m", "--general", "g", "--output_dir", "o"],
    "reproduce": [],
    "demo": [],
}


@pytest.fixture(autouse=True)
def _one_parser(monkeypatch):
    monkeypatch.setattr(parsing, "parser_of", cache(parsing.parser_of))


def numbers_of(verb):
    """The options of a verb that are numbers, as (name, whether it is whole)."""
    for kind in option_types(verb):
        for name, hint in get_type_hints(kind).items():
            types = {part for one in get_args(hint) or (hint,) for part in get_args(one) or (one,)}
            if types & {int, float} and name in kind.__dataclass_fields__:
                yield name, float not in types


EVERY_NUMBER = sorted(
    {(name, whole): verb for verb in NEEDED for name, whole in numbers_of(verb)}.items()
)
OWN_SENTENCE = {"table", "figure", "values", "label_smoothing_factor"}
"""Held to what the paper has, or always refused."""


@pytest.mark.parametrize(
    ("name", "whole", "verb"), [(name, whole, verb) for (name, whole), verb in EVERY_NUMBER]
)
def test_no_number_is_taken_that_cannot_be(name, whole, verb):
    assert name in RANGES.keys() | OWN_SENTENCE, "give it a range"
    wrong = ["1" + "0" * 30, "-1" + "0" * 30] if whole else ["nan", "inf", "-inf", "1e999"]
    allowed = RANGES.get(name)
    if allowed is not None:
        around = (allowed.low - 1, allowed.low, allowed.low - 0.5, allowed.high + 1, allowed.high)
        numbers = [int(n) if whole else float(n) for n in around if n == n and abs(n) < 2**40]
        wrong += [str(n) for n in numbers if n not in allowed]
        assert whole or len(wrong) > 4, "a range that refuses no finite number"
    for text in wrong:
        with pytest.raises(InputError) as caught:
            parsed(verb, [*NEEDED[verb], f"--{name}={text}"])
        said = str(caught.value)
        assert said.startswith(f"--{name}"), said
        assert len(said) < 200


@pytest.mark.parametrize("verb", NEEDED)
def test_what_is_no_number_is_said_so(verb):
    for name, whole in dict(numbers_of(verb)).items():
        if name in parsing.IGNORED.get(verb, {}):
            continue
        what = "a whole number" if whole else "a number"
        with pytest.raises(InputError, match=f"--{name} takes {what}.*, got 'much'"):
            parsed(verb, [*NEEDED[verb], f"--{name}", "much"])


@pytest.fixture
def options(tmp_path):
    """`options(text, *words)`: those of `mft train` from a YAML file and words after it."""

    def make(text, *words):
        file = tmp_path / "run.yaml"
        file.write_text(f"model: m\ndata: d\noutput_dir: {tmp_path / 'o'}\n{text}")
        model, adapter, data, training = parsed("train", [str(file), *words])
        return vars(model) | vars(adapter) | vars(data) | vars(training)

    return make


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("learning_rate: 3e-5", "learning_rate", 3e-5),
        ("learning_rate: '3e-5'", "learning_rate", 3e-5),
        ("max_steps: '7'", "max_steps", 7),
        ("max_steps: 7", "max_steps", 7),
        ("tau: 0.5", "tau", 0.5),
        ("data_seed: 3", "data_seed", 3),
        ("general: g", "general", ["g"]),
        ("general: [g, h]", "general", ["g", "h"]),
        ("general:", "general", None),
        ("general: null", "general", None),
        ("train_tokens: 4000", "train_tokens", "4000"),
        ("freeze_head: yes", "freeze_head", True),
        ("freeze_head: 'false'", "freeze_head", False),
        ("bf16: no", "bf16", False),
        ("trust_remote_code: 'false'", "trust_remote_code", False),
        ('trust_remote_code: "no"', "trust_remote_code", False),
        ("trust_remote_code: yes", "trust_remote_code", True),
        ("load-best-model-at-end: false", "load_best_model_at_end", False),
        ("eval_strategy: no\nload_best_model_at_end: no", "eval_strategy", "no"),
        ("resume_from_checkpoint: true", "resume_from_checkpoint", "true"),
        ("run_name: 2026-01-01", "run_name", "2026-01-01"),
        ("report_to: [none]", "report_to", []),
        ("save_total_limit: null", "save_total_limit", None),
        (
            "lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 1e-6}",
            "lr_scheduler_kwargs",
            {"min_lr": 1e-6},
        ),
    ],
)
def test_a_value_of_a_file_gets_the_type_of_its_field(options, text, name, value):
    assert options(text)[name] == value
    assert type(options(text)[name]) is type(value) or name == "eval_strategy"


def test_the_command_line_wins_over_the_file(options):
    made = options(
        "learning_rate: 3e-5\nmax_steps: 30\nfreeze_head: true", "--learning_rate", "1e-4"
    )
    assert (made["learning_rate"], made["max_steps"], made["freeze_head"]) == (1e-4, 30, True)
    assert options("freeze_head: true", "--freeze_head", "no")["freeze_head"] is False


def test_a_file_alone_may_lack_what_the_command_line_gives(tmp_path):
    file = tmp_path / "part.yaml"
    file.write_text("data: d\n")
    with pytest.raises(InputError, match="--model is missing: see mft train --help"):
        parsed("train", [str(file)])
    assert parsed("train", [str(file), *NEEDED["train"]])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("learning_rat: 1", "line 4: unknown option learning_rat: did you mean learning_rate?"),
        ("xyzzy: 1", "line 4: unknown option xyzzy: see the verb's --help"),
        ("max_steps: many", "line 4: --max_steps takes a whole number, got 'many'"),
        ("tau: 0.1\nmax_steps: [1, 2]", "line 5: --max_steps takes one value, not a list"),
        ("general: []", "line 4: --general takes at least one value"),
        ("general: {a: spec}", "line 4: --general takes values, not names"),
        ("run_name: {a: b}", "line 4: --run_name takes a value, not names"),
        ("max_steps:", "line 4: --max_steps takes a whole number, got ''"),
        ("freeze_head: perhaps", "line 4: --freeze_head takes true or false, got 'perhaps'"),
        ("optim: adamw", "line 4: --optim adamw is not known: did you mean adamw_torch"),
        ("max_steps: 1\nmax_steps: 2", "line 5: max_steps is set twice"),
        ("lr_scheduler_kwargs: {x: nan}", "line 4: --lr_scheduler_kwargs takes JSON"),
        ("tau: [", "is no YAML"),
        ("tau: " + "[" * 3000 + "]" * 3000, ""),
        ("general: &a [*a]", "is nested too deeply"),
        ("adam_beta1: 2", "--adam_beta1 must be at least 0 and below 1, got 2.0"),
    ],
)
def test_a_file_that_cannot_be_is_one_sentence(options, text, sentence):
    with pytest.raises(InputError) as caught:
        options(text)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_none_is_said_so(tmp_path):
    file = tmp_path / "run.yaml"
    with pytest.raises(InputError, match=r"run.yaml does not exist"):
        parsed("train", [str(file)])
    file.write_text("- a\n- b\n")
    with pytest.raises(InputError, match=r"run.yaml holds no options"):
        parsed("train", [str(file)])
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"run.yaml is no YAML"):
        parsed("train", [str(file)])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--learning_rat", "1"], "unknown option --learning_rat: did you mean --learning_rate?"),
        (["--learning-rte=1"], "unknown option --learning-rte: did you mean --learning_rate?"),
        (["--xyzzy"], "unknown option --xyzzy: see mft train --help"),
        (["run.yaml"], "run.yaml must come first: mft train run.yaml --option value"),
        (["--max_steps"], "--max_steps needs a value: see"),
        (["--validation_tokens", "-4k"], "--validation_tokens needs a value, and -4k is none"),
        (["--output_dir", ""], "--output_dir is empty: give a value"),
        (["--model", " "], "--model is empty: give a value"),
        (["--learning_rate", "inf"], "--learning_rate must be a finite number, got inf"),
        (["--data", "self"], "--data self: text that the model writes itself is for --general"),
        (["--objective", "MFT"], "--objective MFT is not known: did you mean mft?"),
        (["--optim", "adamw"], "--optim adamw is not known: did you mean adamw_torch"),
        (["--lr_scheduler_kwargs", "{"], "--lr_scheduler_kwargs takes JSON"),
        (["--accelerator_config", "nowhere"], "--accelerator_config takes JSON"),
    ],
)
def test_words_that_cannot_be_are_one_sentence(words, sentence):
    with pytest.raises(InputError) as caught:
        parsed("train", [*NEEDED["train"], *words])
    assert sentence in str(caught.value)


def test_a_number_that_is_too_large_is_told_how_large_it_may_be():
    with pytest.raises(InputError, match="--max_steps must be at most 2,147,483,647, got 99999"):
        parsed("train", [*NEEDED["train"], "--max_steps", "9999999999"])


def test_a_flag_needs_no_value():
    training = parsed("train", [*NEEDED["train"], "--bf16", "--use_cpu"])[-1]
    assert training.bf16 is True


@pytest.mark.parametrize(
    ("verb", "option", "reason"),
    [
        ("compare", "target_specialization", "every method runs to its end"),
        ("compare", "save_steps", "none is kept"),
        ("compare", "objective", "name it in --methods"),
        ("compare", "resume_from_checkpoint", "the same command goes on"),
        ("evaluate", "replay", "nothing is replayed"),
        ("blend", "replay", "nothing is replayed"),
        ("prepare-reference", "max_degeneralization", "on one text alone"),
        ("prepare-reference", "ewc_lambda", "on one text alone"),
    ],
)
def test_options_that_mean_nothing_to_a_verb_are_refused(verb, option, reason, capsys):
    assert main([verb, *NEEDED[verb], f"--{option}", "1"]) == 2
    said = capsys.readouterr().err
    assert f"--{option} means nothing to mft {verb}" in said
    assert reason in said
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    assert f"--{option} " not in capsys.readouterr().out


@pytest.mark.parametrize(("word", "verb"), [("tarin", "train"), ("prepare", "prepare-reference")])
def test_a_misspelt_verb_is_told_the_nearest(word, verb, capsys):
    assert main([word]) == 2
    assert f"unknown verb {word}: did you mean {verb}?" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["compare", "reproduce"])
@pytest.mark.parametrize("option", ["--cpus_per_cell", "--ray_address"])
def test_options_of_ray_are_refused_without_it(verb, option):
    *_, options = parsed(verb, [*NEEDED[verb], option, "0"])
    with pytest.raises(InputError, match=f"{option} is for --executor ray"):
        executor_from(options)


def test_a_reference_is_prepared_with_one_tau():
    with pytest.raises(InputError, match="--tau auto is for `mft train`"):
        parsed("prepare-reference", [*NEEDED["prepare-reference"], "--tau", "auto"])


@pytest.mark.parametrize("process", [0, 1])
def test_only_the_first_process_prints_the_result(process, monkeypatch, capsys):
    metrics = {"method": "mft", "step": 1, "last_step": 2}
    metrics |= {name: {"general_perplexity": 2.0} for name in ("reference", "tuned")}
    metrics |= {"validation": {"general": {}}}
    for name, found in {
        "training.requirements.require_texts": None,
        "training.folder.run_folder": nullcontext(),
        "training.texts.read_texts": None,
        "training.run.adapt": (metrics, {}),
        "training.reference.prepare_reference": metrics,
        "report.comparison_table": "the table",
        "report.measured_on": "of much",
        "report.validation_extent": "much",
    }.items():
        monkeypatch.setattr(f"minifinetuning.{name}", lambda *a, found=found, **k: found)
    training = {"process_index": process, "tau": 0.5, "output_dir": "o", "seed": 1}
    training |= {"new_data_fraction": 0.5, "replay_share": None, "ewc_lambda": 0.0}
    training = SimpleNamespace(**training)
    text = SimpleNamespace(data=["d"], general=["g"], replay=None)
    for verb in (verbs.train, verbs.prepare_reference):
        verb(None, None, text, training)
        assert ("was kept in o" in capsys.readouterr().out) == (process == 0)


@pytest.mark.parametrize("words", [["--list", "--prune"], ["--list", "--model", "m"]])
def test_what_stands_alone_is_said_so(words, capsys):
    assert main(["cache", *words]) == 2
    assert "--list stands alone: mft cache --list" in capsys.readouterr().err


def test_a_reference_is_not_prepared_on_its_own_text():
    words = [*NEEDED["prepare-reference"][:2], "--general", "self", "--output_dir", "o"]
    with pytest.raises(InputError, match="--general self: text that the model writes itself"):
        parsed("prepare-reference", words)
