from minifinetuning.report.line_styles import line_styles


def test_colour_is_the_objective_and_dash_and_marker_are_the_family(result):
    methods = ("ft", "mft", "lora", "lora+mft", "dora+mft", "ia3+mft", "replay", "replay+mft", "kl")
    styles = line_styles({method: result(method) for method in methods})

    of_mft = [styles[name] for name in methods if name.endswith("mft")]
    assert len({style.colour for style in of_mft}) == 1
    assert len({style.dash for style in of_mft}) == len(of_mft)
    assert len({style.marker for style in of_mft}) == len(of_mft)
    for alone in ("lora", "replay"):
        assert styles[alone].colour == styles["ft"].colour
        assert styles[alone].dash == styles[f"{alone}+mft"].dash
    assert styles["ft"].dash == styles["mft"].dash == styles["kl"].dash == ()
    assert len({styles[name].colour for name in ("ft", "mft", "kl")}) == 3


def test_words_of_a_method_stand_in_any_order(result):
    names = ("lora+mft", "mft+lora", "ewc", "ewc+mft", "mft+blend", "self_replay+mft")
    styles = line_styles({name: result(name) for name in names} | {"mft": result("mft")})

    assert styles["lora+mft"].dash == styles["mft+lora"].dash
    assert {styles[name].colour for name in names if "mft" in name} == {styles["mft"].colour}
    assert styles["ewc"].dash == ()
    assert styles["ewc"].colour != styles["mft"].colour
    assert len({styles[name].dash for name in names}) == 5  # all but mft+lora have one of their own


def test_all_objectives_of_the_package_differ_in_colour(result):
    objectives = (
        *("ft", "mft", "corrective", "single_correction", "distillation", "kl", "dft", "asft"),
        *("mask_the_target", "stm", "eaft", "talr", "ewc"),
    )
    styles = line_styles({name: result(name) for name in objectives})

    assert len({style.colour for style in styles.values()}) == len(objectives)


def test_a_smaller_learning_rate_of_the_same_method_is_paler(result):
    rates = {"small": 1e-5, "large": 1e-3, "middle": 1e-4}
    results = {name: result("mft", learning_rate=rate) for name, rate in rates.items()}

    styles = line_styles(results | {"other": result("ft", learning_rate=1e-6)})

    assert 0 == styles["large"].paleness < styles["middle"].paleness < styles["small"].paleness < 1
    assert styles["other"].paleness == 0
    assert styles["large"].on_white == styles["large"].colour.lower()
    assert styles["small"].on_white > styles["middle"].on_white  # nearer to #ffffff
