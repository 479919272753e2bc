"""Text to training data: documents, token ids, splits, packed sequences."""

from minifinetuning.data.corpus import Corpus, CorpusSummary
from minifinetuning.data.documents import Document, DocumentStream
from minifinetuning.data.packing import Marks, PackedSequences, pack_documents
from minifinetuning.data.reading import corpus_from_sources, read_corpus
from minifinetuning.data.splits import NOTHING, HeldOut, Split, split_documents
from minifinetuning.data.tokens import TokenizedDocument, token_count, tokenize_documents

__all__ = [
    "NOTHING",
    "Corpus",
    "CorpusSummary",
    "Document",
    "DocumentStream",
    "HeldOut",
    "Marks",
    "PackedSequences",
    "Split",
    "TokenizedDocument",
    "corpus_from_sources",
    "pack_documents",
    "read_corpus",
    "split_documents",
    "token_count",
    "tokenize_documents",
]
