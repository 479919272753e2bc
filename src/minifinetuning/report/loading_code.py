"""The lines of Python that load what a model card is of."""

from minifinetuning.models.origin import origin
from minifinetuning.report.names import place

__all__ = ["loading_code"]

_HERE = '"path/to/this/folder"'


def loading_code(base: str, *, adapter: bool) -> str:
    """Imports, the model, on its base where it is an adapter, and the tokenizer."""
    imports = ["from transformers import AutoModelForCausalLM, AutoTokenizer"]
    if adapter:
        imports.insert(0, "from peft import PeftModel")
    if origin(base).architecture == "openelm":
        imports.append(
            "import minifinetuning.models.openelm  # pip install minifinetuning: transformers "
            "alone does not know OpenELM"
        )
    if adapter:
        model = [
            f'base = AutoModelForCausalLM.from_pretrained("{place(base)}")',
            f"model = PeftModel.from_pretrained(base, {_HERE})",
        ]
    else:
        model = [f"model = AutoModelForCausalLM.from_pretrained({_HERE})"]
    tokenizer = f"tokenizer = AutoTokenizer.from_pretrained({_HERE})"
    return "\n".join([*imports, "", *model, tokenizer])
