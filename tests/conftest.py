"""Tiny models and texts that the tests make themselves."""

import gc
import json
import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch

# The hub's library reads this when it is imported, which transformers does.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Triton reads this when it is first imported, which transformers' models do.
os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

WORDS = (
    "the cell heart drug dose trial patient risk of in with and study effect blood pressure was "
    "were found higher lower than group treated after weeks response factor gene protein water"
).split()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tiny tensors only lose by threads."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of one test, in place of the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MINIFINETUNING_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True, scope="session")
def _frozen_heap() -> None:
    """accelerate collects garbage after each run: most of a tiny one, over all of transformers."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def loaded_process(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A process that has imported everything, once a session; `in_processes` forks from it too."""
    from minifinetuning.lab import processes

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(processes._PRELOADED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("MINIFINETUNING_CACHE", str(tmp_path_factory.mktemp("cache")))
        forkserver.ensure_running()
    return context


SCRIPT = """
import os, sys
from multiprocessing import forkserver
given = {given!r}
to = os.open(given["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(to, 1), os.dup2(to, 2)
os.environ.clear(), os.environ.update(given["environment"])
sys.argv[1:] = given["arguments"]
# What it starts itself is forked from where it was.
server = forkserver._forkserver
vars(server).update(given["server"])
server.ensure_running = lambda: None
exec(compile(given["code"], "script", "exec"), {{"__name__": "__main__"}})
"""


class Script:
    """A script in a process of its own, as `python -c code` would be, that need not import much.

    `output` is what it has said so far, `end` waits for its exit code. It has no input.
    """

    def __init__(
        self, context: Any, place: Path, code: str, *arguments: object, **environment: str
    ) -> None:
        self._said = place
        given = {
            "code": code,
            "output": str(place),
            "arguments": [str(each) for each in arguments],
            "environment": {**os.environ, "OMP_NUM_THREADS": "1", **environment},
            "server": {
                name: value
                for name, value in vars(forkserver._forkserver).items()
                if name in ("_forkserver_address", "_forkserver_authkey")
            },
        }
        self._process = context.Process(target=exec, args=(SCRIPT.format(given=given), {}))
        self._process.start()

    @property
    def output(self) -> str:
        return self._said.read_text(errors="replace") if self._said.exists() else ""

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    def is_running(self) -> bool:
        return bool(self._process.is_alive())

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self, seconds: float = 200) -> int:
        self._process.join(seconds)
        assert self._process.exitcode is not None, self.output
        return int(self._process.exitcode)


@pytest.fixture
def script(loaded_process: Any, tmp_path: Path) -> Iterator[Callable[..., Script]]:
    """`script(code, *arguments, **environment)`: a `Script` that ends with the test."""
    started: list[Script] = []

    def start(code: str, *arguments: object, **environment: str) -> Script:
        place = tmp_path / f".said-{len(started)}"
        started.append(Script(loaded_process, place, code, *arguments, **environment))
        return started[-1]

    yield start
    for each in started:
        if each.is_running():
            each.send_signal(signal.SIGKILL)
        each.end()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE(unk_token=None))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


@pytest.fixture(scope="session")
def sentences() -> Callable[[int, int], list[str]]:
    """`sentences(count, seed)`: that many short documents of random words."""

    def make(count: int, seed: int) -> list[str]:
        source = random.Random(seed)
        return [" ".join(source.choices(WORDS, k=40)) + "." for _ in range(count)]

    return make


@pytest.fixture
def llama() -> LlamaForCausalLM:
    """A llama of 20 thousand random weights with tied embeddings."""
    return tiny_llama()


def tiny_llama(**changes: object) -> LlamaForCausalLM:
    torch.manual_seed(0)
    settings = {
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": None,
    }
    return LlamaForCausalLM(LlamaConfig(**(settings | changes)))


FAMILIES: dict[str, dict[str, object]] = {
    "llama": {},
    "gpt_neo": {
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 8,
        "attention_dropout": 0.0,
        "embed_dropout": 0.0,
        "resid_dropout": 0.0,
    },
    "phi": {},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 2.0, "sliding_window": 8},
    "nemotron": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "mistral": {},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.0},
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    },
}
"""What a tiny model of each family needs beside the settings that all share."""


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., PreTrainedModel]:
    """`tiny_model(family, **changes)`: about 30 thousand weights, none of them zero or one.

    Weights are wide enough for the logits to differ by several nats, so that a forgotten scale,
    soft cap or bias shows.
    """

    def make(family: str = "llama", **changes: object) -> PreTrainedModel:
        settings: dict[str, object] = {
            "vocab_size": 320,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            "initializer_range": 0.2,
            "bos_token_id": None,
            "eos_token_id": 0,
            "pad_token_id": None,
        }
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **(settings | FAMILIES[family] | changes))
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        return model

    return make


@pytest.fixture
def saved_model(
    tmp_path: Path,
    tiny_model: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
) -> Callable[..., Path]:
    """`saved_model(dtype)`: the folder of the tiny llama in that dtype, with its tokenizer."""

    def make(dtype: torch.dtype = torch.float32) -> Path:
        folder = tmp_path / "model"
        tiny_model("llama").to(dtype).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def text_files(
    tmp_path: Path, sentences: Callable[[int, int], list[str]]
) -> Callable[[int], tuple[str, str]]:
    """`text_files(count)`: a specialized and a general table of so many documents."""

    def make(count: int) -> tuple[str, str]:
        paths = tmp_path / "data.jsonl", tmp_path / "general.jsonl"
        for seed, path in enumerate(paths, start=1):
            lines = [json.dumps({"text": text}) for text in sentences(count, seed)]
            path.write_text("\n".join(lines))
        return str(paths[0]), str(paths[1])

    return make


@pytest.fixture(scope="session")
def random_sequences() -> Callable[..., list[dict[str, list[int]]]]:
    """`random_sequences(count, length, seed, vocabulary)`: dicts of plain lists of token ids.

    A small `vocabulary` is a text that a model learns quickly.
    """

    def make(
        count: int, length: int = 16, seed: int = 0, vocabulary: int = 320
    ) -> list[dict[str, list[int]]]:
        source = random.Random(seed)
        return [{"input_ids": source.choices(range(vocabulary), k=length)} for _ in range(count)]

    return make


@pytest.fixture
def training_arguments(tmp_path: Path) -> Callable[..., Any]:
    """`training_arguments(**changes)`: an MFTConfig of five steps, nothing saved or evaluated."""
    from minifinetuning.training.config import MFTConfig

    def make(**changes: object) -> MFTConfig:
        settings: dict[str, object] = {
            "output_dir": str(tmp_path / "run"),
            "max_steps": 5,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "logging_steps": 1,
            "eval_strategy": "no",
            "save_strategy": "no",
            "save_only_model": True,
            "load_best_model_at_end": False,
            "bf16": False,
            "use_cpu": True,
            "dataloader_pin_memory": False,
            "disable_tqdm": True,
        }
        return MFTConfig(**(settings | changes))

    return make


@pytest.fixture(scope="session")
def validation_texts(
    tiny_model: Callable[..., PreTrainedModel],
    random_sequences: Callable[..., list[dict[str, list[int]]]],
) -> dict[str, list[dict[str, list[int]]]]:
    """A specialized text of 20 different tokens, and a general one that the tiny llama wrote.

    What the model wrote it knows best: whatever it is trained on, it forgets this.
    """
    model = tiny_model("llama").eval()
    torch.manual_seed(9)
    written = model.generate(
        torch.randint(1, 320, (8, 1)),
        attention_mask=torch.ones(8, 1, dtype=torch.long),
        max_new_tokens=15,
        do_sample=True,
        top_k=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    return {
        "specialized": random_sequences(6, 16, seed=1, vocabulary=20),
        "general": [{"input_ids": tokens} for tokens in written.tolist()],
    }
