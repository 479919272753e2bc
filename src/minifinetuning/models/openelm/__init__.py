"""Apple's OpenELM, which transformers itself does not know."""

from minifinetuning.models.openelm.configuration import OpenELMConfig
from minifinetuning.models.openelm.modeling import OpenELMForCausalLM

__all__ = ["OpenELMConfig", "OpenELMForCausalLM"]
