"""Byte-level BPE: learnt by our own trainer, saved as a Hugging Face `tokenizer.json`, encoded through tiktoken."""

from sllm.tokenizer.codec import Tokenizer

__all__ = ["Tokenizer"]
