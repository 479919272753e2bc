"""How a benchmark measures: interleaved rounds, and peak memory in a process of its own."""

import gc
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

# Large pages make everybody's big tensors faster; torch looks when it first allocates.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch

Part = Callable[[], object]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_SPARE = 0.9
"""Share of the free memory that a cell may plan with."""


class NotMeasuredError(Exception):
    """A cell that cannot be measured here; the message is the reason, for the table."""


# Time


@dataclass
class Timings:
    """Seconds by variant, round and part; and for variants that failed, the reason."""

    seconds: dict[str, list[list[float]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def median(self, variant: str, part: int | None = None) -> float:
        """Median over the rounds of one part, or of all parts together."""
        return statistics.median(self._rounds(variant, part))

    def ratio(self, variant: str, baseline: str) -> tuple[float, float, float]:
        """Median and quartiles of variant / baseline, each within one round."""
        pairs = zip(self._rounds(variant), self._rounds(baseline), strict=True)
        ratios = [mine / theirs for mine, theirs in pairs]
        if len(ratios) == 1:
            return ratios[0], ratios[0], ratios[0]
        lower, median, upper = statistics.quantiles(ratios, method="inclusive")
        return median, lower, upper

    def _rounds(self, variant: str, part: int | None = None) -> list[float]:
        rounds = self.seconds[variant]
        return [sum(parts) if part is None else parts[part] for parts in rounds]


def interleaved(
    variants: Mapping[str, Sequence[Part]], rounds: int, device: str, warm_ups: int = 1
) -> Timings:
    """Every variant once a round, in an order that is rotated, and reversed every second round.

    What slows the machine for a while then slows all variants alike. A variant is the parts that
    it does one after another, as forward and backward. One that raises is out, with its reason.
    """
    timings = Timings()
    for number in range(-warm_ups, rounds):
        for name in _order(list(variants), number):
            if name in timings.failures:
                continue
            gc.collect(1)
            try:
                laps = timed(variants[name], device)
            except Exception as error:  # whatever a peer raises is its row in the table
                timings.failures[name] = reason(error)
                timings.seconds.pop(name, None)
                _free_device_memory(device)
                continue
            if number >= 0:
                timings.seconds.setdefault(name, []).append(laps)
    return timings


def timed(parts: Sequence[Part], device: str) -> list[float]:
    """Seconds of each part, the device's work included."""
    synchronize(device)
    laps, start = [], perf_counter()
    for part in parts:
        part()
        synchronize(device)
        end = perf_counter()
        laps.append(end - start)
        start = end
    return laps


def _order(names: list[str], number: int) -> list[str]:
    start = number % len(names) if names else 0
    rotated = names[start:] + names[:start]
    return rotated[::-1] if number % 2 else rotated


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


# Memory


def peak_memory(function: Part, device: str) -> int:
    """Bytes that `function` takes at its peak, above what is held when it is called.

    On a CPU the process's resident memory, which is honest only in a process that did nothing else
    before: see `in_fresh_process`. Raises NotMeasuredError where the system does not tell.
    """
    gc.collect()
    if device != "cpu":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        synchronize(device)
        return torch.cuda.max_memory_allocated() - before
    before = _status("VmRSS")
    _CLEAR.write_text(_RESET_PEAK)
    function()
    return _status("VmHWM") - before


def peak_resident_memory() -> int:
    """Bytes of the whole process at its peak since it began."""
    return _status("VmHWM")


def available_memory(device: str) -> int:
    """Bytes that a cell may take on this device now."""
    if device != "cpu":
        return int(_SPARE * torch.cuda.mem_get_info()[0])
    import psutil

    return int(_SPARE * psutil.virtual_memory().available)


def require_memory(needed: int, device: str) -> None:
    """Raise NotMeasuredError where a cell is predicted to take more memory than there is."""
    free = available_memory(device)
    if needed > free:
        raise NotMeasuredError(
            f"predicted to need {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
        )


def _status(name: str) -> int:
    if not _CLEAR.exists():
        raise NotMeasuredError("peak memory is measured on Linux and on CUDA devices only")
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise NotMeasuredError(f"the system does not tell {name}")


def _free_device_memory(device: str) -> None:
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


# Processes and devices


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` computed in a new process: no memory of what was done before.

    What it raises is raised here. NotMeasuredError where the process was killed.
    """
    context = multiprocessing.get_context("spawn")
    threads = torch.get_num_threads()
    with ProcessPoolExecutor(
        1, mp_context=context, initializer=_begin_process, initargs=(threads,)
    ) as pool:
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool as error:
            raise NotMeasuredError("the process was killed: out of memory?") from error


def _begin_process(threads: int) -> None:
    """As in a script that a person starts: a spawned process would spawn a DataLoader's workers."""
    torch.set_num_threads(threads)
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)


@contextmanager
def empty_caches() -> Iterator[Path]:
    """A temporary folder, which also takes the caches: what is measured must build its own."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        os.environ.pop("MINIFINETUNING_CACHE", None)
        try:
            yield Path(folder)
        finally:
            os.environ.clear()
            os.environ.update(before)


def reason(error: BaseException) -> str:
    """An exception as one short line of a table."""
    lines = str(error).strip().splitlines()
    first = lines[0].strip() if lines else ""
    if isinstance(error, NotMeasuredError):
        return first
    text = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return text if len(text) <= 160 else text[:160] + " …"


def physical_cores() -> int:
    """Cores that this process may use: two threads on one core share its arithmetic."""
    import psutil

    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return min(cores, allowed)


def products_dtype(name: str, device: str) -> torch.dtype:
    """The dtype of matrix products: "auto" is bfloat16 where the device is fast at it."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    from minifinetuning.models.precision import bfloat16_pays

    return torch.bfloat16 if bfloat16_pays(device == "cpu") else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """As a person writes it: bfloat16."""
    return str(dtype).removeprefix("torch.")


def autocast(device: str, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Autocast to `dtype`; for float32 none at all."""
    return torch.autocast(device, dtype, enabled=dtype != torch.float32)
