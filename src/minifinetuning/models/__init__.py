"""Causal language models of transformers: loading, their parts, adapters."""
