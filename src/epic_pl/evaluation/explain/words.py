"""Attention on tokens as attention on words. Shape legend: N tokens, n prompts, W words."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Word(NamedTuple):
    """A word as the text has it, or a token that is in no word, and where its tokens stand."""

    text: str
    positions: list[int]


def words_of(tokens: Any, tokenizer: Any, text: str) -> list[Word]:
    """The words of a text.

    Args:
        tokens: what the tokenizer made of a batch of this one text.
        tokenizer: asked for the names of tokens.
        text: the text itself.
    """
    names = tokenizer.convert_ids_to_tokens(tokens["input_ids"][0].tolist())
    if not getattr(tokens, "is_fast", False):  # knows nothing of words
        return [Word(name, [at]) for at, name in enumerate(names)]
    words: list[Word] = []
    before = None
    for at, (name, word) in enumerate(zip(names, tokens.word_ids(0), strict=True)):
        if word is not None and word == before:
            words[-1].positions.append(at)
        else:
            span = None if word is None else tokens.word_to_chars(0, word)
            written = "" if span is None else text[span.start : span.end].strip()
            words.append(Word(written or name, [at]))
        before = word
    return words


def on_words(weights: Tensor, words: Sequence[Word]) -> Tensor:
    """``(n, N)`` on tokens to ``(n, W)``: the sum over each word's tokens."""
    sums = [weights[:, word.positions].sum(dim=1) for word in words]
    return torch.stack(sums, dim=1) if sums else weights.new_zeros(len(weights), 0)
