"""The four corpora of the paper's section 3.1 as data, and where a run finds their text.

| the paper names | on the hub | licence |
|---|---|---|
| PMC Open Access Subset | common-pile/pubmed: its free part, in Markdown | CC BY, CC BY-SA, CC0 |
| Pile of Law | pile-of-law/pile-of-law: its train split | CC BY-NC-SA 4.0: not for commercial use |
| OpenWebMath | open-web-math/open-web-math | ODC-By 1.0 |
| OpenWebText | Skylion007/openwebtext | CC0 1.0 |

The paper names no versions. `datasets` no longer runs the scripts that some datasets come with
(pmc/open_access is nothing else), so that files are named here, each at a pinned revision. None of
the four asks for an account. All of this is as others have published it: nothing was fetched when
it was written, and --corpora is the way around what may have changed.
"""

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from minifinetuning.data.documents import Document
from minifinetuning.data.sources import Sources, supported_ending
from minifinetuning.data.tokenizers import tokenizer_identity
from minifinetuning.errors import InputError
from minifinetuning.files import replacing
from minifinetuning.lab.paper.samples import LONGEST, PORTION, SEED, sampled_documents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["DATASETS", "GENERAL", "PaperDataset", "dataset_named", "hub_sample", "local_text"]


@dataclass(frozen=True)
class PaperDataset:
    """A corpus of the paper, by the name that its tables use.

    `files` is a pattern below `path`, a folder or a URL, of Parquet files or packed JSON lines;
    `text_field` is their column of text.
    """

    name: str
    key: str
    domain: str
    path: str
    files: str
    text_field: str = "text"


DATASETS = (
    PaperDataset(
        name="PubMed",
        key="pubmed",
        domain="medical",
        path="hf://datasets/common-pile/pubmed@648b8cfc93953ca0663a9c96a8d842a91b98fb64",
        files="data/*.jsonl.gz",
    ),
    PaperDataset(
        name="Pile of Law",
        key="pile_of_law",
        domain="legal",
        path="hf://datasets/pile-of-law/pile-of-law@2e96169e7e4b43f8ea36230515ebb44b27423b94",
        files="data/train.*.jsonl.xz",
    ),
    PaperDataset(
        name="OpenWebMath",
        key="openwebmath",
        domain="math",
        path="hf://datasets/open-web-math/open-web-math@fde8ef8de2300f5e778f56261843dab89f230815",
        files="data/train-*.parquet",
    ),
)
"""The specialized ones, in the order of the paper's tables."""

GENERAL = PaperDataset(
    name="OpenWebText",
    key="openwebtext",
    domain="general",
    path="hf://datasets/Skylion007/openwebtext@79d93d786212f7344586290adb811d4ae6a1762c",
    files="plain_text/train-*.parquet",
)
"""What references are tuned on and forgetting is measured on."""


def dataset_named(name: str) -> PaperDataset:
    """The dataset of this name, key or domain, in any case. Raises InputError for another."""
    known = (*DATASETS, GENERAL)
    for dataset in known:
        if name.casefold() in (dataset.name.casefold(), dataset.key, dataset.domain):
            return dataset
    names = ", ".join(dataset.name for dataset in known)
    raise InputError(f"--dataset {name} is not known: choose one of {names}")


def local_text(dataset: PaperDataset, corpora: Path) -> Path:
    """The one file or folder in `corpora` that is called by the dataset's key or domain.

    Any supported kind will do: pubmed.jsonl.gz, legal/. Raises InputError where there is none, or
    more than one.
    """
    wanted = (dataset.key, dataset.domain)
    names = f"{dataset.key} or {dataset.domain} (.jsonl.gz, .txt, a folder, ...)"
    if not corpora.is_dir():
        raise InputError(f"--corpora {corpora} is no folder: give one that holds {names}")
    found = sorted(path for path in corpora.iterdir() if _stem(path) in wanted)
    if not found:
        raise InputError(
            f"--corpora {corpora} holds no text for {dataset.name}: put a file or folder called "
            f"{names} there"
        )
    if len(found) > 1:
        raise InputError(
            f"--corpora {corpora} holds {', '.join(path.name for path in found)} for "
            f"{dataset.name}: leave one of them"
        )
    # A folder with nothing to read is better known now than after the reference is tuned.
    Sources([str(found[0])])
    return found[0]


def _stem(path: Path) -> str | None:
    """The name of a folder, or of a file without its ending; None where that is not supported."""
    name = path.name.lower()
    if path.is_dir():
        return name
    ending = supported_ending(name)
    return None if ending is None else name.removesuffix(".gz").removesuffix(ending)


def hub_sample(
    dataset: PaperDataset, tokenizer: "PreTrainedTokenizerBase", tokens: int, cache: Path
) -> Path:
    """A fair sample of `tokens` tokens, or up to a document more, as JSON lines in `cache`.

    It is streamed unless it lies there already, under a name of all that decides it. Raises
    InputError where the dataset cannot be reached.
    """
    origin = [dataset.path, dataset.files, dataset.text_field, tokenizer_identity(tokenizer)]
    key = json.dumps([*origin, tokens, SEED, PORTION, LONGEST])
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    path = cache / f"{dataset.key}-{digest}.jsonl.gz"
    if path.exists():
        return path
    with (
        replacing(path) as temporary,
        gzip.open(temporary, "wt", encoding="utf-8") as file,
        tqdm(
            total=tokens,
            desc=f"streaming {dataset.name}",
            unit="token",
            unit_scale=True,
            leave=False,
            disable=None,
        ) as bar,
    ):
        for document, count in _streamed(dataset, tokenizer, tokens):
            row = {"text": document.text, "source": document.source}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            bar.update(count)
    return path


def _streamed(
    dataset: PaperDataset, tokenizer: "PreTrainedTokenizerBase", tokens: int
) -> Iterator[tuple[Document, int]]:
    pattern = f"{dataset.path}/{dataset.files}"
    try:
        yield from sampled_documents(pattern, dataset.text_field, tokenizer, tokens)
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{dataset.name} could not be streamed ({reason[:300]}): this needs a network "
            f"connection once, or pass --corpora DIR that holds {dataset.key}.jsonl.gz or the like"
        ) from error
