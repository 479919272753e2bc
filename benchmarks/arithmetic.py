"""What a step costs by its multiply-adds alone: what a measured ratio is to be compared with."""

from typing import Literal

from shapes import Shape

Adapter = Literal["full", "frozen_head", "lora"]
Cache = Literal["ft", "none", "hidden", "expected"]


def arithmetic_limit(
    shape: Shape, adapter: Adapter, cache: Cache, sequence_length: int = 1024
) -> float:
    """Multiply-adds of a step, relative to those of finetuning (FT) with the same adapter.

    With F_b of a body's forward and F_h of the output head's, per token,

        FT, full        3 F_b + 3 F_h       a backward multiplies by weights, and by inputs
        FT, frozen head 3 F_b + 2 F_h       no gradient of the head's weights
        FT, LoRA        2 F_b + 2 F_h       no gradient of any weight (the adapters' few left out)

        MFT adds        F_b + F_h           teacher "none": its whole forward
                              F_h           "hidden": its hidden states are known, its logits not
                                0           "expected": N * H for each token, no vocabulary

    F_h = V * H. F_b counts the weights of the body and attention: 2 * T * heads * head width a
    layer for q k^T and its product with v, over all T positions, as dense products have them.
    A backward through attention costs twice its forward even where weights are frozen; it is
    counted once, which sets LoRA's figures without a cache a little high (SmolLM2 1.50 for 1.45).
    Raises ValueError for "expected" where the head is trained: it is exact for a frozen one only.
    """
    body, head = body_forward(shape, sequence_length), shape.head_parameters
    if cache == "expected" and adapter == "full":
        raise ValueError("an expected embedding needs a frozen output head")
    finetuning = {
        "full": 3 * body + 3 * head,
        "frozen_head": 3 * body + 2 * head,
        "lora": 2 * body + 2 * head,
    }[adapter]
    teacher = {"ft": 0, "none": body + head, "hidden": head, "expected": 0}[cache]
    return (finetuning + teacher) / finetuning


def body_forward(shape: Shape, sequence_length: int) -> int:
    """Multiply-adds of the body's forward for each token of sequences of T tokens."""
    attention = 2 * sequence_length * shape.layers * shape.heads * shape.head_width
    return shape.body_parameters + attention
