"""A cell of the paper: one training, named by what the paper varies."""

from dataclasses import dataclass

from minifinetuning.errors import InputError

__all__ = ["METHODS", "PaperCell", "paper_cell", "slug"]

METHODS = {
    "FT": "ft",
    "corrective finetuning": "corrective",
    "single correction": "single_correction",
    "MFT": "mft",
    "Replay": "replay",
    "Replay+MFT": "replay+mft",
    "LoRA": "lora",
    "LoRA+MFT": "lora+mft",
    "DoRA": "dora",
    "DoRA+MFT": "dora+mft",
    "IA3": "ia3",
    "IA3+MFT": "ia3+mft",
    "EWC": "ewc",
}
"""The paper's methods, and each as `mft compare` names it."""

USUAL_TAU, USUAL_NEW_DATA_FRACTION, USUAL_RANK, USUAL_SHARE = 0.25, 0.5, 8, 1.0


@dataclass(frozen=True)
class PaperCell:
    """One training. A knob is None where it is the usual one of section 3.1, or has no meaning.

    `data_share` is the training text as a share of the usual 4M tokens (section 5 has a quarter to
    twice that). Cells of several tables that are the same training are equal.
    """

    model: str
    method: str
    dataset: str
    tau: float | None = None
    new_data_fraction: float | None = None
    rank: int | None = None
    data_share: float | None = None

    @property
    def name(self) -> str:
        """Of its result file: `mft`, `mft-tau0.5`, `dora-rank16`, `ft-data0.25`."""
        knobs = {
            "tau": self.tau,
            "nu": self.new_data_fraction,
            "rank": self.rank,
            "data": self.data_share,
        }
        words = [f"{knob}{value:g}" for knob, value in knobs.items() if value is not None]
        return "-".join([METHODS[self.method], *words])

    def __str__(self) -> str:
        knobs = {
            "τ": self.tau,
            "ν": self.new_data_fraction,
            "rank": self.rank,
            "data": self.data_share,
        }
        words = [f"{knob} {value:g}" for knob, value in knobs.items() if value is not None]
        return " · ".join([self.model, self.dataset, self.method, *words])


def paper_cell(
    model: str,
    method: str,
    dataset: str,
    *,
    tau: float | None = None,
    new_data_fraction: float | None = None,
    rank: int | None = None,
    data_share: float | None = None,
) -> PaperCell:
    """The cell of these settings, the same for settings that are the same training.

    MFT with tau = 1 and replay with nu = 1 are finetuning. Raises InputError for a method that the
    paper does not have.
    """
    if method not in METHODS:
        raise InputError(f"--method {method} is not known: choose one of {', '.join(METHODS)}")
    if method == "MFT" and tau == 1:
        method, tau = "FT", None
    if method == "Replay" and new_data_fraction == 1:
        method, new_data_fraction = "FT", None
    return PaperCell(
        model,
        method,
        dataset,
        tau=None if tau == USUAL_TAU else tau,
        new_data_fraction=(
            None if new_data_fraction == USUAL_NEW_DATA_FRACTION else new_data_fraction
        ),
        rank=None if rank == USUAL_RANK else rank,
        data_share=None if data_share == USUAL_SHARE else data_share,
    )


def slug(name: str) -> str:
    """A name as a folder: `OpenELM 1.1B` is `openelm-1.1b`."""
    return "-".join(name.lower().replace("/", " ").split())
