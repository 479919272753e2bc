import pytest
from arithmetic import arithmetic_limit
from shapes import SHAPES


@pytest.mark.parametrize(
    ("shape", "adapter", "none", "hidden"),
    [
        ("smollm2", "full", 1.333, 1.056),
        ("openelm", "full", 1.333, 1.045),
        ("llama1b", "full", 1.333, 1.067),
        ("smollm2", "lora", 1.500, 1.083),
    ],
)
def test_limits_are_those_computed_by_hand(
    shape: str, adapter: str, none: float, hidden: float
) -> None:
    assert arithmetic_limit(SHAPES[shape], adapter, "none") == pytest.approx(none, abs=5e-4)
    assert arithmetic_limit(SHAPES[shape], adapter, "hidden") == pytest.approx(hidden, abs=5e-4)


def test_an_expected_embedding_costs_nothing_and_needs_a_frozen_head() -> None:
    for adapter in ("lora", "frozen_head"):
        assert arithmetic_limit(SHAPES["smollm2"], adapter, "expected") == 1.0
    with pytest.raises(ValueError, match="frozen"):
        arithmetic_limit(SHAPES["smollm2"], "full", "expected")


@pytest.mark.parametrize("name", SHAPES)
def test_finetuning_is_the_unit(name: str) -> None:
    for adapter in ("full", "frozen_head", "lora"):
        assert arithmetic_limit(SHAPES[name], adapter, "ft") == 1.0


def test_parameters_are_those_of_the_models_but_for_the_norms() -> None:
    published = {"smollm2": 134_515_008, "openelm": 271_527_168, "llama1b": 1_235_814_400}
    for name, parameters in published.items():
        assert SHAPES[name].parameters == pytest.approx(parameters, rel=1e-3)
    tiny = SHAPES["tiny"]
    weights = sum(p.numel() for p in tiny.model(16).parameters() if p.dim() == 2)
    assert weights == tiny.parameters
