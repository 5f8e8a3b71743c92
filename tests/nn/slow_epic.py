"""EPIC written a second time, slowly: one sample, one prompt, one head, one number at a time.

Follows the equations of docs/method.md and the encoders' papers, not the vectorised code: no masks
(what may not be seen is never in the sequence), no batch, no attention kernel. It reads the
weights of ``model`` and calls none of its methods, nor those of the encoders.
"""

import math

import torch
from torch import Tensor


@torch.no_grad()
def logits(model, batch) -> Tensor:
    return torch.stack([_sample_logits(model, batch, i) for i in range(len(batch["input_ids"]))])


def _sample_logits(model, batch, i: int) -> Tensor:
    config, vit, bert = model.config, model.image_encoder.model, model.text_encoder.model
    has_image = bool(batch["image_present"][i]) if "image_present" in batch else True
    has_text = bool(batch["text_present"][i]) if "text_present" in batch else True
    image = vit_embedding(vit, batch["pixel_values"][i]) if has_image else []
    ids = [
        int(x)
        for x, real in zip(batch["input_ids"][i], batch["attention_mask"][i], strict=True)
        if real
    ]
    text = bert_embedding(bert, ids) if has_text else []

    if isinstance(config.interaction_layers, int):
        k = config.interaction_layers
        pairs = [(len(vit.blocks) - j, len(bert.encoder.layer) - j) for j in range(k, 0, -1)]
    else:
        pairs = [tuple(pair) for pair in config.interaction_layers]
    image_steps = {layers[0]: step for step, layers in enumerate(pairs)}
    text_steps = {layers[1]: step for step, layers in enumerate(pairs)}

    at_image = at_text = 0
    z_image: list[Tensor] = []
    z_text: list[Tensor] = []
    entering = []
    for step in range(len(pairs)):
        p_image, p_text = entering_prompts(
            model, step, z_image, z_text, has_image=has_image, has_text=has_text
        )
        while at_image not in image_steps or image_steps[at_image] != step:
            image = vit_layer(vit, at_image, image)
            at_image += 1
        while at_text not in text_steps or text_steps[at_text] != step:
            text = bert_layer(bert, at_text, text)
            at_text += 1
        entering.append([image[1:], text])  # patches, and words with what stands around them
        joint_image = vit_layer(vit, at_image, image + p_image)
        joint_text = bert_layer(bert, at_text, text + p_text)
        image, z_image = joint_image[: len(image)], joint_image[len(image) :]
        text, z_text = joint_text[: len(text)], joint_text[len(text) :]
        at_image, at_text = at_image + 1, at_text + 1
    for layer in range(at_image, len(vit.blocks)):
        image = vit_layer(vit, layer, image)
    for layer in range(at_text, len(bert.encoder.layer)):
        text = bert_layer(bert, layer, text)

    pooled = [layer_norm(image[0], vit.norm) if image else None, text[0] if text else None]
    means = [[mean(step[side]) for step in entering] for side in (0, 1)]
    return head_logits(model, pooled, means, [z_image, z_text])


def mean(vectors: list[Tensor]) -> Tensor | None:
    return sum(vectors) / len(vectors) if vectors else None


def head_logits(model, pooled, means, prompts) -> Tensor:
    """Of what is pooled of each modality, None where it is missing, and of the last prompts.

    ``means`` are those of the tokens that enter each step's layer.
    """
    head = model.head
    h = []
    for part, output, entering, z in zip(
        (head.image, head.text), pooled, means, prompts, strict=True
    ):
        if output is None:
            features = part.missing
        else:
            vectors = [output, entering[0]] if part.boundary else [output]
            features = standardised_over_samples(torch.cat(vectors), part.encoder)
        if part.prompts is not None:
            features = torch.cat([features, standardised_over_samples(mean(z), part.prompts)])
        h.append(features)
    logits = linear(torch.cat(h), head.classifier)
    here = [output is not None for output in pooled]
    if head.similarity is not None and all(here):
        own = head.similarity
        a = linear(h[0], own.down_image), linear(h[1], own.down_text)
        tau = math.exp(float(own.cosine.log_temperature))
        logits = logits + own.linear.weight[:, 0] * cosine(*a) / tau
    if head.unimodal is not None and sum(here) == 1:
        side, own = here.index(True), head.unimodal
        layer = (own.linear_image, own.linear_text)[side]
        scale = (own.standardize_image, own.standardize_text)[side]
        seen = standardised_over_samples(torch.cat(means[side]), scale)
        logits = logits + linear(torch.cat([h[side], seen]), layer)
    return logits


def standardised_over_samples(x: Tensor, statistics) -> Tensor:
    return (x - statistics.mean) / torch.sqrt(statistics.variance + 1e-6)


def entering_prompts(model, step, z_image, z_text, *, has_image, has_text):
    """``P_v^k`` and ``P_t^k`` as lists of vectors; ``step`` = k - 1."""
    config, prompts = model.config, model.prompts
    if step == 0:
        text = list(prompts.first_text)
        if config.first_prompt == "from_text":
            return [linear(p, prompts.coupling) for p in text], text
        return list(prompts.first_image), text
    consolidated = z_image, z_text
    if config.hub != "none":
        hub = model.hubs[0 if config.hub == "parameter_free" else step - 1]
        consolidated = consolidate(hub, z_image, z_text, has_image=has_image, has_text=has_text)
    if config.generation == "linear":
        maps = prompts.map_image, prompts.map_text
        return [[linear(c, g) for c in each] for each, g in zip(consolidated, maps, strict=True)]
    offsets = prompts.offsets_image[step - 1], prompts.offsets_text[step - 1]
    return [
        [c + e for c, e in zip(each, own, strict=True)]
        for each, own in zip(consolidated, offsets, strict=True)
    ]


def consolidate(hub, z_image, z_text, *, has_image=True, has_text=True):
    """Prompt by prompt; the message from a missing modality is zero."""
    tau = math.exp(float(hub.similarity.log_temperature))
    free = not hasattr(hub, "up_image")
    if free:
        w = None if hub.shared is None else hub.shared.weight  # (d_v, d_t)
        a_image, a_text = z_image, z_text if w is None else [w @ z for z in z_text]
    else:
        a_image = [linear(layer_norm(z, hub.norm_image), hub.down_image) for z in z_image]
        a_text = [linear(layer_norm(z, hub.norm_text), hub.down_text) for z in z_text]

    def to_image(message: Tensor) -> Tensor:
        return message if free else linear(gelu(message), hub.up_image)

    def to_text(message: Tensor) -> Tensor:
        if not free:
            return linear(gelu(message), hub.up_text)
        return message if w is None else w.T @ message

    c_image = [
        z + to_image(_message(a, a_text, tau)) if has_text else z
        for z, a in zip(z_image, a_image, strict=True)
    ]
    c_text = [
        z + to_text(_message(a, a_image, tau)) if has_image else z
        for z, a in zip(z_text, a_text, strict=True)
    ]
    return c_image, c_text


def _message(own: Tensor, others: list[Tensor], tau: float) -> Tensor:
    return weighted_sum([cosine(own, a) / tau for a in others], others)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / (float(a.norm()) * float(b.norm()))


def weighted_sum(scores: list[float], values: list[Tensor]) -> Tensor:
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    return sum(w / sum(weights) * value for w, value in zip(weights, values, strict=True))


def linear(x: Tensor, layer) -> Tensor:
    y = layer.weight @ x
    return y if layer.bias is None else y + layer.bias


def layer_norm(x: Tensor, norm) -> Tensor:
    return standardised(x, norm.eps) * norm.weight + norm.bias


def standardised(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean()
    return centred / torch.sqrt((centred**2).mean() + eps)


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def attend(queries, keys, values, num_heads: int) -> list[Tensor]:
    """Softmax attention of every query over all keys, head by head."""
    size = len(queries[0]) // num_heads if queries else 0
    outputs = []
    for q in queries:
        heads = []
        for head in range(num_heads):
            part = slice(head * size, (head + 1) * size)
            scores = [float(q[part] @ k[part]) / math.sqrt(size) for k in keys]
            heads.append(weighted_sum(scores, [v[part] for v in values]))
        outputs.append(torch.cat(heads))
    return outputs


def vit_embedding(vit, picture: Tensor) -> list[Tensor]:
    """Class token, then the patches row by row, each plus its position."""
    kernel, bias = vit.patch_embed.proj.weight, vit.patch_embed.proj.bias
    size = kernel.shape[-1]
    tokens = [vit.cls_token[0, 0]]
    for row in range(0, picture.shape[1], size):
        for column in range(0, picture.shape[2], size):
            patch = picture[:, row : row + size, column : column + size]
            tokens.append(torch.stack([(k * patch).sum() for k in kernel]) + bias)
    return [token + position for token, position in zip(tokens, vit.pos_embed[0], strict=True)]


def vit_layer(vit, index: int, tokens: list[Tensor]) -> list[Tensor]:
    """Pre-norm: x + Attention(LN(x)), then x + MLP(LN(x))."""
    block = vit.blocks[index]
    joined = [linear(layer_norm(x, block.norm1), block.attn.qkv) for x in tokens]
    width = len(tokens[0]) if tokens else 0
    queries, keys, values = ([x[i * width : (i + 1) * width] for x in joined] for i in range(3))
    attended = attend(queries, keys, values, block.attn.num_heads)
    tokens = [x + linear(a, block.attn.proj) for x, a in zip(tokens, attended, strict=True)]
    return [
        x + linear(gelu(linear(layer_norm(x, block.norm2), block.mlp.fc1)), block.mlp.fc2)
        for x in tokens
    ]


def bert_embedding(bert, ids: list[int]) -> list[Tensor]:
    parts = bert.embeddings
    return [
        layer_norm(
            parts.word_embeddings.weight[token]
            + parts.position_embeddings.weight[position]
            + parts.token_type_embeddings.weight[0],
            parts.LayerNorm,
        )
        for position, token in enumerate(ids)
    ]


def bert_layer(bert, index: int, tokens: list[Tensor]) -> list[Tensor]:
    """Post-norm: LN(x + Attention(x)), then LN(x + MLP(x))."""
    layer = bert.encoder.layer[index]
    own, out = layer.attention.self, layer.attention.output
    queries, keys, values = (
        [linear(x, part) for x in tokens] for part in (own.query, own.key, own.value)
    )
    attended = attend(queries, keys, values, bert.config.num_attention_heads)
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
