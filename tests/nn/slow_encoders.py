"""The encoders written a second time, slowly: one token, one head, one number at a time.

They follow the encoders' papers, not the vectorised code: no masks (what may not be seen is never
in the sequence), no batch, no attention kernel. They read the weights of ``encoder.model`` and
call none of its methods.
"""

import math

import torch
from torch import Tensor


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


def attend(query: Tensor, keys: list[Tensor], values: list[Tensor], num_heads: int) -> Tensor:
    """Softmax attention of one query over all keys, head by head."""
    size = len(query) // num_heads
    heads = []
    for head in range(num_heads):
        part = slice(head * size, (head + 1) * size)
        scores = [float(query[part] @ key[part]) / math.sqrt(size) for key in keys]
        heads.append(weighted_sum(scores, [value[part] for value in values]))
    return torch.cat(heads)


def patches(image: Tensor, kernel: Tensor) -> list[Tensor]:
    """Row by row."""
    size, tokens = kernel.shape[-1], []
    for row in range(0, image.shape[1], size):
        for column in range(0, image.shape[2], size):
            patch = image[:, row : row + size, column : column + size]
            tokens.append(torch.stack([(k * patch).sum() for k in kernel]))
    return tokens


class SlowEncoder:
    """A layer in two halves, so that keys and values may come from elsewhere than queries."""

    causal = False
    num_prefix = 0
    pooled_position = 0

    def __init__(self, encoder) -> None:
        self.model, self.pools_mean = encoder.model, encoder.pooling == "mean"
        self.layers, self.heads = self.stack()
        self.depth = len(self.layers)

    def layer(self, index: int, tokens: list[Tensor], prompts=()):
        """Outputs of the tokens and of the prompts that go through the layer with them."""
        inputs = [*tokens, *prompts]
        queries, keys, values = self.project(index, inputs)
        attended = []
        for at, query in enumerate(queries):
            seen = list(range(len(inputs)))
            if self.causal and at < len(tokens):  # every prompt, and no later token
                seen = [i for i in seen if i <= at or i >= len(tokens)]
            chosen = [keys[i] for i in seen], [values[i] for i in seen]
            attended.append(attend(query, *chosen, self.heads))
        outputs = self.finish(index, inputs, attended)
        return outputs[: len(tokens)], outputs[len(tokens) :]

    def read(self, index: int, tokens: list[Tensor], stream: list[Tensor]) -> list[Tensor]:
        """Outputs of a stream that reads the tokens and itself."""
        _, keys, values = self.project(index, tokens)
        queries, own_keys, own_values = self.project(index, stream)
        seen = keys + own_keys, values + own_values
        return self.finish(index, stream, [attend(q, *seen, self.heads) for q in queries])

    def last_norm(self, token: Tensor) -> Tensor:
        return token

    def mean(self, tokens: list[Tensor]) -> Tensor:
        return mean([self.last_norm(x) for x in tokens])

    def pooled(self, tokens: list[Tensor]) -> Tensor | None:
        if not tokens:
            return None
        if self.pools_mean:
            return self.mean(tokens[self.num_prefix :])
        return self.last_norm(tokens[self.pooled_position])


class SlowViT(SlowEncoder):
    """Pre-norm: x + Attention(LN(x)), then x + MLP(LN(x))."""

    num_prefix = 1

    def stack(self):
        return self.model.blocks, self.model.blocks[0].attn.num_heads

    def embed(self, image):
        projection = self.model.patch_embed.proj
        tokens = [x + projection.bias for x in patches(image, projection.weight)]
        tokens = [self.model.cls_token[0, 0], *tokens]
        return [x + position for x, position in zip(tokens, self.model.pos_embed[0], strict=True)]

    def project(self, index, tokens):
        block = self.layers[index]
        joined = [linear(layer_norm(x, block.norm1), block.attn.qkv).chunk(3) for x in tokens]
        return tuple([parts[i] for parts in joined] for i in range(3))

    def finish(self, index, tokens, attended):
        block = self.layers[index]
        tokens = [x + linear(a, block.attn.proj) for x, a in zip(tokens, attended, strict=True)]
        hidden = [gelu(linear(layer_norm(x, block.norm2), block.mlp.fc1)) for x in tokens]
        return [x + linear(y, block.mlp.fc2) for x, y in zip(tokens, hidden, strict=True)]

    def last_norm(self, token):
        return layer_norm(token, self.model.norm)


class SlowBERT(SlowEncoder):
    """Post-norm: LN(x + Attention(x)), then LN(x + MLP(x))."""

    def stack(self):
        return self.model.encoder.layer, self.model.config.num_attention_heads

    def embed(self, ids):
        parts = self.model.embeddings
        words, positions = parts.word_embeddings.weight, parts.position_embeddings.weight
        kind = parts.token_type_embeddings.weight[0]
        return [
            layer_norm(words[token] + positions[at] + kind, parts.LayerNorm)
            for at, token in enumerate(ids.tolist())
        ]

    def project(self, index, tokens):
        own = self.layers[index].attention.self
        return tuple([linear(x, part) for x in tokens] for part in (own.query, own.key, own.value))

    def finish(self, index, tokens, attended):
        layer = self.layers[index]

        def add(part, x, output):
            return layer_norm(x + linear(output, part.dense), part.LayerNorm)

        pairs = zip(tokens, attended, strict=True)
        tokens = [add(layer.attention.output, *pair) for pair in pairs]
        return [add(layer.output, x, gelu(linear(x, layer.intermediate.dense))) for x in tokens]


class SlowCLIP(SlowEncoder):
    """Pre-norm, with x * sigmoid(1.702 x) in the MLP."""

    def stack(self):
        layers = self.model.encoder.layers
        return layers, layers[0].self_attn.num_heads

    def project(self, index, tokens):
        layer = self.layers[index]
        own, normed = layer.self_attn, [layer_norm(x, layer.layer_norm1) for x in tokens]
        parts = (own.q_proj, own.k_proj, own.v_proj)
        return tuple([linear(x, part) for x in normed] for part in parts)

    def finish(self, index, tokens, attended):
        layer = self.layers[index]
        out, mlp = layer.self_attn.out_proj, layer.mlp
        tokens = [x + linear(a, out) for x, a in zip(tokens, attended, strict=True)]
        hidden = [linear(layer_norm(x, layer.layer_norm2), mlp.fc1) for x in tokens]
        hidden = [x * torch.sigmoid(1.702 * x) for x in hidden]
        return [x + linear(y, mlp.fc2) for x, y in zip(tokens, hidden, strict=True)]


class SlowCLIPImage(SlowCLIP):
    num_prefix = 1

    def embed(self, image):
        parts = self.model.embeddings
        tokens = [parts.class_embedding, *patches(image, parts.patch_embedding.weight)]
        return [
            layer_norm(x + position, self.model.pre_layrnorm)
            for x, position in zip(tokens, parts.position_embedding.weight, strict=True)
        ]

    def last_norm(self, token):
        return layer_norm(token, self.model.post_layernorm)

    def mean(self, tokens):
        return self.last_norm(mean(tokens))


class SlowCLIPText(SlowCLIP):
    causal = True
    pooled_position = -1

    def embed(self, ids):
        parts = self.model.embeddings
        words, positions = parts.token_embedding.weight, parts.position_embedding.weight
        return [words[token] + positions[at] for at, token in enumerate(ids.tolist())]

    def last_norm(self, token):
        return layer_norm(token, self.model.final_layer_norm)


def slow_encoders(model) -> list[SlowEncoder]:
    """Those of the image and of the text."""
    kinds = {
        "VisionTransformer": SlowViT,
        "BertModel": SlowBERT,
        "CLIPVisionModel": SlowCLIPImage,
        "CLIPTextModel": SlowCLIPText,
    }
    return [kinds[type(e.model).__name__](e) for e in (model.image_encoder, model.text_encoder)]


def samples(batch):
    """Each row's image and ids, without pads; None where the modality is missing."""
    for i, ids in enumerate(batch["input_ids"]):
        inputs = [batch["pixel_values"][i], ids[batch["attention_mask"][i].bool()]]
        for side, key in enumerate(("image_present", "text_present")):
            if key in batch and not batch[key][i]:
                inputs[side] = None
        yield inputs
