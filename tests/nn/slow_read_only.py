"""Read-only prompts written a second time, slowly, in the manner of `slow_epic`.

Prompts are taken through each layer one by one: queries from themselves, keys and values from the
frozen tokens and themselves.
"""

import torch
from slow_epic import (
    attend,
    bert_embedding,
    entering_prompts,
    gelu,
    head_logits,
    layer_norm,
    linear,
    mean,
    vit_embedding,
)
from torch import Tensor


@torch.no_grad()
def logits(model, batch) -> Tensor:
    return torch.stack([_sample_logits(model, batch, i) for i in range(len(batch["input_ids"]))])


def _sample_logits(model, batch, i: int) -> Tensor:
    config = model.config
    has_image = bool(batch["image_present"][i]) if "image_present" in batch else True
    has_text = bool(batch["text_present"][i]) if "text_present" in batch else True
    real = batch["attention_mask"][i].bool()
    image, text = slow_encoder(model.image_encoder), slow_encoder(model.text_encoder)
    k = config.interaction_layers
    pairs = (
        k if isinstance(k, list) else [(image.depth - j, text.depth - j) for j in range(k, 0, -1)]
    )
    streams = [
        Stream(image, batch["pixel_values"][i] if has_image else None, [pair[0] for pair in pairs]),
        Stream(
            text, batch["input_ids"][i][real] if has_text else None, [pair[1] for pair in pairs]
        ),
    ]
    z_image: list[Tensor] = []
    z_text: list[Tensor] = []
    for step in range(len(pairs)):
        p_image, p_text = entering_prompts(
            model, step, z_image, z_text, has_image=has_image, has_text=has_text
        )
        z_image, z_text = streams[0].acquire(step, p_image), streams[1].acquire(step, p_text)
    pooled = [stream.pooled() if stream.here else None for stream in streams]
    means = [[mean(s.entering_step(step)) for step in range(len(pairs))] for s in streams]
    return head_logits(model, pooled, means, [z_image, z_text])


class Stream:
    """The frozen tokens of one modality entering every layer."""

    def __init__(self, encoder, inputs, layers: list[int]) -> None:
        self.encoder, self.layers, self.here = encoder, layers, inputs is not None
        self.entering = [encoder.embed(inputs) if self.here else []]
        for layer in range(encoder.depth):
            self.entering.append(encoder.layer(layer, self.entering[-1]))

    def acquire(self, step: int, prompts: list[Tensor]) -> list[Tensor]:
        layer = self.layers[step]
        return self.encoder.read(layer, self.entering[layer], prompts)

    def entering_step(self, step: int) -> list[Tensor]:
        """What enters an interaction layer, an image's class token left out."""
        return self.entering[self.layers[step]][self.encoder.num_prefix :]

    def pooled(self) -> Tensor:
        at = self.encoder.summary_position
        if at is not None:
            return self.encoder.last_norm(self.entering[-1][at])
        return self.encoder.mean(self.entering[-1])


class _Slow:
    """A layer in two halves, so that keys and values may come from elsewhere than queries."""

    causal = False
    num_prefix = 0

    def layer(self, index: int, tokens: list[Tensor]) -> list[Tensor]:
        queries, keys, values = self.project(index, tokens)
        if not self.causal:
            return self.finish(index, tokens, attend(queries, keys, values, self.heads))
        attended = [
            attend([query], keys[: at + 1], values[: at + 1], self.heads)[0]
            for at, query in enumerate(queries)
        ]
        return self.finish(index, tokens, attended)

    def read(self, index: int, tokens: list[Tensor], stream: list[Tensor]) -> list[Tensor]:
        _, keys, values = self.project(index, tokens)
        queries, own_keys, own_values = self.project(index, stream)
        attended = attend(queries, keys + own_keys, values + own_values, self.heads)
        return self.finish(index, stream, attended)


class SlowViT(_Slow):
    num_prefix = 1

    def __init__(self, encoder) -> None:
        self.vit = encoder.model
        self.depth, self.heads = len(self.vit.blocks), self.vit.blocks[0].attn.num_heads
        self.summary_position = None if encoder.pooling == "mean" else 0

    def embed(self, picture):
        return vit_embedding(self.vit, picture)

    def project(self, index, tokens):
        block = self.vit.blocks[index]
        joined = [linear(layer_norm(x, block.norm1), block.attn.qkv).chunk(3) for x in tokens]
        return tuple([parts[i] for parts in joined] for i in range(3))

    def finish(self, index, tokens, attended):
        block = self.vit.blocks[index]
        tokens = [x + linear(a, block.attn.proj) for x, a in zip(tokens, attended, strict=True)]
        return [
            x + linear(gelu(linear(layer_norm(x, block.norm2), block.mlp.fc1)), block.mlp.fc2)
            for x in tokens
        ]

    def last_norm(self, token):
        return layer_norm(token, self.vit.norm)

    def mean(self, tokens):
        return sum(layer_norm(x, self.vit.norm) for x in tokens[1:]) / (len(tokens) - 1)


class SlowBERT(_Slow):
    def __init__(self, encoder) -> None:
        self.bert = encoder.model
        self.depth = len(self.bert.encoder.layer)
        self.heads = self.bert.config.num_attention_heads
        self.summary_position = None if encoder.pooling == "mean" else 0

    def embed(self, ids):
        return bert_embedding(self.bert, [int(x) for x in ids])

    def project(self, index, tokens):
        own = self.bert.encoder.layer[index].attention.self
        return tuple([linear(x, part) for x in tokens] for part in (own.query, own.key, own.value))

    def finish(self, index, tokens, attended):
        layer = self.bert.encoder.layer[index]
        out = layer.attention.output
        tokens = [
            layer_norm(x + linear(a, out.dense), out.LayerNorm)
            for x, a in zip(tokens, attended, strict=True)
        ]
        return [
            layer_norm(
                x + linear(gelu(linear(x, layer.intermediate.dense)), layer.output.dense),
                layer.output.LayerNorm,
            )
            for x in tokens
        ]

    def last_norm(self, token):
        return token

    def mean(self, tokens):
        return sum(tokens) / len(tokens)


class _SlowCLIP(_Slow):
    def __init__(self, encoder) -> None:
        self.clip = encoder.model
        self.depth = len(self.clip.encoder.layers)
        self.heads = self.clip.encoder.layers[0].self_attn.num_heads

    def project(self, index, tokens):
        layer = self.clip.encoder.layers[index]
        own, normed = layer.self_attn, [layer_norm(x, layer.layer_norm1) for x in tokens]
        parts = (own.q_proj, own.k_proj, own.v_proj)
        return tuple([linear(x, part) for x in normed] for part in parts)

    def finish(self, index, tokens, attended):
        layer = self.clip.encoder.layers[index]
        out, mlp = layer.self_attn.out_proj, layer.mlp
        tokens = [x + linear(a, out) for x, a in zip(tokens, attended, strict=True)]
        hidden = [linear(layer_norm(x, layer.layer_norm2), mlp.fc1) for x in tokens]
        hidden = [x * torch.sigmoid(1.702 * x) for x in hidden]
        return [x + linear(y, mlp.fc2) for x, y in zip(tokens, hidden, strict=True)]


class SlowCLIPImage(_SlowCLIP):
    num_prefix = 1

    def __init__(self, encoder) -> None:
        super().__init__(encoder)
        self.summary_position = None if encoder.pooling == "mean" else 0

    def embed(self, picture):
        parts = self.clip.embeddings
        kernel = parts.patch_embedding.weight
        size, tokens = kernel.shape[-1], [parts.class_embedding]
        for row in range(0, picture.shape[1], size):
            for column in range(0, picture.shape[2], size):
                patch = picture[:, row : row + size, column : column + size]
                tokens.append(torch.stack([(k * patch).sum() for k in kernel]))
        positions = parts.position_embedding.weight
        return [
            layer_norm(x + position, self.clip.pre_layrnorm)
            for x, position in zip(tokens, positions, strict=True)
        ]

    def last_norm(self, token):
        return layer_norm(token, self.clip.post_layernorm)

    def mean(self, tokens):
        return self.last_norm(sum(tokens[1:]) / (len(tokens) - 1))


class SlowCLIPText(_SlowCLIP):
    causal = True

    def __init__(self, encoder) -> None:
        super().__init__(encoder)
        self.summary_position = None if encoder.pooling == "mean" else -1

    def embed(self, ids):
        parts = self.clip.embeddings
        words, positions = parts.token_embedding.weight, parts.position_embedding.weight
        return [words[int(x)] + positions[at] for at, x in enumerate(ids)]

    def last_norm(self, token):
        return layer_norm(token, self.clip.final_layer_norm)

    def mean(self, tokens):
        return sum(self.last_norm(x) for x in tokens) / len(tokens)


def slow_encoder(encoder) -> _Slow:
    kinds = {
        "TimmViTEncoder": SlowViT,
        "HFTextEncoder": SlowBERT,
        "CLIPImageEncoder": SlowCLIPImage,
        "CLIPTextEncoder": SlowCLIPText,
    }
    return kinds[type(encoder).__name__](encoder)
