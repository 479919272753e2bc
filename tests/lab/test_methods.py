"""What the name of a method means."""

import pytest

from minifinetuning.errors import InputError
from minifinetuning.lab.methods import parsed_methods, require_distinct
from minifinetuning.objectives import OBJECTIVES

TRAINING = {
    "ewc_lambda": 0.0,
    "new_data_fraction": 0.5,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
}


def only(name):
    (method,) = parsed_methods(name)
    return method


def test_words_are_joined_in_any_order():
    method = only("ewc+lora+replay+mft+blend@3e-4")
    assert (method.objective, method.adapter, method.replay) == ("mft", "lora", "replay")
    assert method.ewc
    assert method.blend
    assert method.learning_rate == 3e-4
    assert method.name == "ewc+lora+replay+mft+blend"
    plain = only("replay")
    assert (plain.objective, plain.adapter, plain.learning_rate) == ("ft", None, None)


def test_every_objective_and_several_methods_can_be_named():
    methods = parsed_methods(", ".join(OBJECTIVES))
    assert [method.objective for method in methods] == list(OBJECTIVES)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("", "--methods is empty"),
        ("ft,sgd", "'sgd' in 'sgd' is not known: join ft, "),
        ("ft+lroa", "'lroa' in 'ft[+]lroa' is not known: did you mean lora?"),
        ("lora+dora", "lora[+]dora names two of a kind, lora and dora"),
        ("ft+mft", "ft[+]mft names two of a kind, ft and mft"),
        ("mft+lora,lora+mft", "names mft[+]lora twice"),
        ("ft,replay+ft,replay", "names replay[+]ft twice"),
        ("mft@fast", "--methods: mft@fast: 'fast' is no learning rate"),
        ("mft@-1", "--methods: mft@-1: '-1' is no learning rate"),
        ("dora+blend", "DoRA is not linear"),
    ],
)
def test_what_cannot_be_is_one_sentence(names, sentence):
    with pytest.raises(InputError, match=sentence):
        parsed_methods(names)


def test_the_same_method_at_two_learning_rates_is_two_methods():
    assert len(parsed_methods("mft@1e-5,mft@3e-5,mft")) == 3


def test_what_the_model_wrote_is_distilled_in_forward_passes_of_its_own():
    options = only("self_replay+mft").options(TRAINING)
    assert options["objective"] == "mft"
    assert options["replay_objective"] == "distillation"
    assert options["per_device_train_batch_size"] == 4
    assert options["gradient_accumulation_steps"] == 2
    uneven = only("self_replay").options(TRAINING | {"gradient_accumulation_steps": 1})
    assert uneven["per_device_train_batch_size"] == 2
    assert uneven["gradient_accumulation_steps"] == 2
    assert only("replay+mft").options(TRAINING) == {"objective": "mft"}


def test_ewc_takes_the_weight_that_is_given():
    assert only("ewc").options(TRAINING | {"ewc_lambda": 7.0})["ewc_lambda"] == 7.0
    assert only("ewc").options(TRAINING)["ewc_lambda"] > 0
    # What is given for all methods is meant for those that have it.
    assert only("mft").options(TRAINING | {"ewc_lambda": 7.0})["ewc_lambda"] == 0.0


def test_methods_say_what_they_need():
    assert only("self_replay").needs_teacher
    assert not only("replay").needs_teacher
    assert only("replay").needs_general_text
    assert only("ewc").needs_general_text
    assert not only("ewc+self_replay").needs_general_text
    assert only("replay").replay_sources(["a"]) == ["a"]
    assert only("self_replay").replay_sources(["a"]) == ["self"]
    assert only("mft").replay_sources(["a"]) is None


@pytest.mark.parametrize(
    ("names", "rates", "twice"),
    [
        ("ft,ft@3e-5", [3e-5], "ft at 3e-05"),
        ("ft,ft@0.00003", [1e-5, 3e-5], "ft at 3e-05"),
        ("ft,ft@1e-5,ft+blend", [1e-5], "ft at 1e-05"),
        ("mft+lora@1e-3,lora+mft", [1e-3], "mft[+]lora at 0.001"),
        ("mft", [1e-5, 1e-5], "mft at 1e-05"),
        ("mft", [1e-5, 1.00000001e-5], "mft at 1e-05"),
    ],
)
def test_the_same_run_is_never_taken_for_two(names, rates, twice):
    with pytest.raises(InputError, match=f"name {twice} twice"):
        require_distinct(parsed_methods(names), rates)


def test_runs_that_differ_are_taken():
    require_distinct(parsed_methods("ft,ft@1e-5,ft+blend,ft+blend@1e-5,lora"), [3e-5, 1e-4])


def test_no_token_of_an_account_is_written_into_results(comparison):
    compared = comparison("ft", hub_token="hf_0123456789secret")
    assert "hf_0123456789secret" not in repr(compared)


@pytest.mark.parametrize("names", ["ft,,mft", "ft,", ", mft"])
def test_a_comma_without_a_method_is_refused(names):
    with pytest.raises(InputError, match="has a comma too many"):
        parsed_methods(names)


def test_capitals_are_told_the_name():
    with pytest.raises(InputError, match=r"'FT' in 'FT' is not known: did you mean ft\?"):
        parsed_methods("FT")
