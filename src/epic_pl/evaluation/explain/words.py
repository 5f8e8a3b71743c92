"""Attention on tokens as attention on words. Shape legend: N tokens, n prompts, W words."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Word(NamedTuple):
    """A word of a text, or a token outside of words, and the positions of its tokens."""

    text: str
    positions: list[int]


def words_of(tokens: Any, tokenizer: Any, text: str) -> list[Word]:
    """Words of a text, of which ``tokens`` are the tokenizer's output for a batch of it alone."""
    names = tokenizer.convert_ids_to_tokens(tokens["input_ids"][0].tolist())
    if not getattr(tokens, "is_fast", False):  # does not know words
        return [Word(name, [position]) for position, name in enumerate(names)]
    words: list[Word] = []
    previous = None
    for position, (name, index) in enumerate(zip(names, tokens.word_ids(0), strict=True)):
        if index is not None and index == previous:
            words[-1].positions.append(position)
        else:
            span = None if index is None else tokens.word_to_chars(0, index)
            written = "" if span is None else text[span.start : span.end].strip()
            words.append(Word(written or name, [position]))
        previous = index
    return words


def on_words(weights: Tensor, words: Sequence[Word]) -> Tensor:
    """Sum weights ``(n, N)`` on tokens over the tokens of each word, to ``(n, W)``."""
    sums = [weights[:, word.positions].sum(dim=1) for word in words]
    return torch.stack(sums, dim=1) if sums else weights.new_zeros(len(weights), 0)
