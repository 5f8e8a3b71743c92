"""Encoders for one sample at a time, by the libraries' own layers.

Prompts are more tokens of one sequence without padding, so nothing but causality needs a mask.
Embeddings and poolings are the package's, which test_encoder_layers.py has.
"""

import math

import torch
from torch import Tensor, nn


def mean(vectors: list[Tensor]) -> Tensor | None:
    return sum(vectors) / len(vectors) if vectors else None


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / max(1e-12, float(a.norm()) * float(b.norm()))


def weighted_sum(scores: list[float], values: list[Tensor]) -> Tensor:
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    return sum(w / sum(weights) * value for w, value in zip(weights, values, strict=True))


def linear(x: Tensor, layer) -> Tensor:
    y = layer.weight @ x
    return y if layer.bias is None else y + layer.bias


def layer_norm(x: Tensor, norm) -> Tensor:
    centred = x - x.mean()
    scaled = centred / torch.sqrt((centred**2).mean() + norm.eps)
    return scaled if norm.weight is None else scaled * norm.weight + norm.bias


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


class SlowEncoder:
    """Tokens and prompts as lists of vectors."""

    def __init__(self, encoder) -> None:
        self.encoder, self.depth = encoder, encoder.num_layers
        self.num_prefix, self.causal = encoder.num_prefix_tokens, getattr(encoder, "causal", False)
        parts = encoder.model.modules()
        self.layers = getattr(encoder.model, "blocks", None) or next(
            part for part in parts if isinstance(part, nn.ModuleList) and len(part) == self.depth
        )

    def embed(self, inputs: Tensor) -> list[Tensor]:
        return list(self.encoder.embed(inputs[None])[0])

    def layer(self, index: int, tokens: list[Tensor], prompts=()):
        """Outputs of the tokens and of the prompts that go through the layer with them."""
        inputs = [*tokens, *prompts]
        if not inputs:
            return [], []
        seen = torch.ones(len(inputs), len(inputs), dtype=torch.bool)
        if self.causal:  # every prompt, and no later token
            seen[: len(tokens), : len(tokens)].tril_()
        name = "attn_mask" if hasattr(self.encoder.model, "blocks") else "attention_mask"
        outputs = self.layers[index](torch.stack(inputs)[None], **{name: seen[None, None]})[0]
        return list(outputs[: len(tokens)]), list(outputs[len(tokens) :])

    def read(self, index: int, tokens: list[Tensor], stream: list[Tensor]) -> list[Tensor]:
        """Outputs of a stream that reads the tokens and itself: what they see is another matter."""
        return self.layer(index, tokens, stream)[1]

    def weights(self, index: int, tokens: list[Tensor], stream: list[Tensor]) -> Tensor:
        """``(n, N + n)``: softmax of each query of the stream with each key, head by head."""
        seen = {}
        for name, part in self.layers[index].named_modules():
            kind = name.rpartition(".")[2]
            if kind in ("qkv", "query", "key", "q_proj", "k_proj"):
                hook = lambda _, __, output, kind=kind[0]: seen.update({kind: output[0]})  # noqa: E731
                part.register_forward_hook(hook)
        self.layer(index, tokens, stream)
        if len(seen) == 1:  # one matrix for queries, keys and values
            seen["q"], seen["k"], _ = seen["q"].chunk(3, dim=-1)
        heads = getattr(self.encoder.model, "config", None)
        heads = heads.num_attention_heads if heads else self.layers[index].attn.num_heads
        rows = []
        for query in seen["q"][len(tokens) :]:
            shares = []
            for q, k in zip(query.chunk(heads), seen["k"].chunk(heads, dim=-1), strict=True):
                exps = [math.exp(float(q @ key) / math.sqrt(len(q))) for key in k]
                shares.append(torch.tensor([e / sum(exps) for e in exps], dtype=torch.float64))
            rows.append(sum(shares) / heads)
        return torch.stack(rows)

    def pooled(self, tokens: list[Tensor]) -> Tensor | None:
        return self.encoder.pool(torch.stack(tokens)[None])[0] if tokens else None


def slow_encoders(model) -> list[SlowEncoder]:
    """Those of the image and of the text."""
    return [SlowEncoder(encoder) for encoder in (model.image_encoder, model.text_encoder)]


def samples(batch):
    """Each row's image and ids, without pads; None where the modality is missing."""
    for i, ids in enumerate(batch["input_ids"]):
        inputs = [batch["pixel_values"][i], ids[batch["attention_mask"][i].bool()]]
        for side, key in enumerate(("image_present", "text_present")):
            if key in batch and not batch[key][i]:
                inputs[side] = None
        yield inputs
