"""The reference checkpoint: a model lightly tuned on general text before anything is compared.

Without it, the first prose that a model is trained on repairs what quantisation, chat tuning or
another style of text left behind, general perplexity *falls*, and S and DG say nothing about the
specialized text. Section 3.1 of the paper ("Process").
"""

from dataclasses import dataclass
from typing import Any

from peft import PeftModel
from transformers import EarlyStoppingCallback

from minifinetuning.data.config import DataConfig, GeneralConfig
from minifinetuning.errors import InputError
from minifinetuning.models.config import AdapterConfig, ModelConfig
from minifinetuning.options import option
from minifinetuning.report import reference_card
from minifinetuning.training.config import AUTO, MFTConfig
from minifinetuning.training.folder import run_folder
from minifinetuning.training.run import publish, rounded, trained
from minifinetuning.training.texts import TextNeeds, read_texts

__all__ = ["ReferenceConfig", "prepare_reference"]


@dataclass
class ReferenceConfig(MFTConfig):
    """Light tuning on general text: one epoch of plain finetuning, stopped once it no longer helps.

    The paper's section 3.1 ("Process"): at most 4M unique tokens of general text, and the
    checkpoint of least validation perplexity. Step 0, the model as given, is a candidate.
    """

    objective: str = option("ft", "What is trained.")
    num_train_epochs: float = option(1.0, "Passes over the general text.")
    max_steps: int = option(-1, "Optimizer steps, in place of epochs.")
    patience: int = option(3, "Evaluations without a lower perplexity before it stops.")

    def __post_init__(self) -> None:
        if self.tau == AUTO:
            raise InputError("--tau auto is for `mft train`: give a number to prepare with")
        if None not in (self.save_steps, self.eval_steps) and self.save_steps != self.eval_steps:
            # A step that is not saved cannot be kept, and would only use up patience.
            raise InputError(
                f"--save_steps ({self.save_steps}) and --eval_steps ({self.eval_steps}) must be "
                "the same where a reference is prepared"
            )
        super().__post_init__()

    @property
    def watches_forgetting(self) -> bool:
        """The model that this run departs from is not one to stay close to."""
        return False


def prepare_reference(
    model: ModelConfig,
    adapter: AdapterConfig,
    text: GeneralConfig,
    training: ReferenceConfig,
    *,
    keep_checkpoints: bool = True,
) -> dict[str, Any]:
    """Tune on the training side of the general text, keep the step of least validation perplexity.

    The validation documents are the ones that `mft train --general` measures DG on with the same
    seed and budget, so the reference has never seen them. What is written is a whole model: an
    adapter is merged. Returns the content of metrics.json: the general perplexity before
    (`reference`) and after (`tuned`), and its history.
    """
    with run_folder(training, model, text, training):
        # To the trainer it is the specialized text, which it measures the perplexity of.
        named = vars(text) | {"data": text.general, "general": None}
        texts = read_texts(model, DataConfig(**named), TextNeeds(training.seed))
        stop = EarlyStoppingCallback(early_stopping_patience=training.patience)
        trainer, metrics = trained(model, adapter, texts, training, callbacks=[stop])
        if isinstance(trainer.model, PeftModel):
            # Adapters of their own are trained on a reference.
            trainer.model = trainer.model.merge_and_unload()
        metrics = _about_general_text(rounded(trainer, metrics, model))
        publish(trainer, metrics, reference_card(metrics), keep_checkpoints=keep_checkpoints)
    return metrics


def _about_general_text(metrics: dict[str, Any]) -> dict[str, Any]:
    """The trainer knew the text that it was trained on as the specialized one."""
    perplexity = {
        model: {"general_perplexity": metrics[model]["specialized_perplexity"]}
        for model in ("reference", "tuned")
    }
    history = [
        {"step": entry["step"], "general_perplexity": entry["specialized_perplexity"]}
        for entry in metrics["history"]
    ]
    of_training = ("step", "last_step", "configuration", "full_configuration", "seed")
    of_machine = ("versions", "device", "tokens_per_second")
    return {
        "method": "reference",
        **perplexity,
        "history": history,
        "validation": {"general": metrics["validation"]["specialized"]},
        "data": {"general": metrics["data"]["specialized"]},
        **{name: metrics[name] for name in (*of_training, *of_machine)},
    }
