"""How near the fused loss's kernels come to the speed at which a GPU's memory copies."""

from collections.abc import Callable

import torch
from harness import NotMeasuredError, timed

_COPIED = 2**30
_REPEATS = 10
_KERNELS = ("_statistics_kernel", "_gradient_kernel")
"""The passes of `minifinetuning.ops.kernels` over the vocabulary."""


def copy_bandwidth(device: str) -> float:
    """Bytes a second, read and written, of the fastest copy of a GiB."""
    source = torch.zeros(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    laps = [timed([lambda: target.copy_(source)], device)[0] for _ in range(_REPEATS)]
    return 2 * _COPIED / min(laps)


def kernel_seconds(function: Callable[[], object]) -> float:
    """Seconds that the GPU spends in the fused loss's kernels while `function` runs.

    Raises NotMeasuredError where it runs none of them.
    """
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        function()
        torch.cuda.synchronize()
    microseconds = sum(
        event.self_device_time_total
        for event in profile.key_averages()
        if any(name in event.key for name in _KERNELS)
    )
    if not microseconds:
        raise NotMeasuredError("the profile shows none of the fused loss's kernels")
    return 1e-6 * microseconds


def moved_bytes(tokens: int, vocabulary: int, sides: int, gradient: torch.dtype) -> int:
    """What the kernels must move: (N, V) logits in float32, and their gradient.

    The logits of each side (student and teacher, or the student alone) are read twice, for a
    softmax is known only once a row has been read; the gradient is written once.
    """
    return tokens * vocabulary * (2 * 4 * sides + gradient.itemsize)
