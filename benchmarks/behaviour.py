"""What every verb of the command line says and writes, as one JSON, to be held against another.

    python benchmarks/behaviour.py --output before.json
    python benchmarks/behaviour.py --output after.json --against before.json

A tiny random model, its tokenizer and texts of every kind are made on the spot, with fixed seeds;
then each chain of commands runs in a folder and cache of its own, in processes of one thread. Kept
are exit codes, what was printed, JSON, cards and pages, and the digests of weights and pictures;
left out is what no two runs share (times, memory, versions). A change of the code that should
change nothing leaves the two files equal: differences are printed, and the exit status is then 1.
"""

import argparse
import difflib
import hashlib
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

WORDS = (
    *("the", "cell", "heart", "drug", "dose", "trial", "patient", "risk", "of", "in", "with"),
    *("study", "effect", "blood", "pressure", "after", "weeks", "response", "gene", "water"),
)

SHORT = {
    "TRAIN": "train --model ../model --data ../data GENERAL STEPS",
    "ON": "train --model ../model GENERAL STEPS CONSTANT --max_steps 2 --data",
    "PREPARE": "prepare-reference --model ../model GENERAL STEPS",
    "COMPARE": "compare --model ../model --data ../data GENERAL RATE --max_steps 2",
    "EVALUATE": "evaluate --reference ../model --data ../data GENERAL --output out.json --model",
    "BLEND": "blend --reference ../model --tuned run --data ../data GENERAL --output_dir",
    "REPRODUCE": "reproduce --table 3 --protocol tiny --corpora ../corpora --bf16 False --seed 7",
    "STEPS": "RATE --max_steps 4 --eval_steps 2 --save_steps 2",
    "RATE": "BATCH --learning_rate 1e-3 --gradient_accumulation_steps 2 --output_dir run",
    "BATCH": "--per_device_train_batch_size 1 --bf16 False",
    "GENERAL": "--general ../general.jsonl --sequence_length 64 --seed 7",
    "CONSTANT": "--lr_scheduler_type constant --warmup_steps 0",
}
"""What stands for other words in a command; an option that is given twice is what it was last."""

COMMANDS = """
full: TRAIN
full: EVALUATE run
full: BLEND blended
full: BLEND within --max_degeneralization 0.01 --coefficients 0.5
full: TRAIN
full: TRAIN --overwrite_output_dir --objective ft
adapter: cache --model ../model --data ../data GENERAL --adapter lora BATCH
adapter: TRAIN --adapter lora --rank 2 --teacher_cache expected
adapter: EVALUATE run
adapter: cache --list
adapter: cache --prune
hidden: TRAIN --teacher_cache hidden --max_steps 8
replay: TRAIN --replay ../replay.csv --replay_objective distillation
self: TRAIN --general self --replay self
ewc: TRAIN --objective ft --ewc_lambda 100
freeze_head: TRAIN --freeze_head --teacher_cache expected
tau_auto: TRAIN --tau auto --max_degeneralization 0.5
budget: TRAIN --learning_rate 0.05 --eval_steps 1 --save_steps 1 --max_degeneralization 1
target: TRAIN --adapter ia3 --learning_rate 0.05 --target_specialization 0.1
bfloat16: TRAIN --dtype bfloat16
diverged: TRAIN --objective ft --learning_rate 1e30 CONSTANT
resume: TRAIN CONSTANT
resume: TRAIN CONSTANT --max_steps 6 --resume_from_checkpoint True
resume: TRAIN CONSTANT --max_steps 8 --resume_from_checkpoint True --tau 0.5
yaml: train ../run.yaml --tau 0.5
dataset: ON ../saved
tables: ON ../rows.csv ../rows.jsonl
html: ON ../pages --drop_boilerplate
notes: ON ../markdown
notes: ON ../markdown --skip_unreadable
reference: PREPARE
reference: ON ../data --model run --output_dir next
reference: PREPARE --adapter dora --rank 2 --output_dir merged
compare: COMPARE --methods ft,mft,lora+mft@3e-3 --seeds 2 --max_degeneralization 0.5
compare: COMPARE --methods ft,mft+blend,ft+replay,ft+ewc --replay ../replay.csv --ewc_lambda 9
objectives: COMPARE --methods corrective,single_correction,distillation,kl,dft,asft,stm,eaft,talr
rarer: COMPARE --methods mask_the_target,dora,ia3,mft+self_replay
reproduce: reproduce --list
reproduce: REPRODUCE --dry_run
reproduce: REPRODUCE --model tiny --method MFT
reproduce: REPRODUCE --model tiny --method MFT --dry_run
refusals: trian
refusals: train
refusals: TRAIN --magic 1
refusals: TRAIN --tau 1.5
refusals: TRAIN --objective magic
refusals: TRAIN --model nowhere
refusals: TRAIN --sequence_length 4096
refusals: TRAIN --teacher_cache expected
refusals: COMPARE --methods ft,magic
refusals: reproduce
refusals: demo --steps 2
"""
"""A chain a name: its commands run one after another in one folder. `demo` fetches its texts."""


CHAINS: dict[str, list[str]] = {}
for line in COMMANDS.strip().splitlines():
    CHAINS.setdefault(line.partition(": ")[0], []).append(line.partition(": ")[2])
VERBS = ("train", "cache", "compare", "evaluate", "blend", "prepare-reference", "reproduce", "demo")
CHAINS["help"] = ["--help", *(f"{verb} --help" for verb in VERBS)]


def make_inputs(root: Path) -> None:
    """The model and its tokenizer, and one text of every kind, in `root`."""
    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    tokenizer.save_pretrained(root / "model")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    ends = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
    known = {"vocab_size": 320, "tie_word_embeddings": True, "initializer_range": 0.2}
    LlamaForCausalLM(LlamaConfig(**sizes, **heads, **ends, **known)).save_pretrained(root / "model")

    def rows(seed: int, count: int = 40) -> list[str]:
        source = random.Random(seed)
        return [" ".join(source.choices(WORDS, k=40)) + "." for _ in range(count)]

    def write(name: str, content: str) -> None:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")

    def lines(name: str, texts: list[str]) -> None:
        write(name, "".join(json.dumps({"text": text, "n": 1}) + "\n" for text in texts))

    def table(name: str, texts: list[str]) -> None:
        write(name, "".join(f"{row}\n" for row in ["n,text", *(f"1,{text}" for text in texts)]))

    for number, text in enumerate(rows(1)):
        menu = "<nav><a href='/'>home</a><a href='/a'>about</a></nav>"
        page = f"{menu}<h1>Trial {number}</h1><p>{text}</p><p>E = m<sup>2</sup></p><p>Printed</p>"
        write(f"data/{number}.txt", text)
        write(f"pages/{number}.html", f"<html><body>{page}</body></html>")
        write(f"markdown/{number}.md", f"---\ntitle: x\n---\n# Trial\n<!-- no -->\n{text} `<a>`\n")
    (root / "markdown" / "broken.md").write_bytes(b"\xc3\x28 \xff\xfe\x00 broken \x81" * 9)
    write("markdown/picture.pdf", "%PDF")
    lines("general.jsonl", [text[::-1] for text in rows(2, 60)])
    lines("rows.jsonl", [*rows(3, 20), "", *rows(3, 1)])
    table("rows.csv", rows(4, 20))
    table("replay.csv", [text[::-1] for text in rows(5)])
    for seed, name in enumerate(("pile_of_law", "openwebtext")):
        lines(f"corpora/{name}.jsonl", rows(seed + 6, 60))
    Dataset.from_dict({"text": rows(8)}).save_to_disk(root / "saved")
    words = full("TRAIN").split()[1:]
    options = zip(words[::2], words[1::2], strict=True)
    write("run.yaml", "".join(f"{name[2:]}: {value}\n" for name, value in options))


def full(command: str) -> str:
    """The command with everything written out."""
    for short, words in SHORT.items():
        command = re.sub(rf"\b{short}\b", words, command)
    return command


def run_chain(root: Path, name: str) -> dict[str, Any]:
    """What each command of a chain said and left, one after the other in the same folder."""
    folder = root / name
    folder.mkdir()
    own = {"MINIFINETUNING_CACHE": str(folder / "cache"), "HF_HOME": str(root / "hub")}
    fixed = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    places = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = os.pathsep.join(os.path.abspath(place) for place in places if place)
    environment = {**os.environ, **own, **fixed, "COLUMNS": "100", "PYTHONPATH": path}
    found: dict[str, Any] = {}
    before: dict[str, Any] = {}
    for number, command in enumerate(CHAINS[name], start=1):
        words = [sys.executable, "-m", "minifinetuning.cli", *full(command).split()]
        ended = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
        after = dict(written(root, folder))
        changed = {path: after[path] for path in after if after[path] != before.get(path)}
        found[f"{number} {command}"] = {
            "exit": ended.returncode,
            "stdout": plain(root, ended.stdout),
            "stderr": plain(root, ended.stderr),
            "written": changed,
            "removed": sorted(before.keys() - after.keys()),
        }
        before = after
    print(f"{name}: {[step['exit'] for step in found.values()]}", file=sys.stderr, flush=True)
    return found


def written(root: Path, folder: Path) -> Iterator[tuple[str, Any]]:
    """Name and content of each file; digests of what is not for reading."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        # Digests of files are remembered by the time of their writing.
        if path.parent.name == "contents" or (path.name[0] == "." and path.suffix != ".json"):
            continue
        name = LONG_DIGEST.sub("DIGEST", str(path.relative_to(folder)))
        if path.suffix == ".json" and not path.name.startswith("tokenizer"):
            yield name, cleaned(root, json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix in (".md", ".html", ".jsonl"):
            yield name, plain(root, path.read_text(encoding="utf-8"))
        elif path.suffix in (".safetensors", ".png", ".json") and not ANY_ORDER.search(name):
            yield name, hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            # A pickle holds names of modules; the header of a teacher's part has no fixed order.
            yield name, "is there"


LONG_DIGEST = re.compile(r"(?<=corpus-)[0-9a-f]{64}")
ANY_ORDER = re.compile(r"DIGEST|part-\d+\.safetensors")
DROPPED = re.compile(
    "versions|commit|device|modified|size|sha256|.*(seconds|runtime|per_second|memory_bytes)|"
    r"(trainer_state|adapter_config)\.json|training_args\.bin"
)
"""Keys of what no two runs share: of these files a checkpoint's list holds sizes and checksums."""
MACHINE = {"tokens/s", "memory GiB"}
PROGRESS = re.compile(r"(.*?):? *(\d+%\||\d+ ?[a-z]+ \[\d\d:).*")
PACKAGES = "device|python|minifinetuning|torch|transformers|peft|accelerate|datasets"
NOT_SHARED = (
    (re.compile(rf"^\| ({PACKAGES}) .*"), ""),
    (re.compile(r"(?<=after )\d+ seconds| \(about .* to go\)|[\d.]+ .B(?= in )"), ""),
    (re.compile(r"\d{4}-\d\d-\d\d( \d\d:\d\d)?"), "DATE"),
    # Tokens a second, and bytes of memory, on a page.
    (re.compile(r'<td data-value="([\d.]+">[\d,]+|\d{8,}">[\d.]+)</td>'), "<td></td>"),
    (re.compile(r'"(tokens_per_second|peak_memory_bytes|commit)": *[^,}]+'), r'"\1": 0'),
)


def cleaned(root: Path, value: Any) -> Any:
    """JSON without what no two runs share."""
    if isinstance(value, dict):
        kept = {key: entry for key, entry in value.items() if not DROPPED.fullmatch(key)}
        modules = kept.get("target_modules")
        if isinstance(modules, list):
            # PEFT writes a set, in any order.
            kept["target_modules"] = sorted(modules)
        return {key: cleaned(root, entry) for key, entry in kept.items()}
    if isinstance(value, list):
        return [cleaned(root, entry) for entry in value]
    return value.replace(str(root), ".") if isinstance(value, str) else value


def plain(root: Path, text: str) -> list[str]:
    """Lines without what no two runs share; of progress bars the names, once each, at the end."""
    lines, bars = [], set()
    header: list[str] = []
    for line in re.split(r"[\r\n]|\x1b\[A", text.replace(str(root), ".")):
        if progress := PROGRESS.fullmatch(line):
            bars.update({f"[{progress[1].strip()}]"} - {"[]"})
            continue
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) != len(header):
            header = cells
        if MACHINE & {*header}:
            pairs = zip(header, cells, strict=True)
            line = "|".join(cell for name, cell in pairs if name not in MACHINE)
        for pattern, instead in NOT_SHARED:
            line = pattern.sub(instead, line)
        if line.strip():
            lines.append(line.rstrip())
    return [*lines, *sorted(bars)]


def differences(place: str, before: Any, after: Any, tolerance: float) -> Iterator[str]:
    """A line for each value that differs, and for each line of a text."""
    kinds = {type(before), type(after)}
    if kinds == {dict}:
        for key in sorted(before.keys() | after.keys()):
            values = (each.get(key, "(not there)") for each in (before, after))
            yield from differences(f"{place} > {key}", *values, tolerance)
    elif kinds == {list} and all(isinstance(each, str) for each in before + after):
        for line in list(difflib.unified_diff(before, after, lineterm="", n=0))[2:]:
            yield f"{place}: {line}"
    elif kinds == {list} and len(before) == len(after):
        for number, values in enumerate(zip(before, after, strict=True)):
            yield from differences(f"{place} > {number}", *values, tolerance)
    elif kinds <= {int, float} and math.isclose(before, after, rel_tol=tolerance):
        return
    elif before != after:
        yield f"{place}: {json.dumps(before)} | {json.dumps(after)}"


def main() -> int:
    """Run, write, hold against; 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="Where all is written.")
    parser.add_argument("--against", type=Path, help="An earlier output that it should equal.")
    parser.add_argument("--only", nargs="+", choices=CHAINS, help="These chains alone.")
    parser.add_argument("--processes", type=int, default=2, help="Chains at a time.")
    parser.add_argument("--tolerance", type=float, default=0.0, help="Of numbers, relative.")
    options = parser.parse_args()
    names = options.only or list(CHAINS)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place).resolve()
        make_inputs(root)
        found: dict[str, Any] = {}
        with ThreadPoolExecutor(options.processes) as pool:
            running = {pool.submit(run_chain, root, name): name for name in names}
            for chain in as_completed(running):
                found[running[chain]] = chain.result()
                # Whatever ends this run early, what was seen is there.
                text = json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False)
                options.output.write_text(text + "\n", encoding="utf-8")
    if options.against is None:
        return 0
    before = json.loads(options.against.read_text(encoding="utf-8"))
    differing = [
        line
        for name in names
        for line in differences(name, before.get(name, {}), found[name], options.tolerance)
    ]
    print("\n".join(differing) or "no difference")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
