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
    prompts = prompt_means(model, z_image, z_text)
    h = summaries(model, pooled, entering) + prompts
    logits = head_logits(model, h)
    if has_image and has_text:
        return logits + agreement_logits(model, h, z_image, z_text)
    return logits + alone_logits(model, pooled, entering, prompts, side=0 if has_image else 1)


def summaries(
    model, pooled: list[Tensor | None], entering: list[list[list[Tensor]]]
) -> list[Tensor]:
    """Both pooled, then both means of what enters each step's layers; or stand-ins."""
    entering = entering[: means_seen(model, len(entering))]
    absent = [v.chunk(1 + len(entering)) for v in (model.absent_image, model.absent_text)]
    vectors = [own[0] if a is None else a for a, own in zip(pooled, absent, strict=True)]
    for step, tokens in enumerate(entering, 1):
        for x, own in zip(tokens, absent, strict=True):
            vectors.append(sum(x) / len(x) if x else own[step])
    return vectors


def means_seen(model, steps: int) -> int:
    return {"boundary": 1, "layers": steps}.get(
        model.config.head_inputs.removeprefix("pooled+").removesuffix("+prompts"), 0
    )


def prompt_means(model, z_image: list[Tensor], z_text: list[Tensor]) -> list[Tensor]:
    if "prompts" not in model.config.head_inputs:
        return []
    return [sum(z_image) / len(z_image), sum(z_text) / len(z_text)]


def agreement_logits(model, h, z_image: list[Tensor], z_text: list[Tensor]) -> Tensor:
    """How alike what is said of the one and its mean prompt are to those of the other, mapped."""
    agreement = model.head.agreement
    if agreement is None:
        return torch.zeros(())
    similarity = agreement.similarity
    tau = math.exp(float(similarity.log_temperature))
    own = h[: 2 * (1 + means_seen(model, model.num_steps))]
    a = []
    for said, z, norm, down in (
        (own[0::2], z_image, similarity.norm_image, similarity.down_image),
        (own[1::2], z_text, similarity.norm_text, similarity.down_text),
    ):
        parts = [standardised(x, norm.eps) for x in said]
        joined = torch.cat(parts) * norm.weight + norm.bias
        mean = sum(standardised(x, norm.eps) for x in z) / len(z)
        joined[: len(mean)] += model.config.head_prompt_scale * mean
        a.append(linear(joined, down))
    return linear(torch.tensor([cosine(*a) / tau], dtype=a[0].dtype), agreement.linear)


def head_logits(model, h: list[Tensor]) -> Tensor:
    head = model.head
    if model.config.head_norm == "parts":
        h = [layer_norm(part, norm) for part, norm in zip(h, head.norms, strict=True)]
    else:
        widths = [len(part) for part in h]
        h = list(layer_norm(torch.cat(h), head.norm).split(widths))
    return linear(torch.cat(h), head.linear)


def alone_logits(model, pooled, entering, prompts: list[Tensor], *, side: int) -> Tensor:
    """What only the one that is there says: pooled, the mean at every step's layer, its prompts."""
    alone = model.head.alone
    if alone is None:
        return torch.zeros(())
    said = [pooled[side], *(sum(at[side]) / len(at[side]) for at in entering), *prompts[side::2]]
    widths = model.image_encoder.width, model.text_encoder.width
    logits = 0.0
    for place, x in enumerate(said):
        part = layer_norm(x, alone.norms[2 * place + side])
        first = place * sum(widths) + side * widths[0]
        weights = alone.linear.weight[:, first : first + len(part)]
        logits = logits + torch.stack([(row * part).sum() for row in weights])
    return logits


def entering_prompts(model, step, z_image, z_text, *, has_image, has_text):
    """``P_v^k`` and ``P_t^k`` as lists of vectors; ``step`` = k - 1."""
    config, prompts = model.config, model.prompts
    coupled = config.first_prompt == "from_text"
    e_text = list(prompts.text[step])
    if step == 0:
        e_image = (
            [linear(e, prompts.coupling) for e in e_text] if coupled else list(prompts.image[0])
        )
        return e_image, e_text
    e_image = list(prompts.image[step - 1 if coupled else step])
    if config.interaction == "none":
        c_image, c_text = z_image, z_text
    else:
        hub = model.hubs[0 if config.share_hub else step - 1]
        c_image, c_text = consolidate(
            hub, z_image, z_text, config.hub_activation, has_image=has_image, has_text=has_text
        )
    return (
        [c + e for c, e in zip(c_image, e_image, strict=True)],
        [c + e for c, e in zip(c_text, e_text, strict=True)],
    )


def consolidate(hub, z_image, z_text, activation="gelu", *, has_image=True, has_text=True):
    """Prompt by prompt; the message from an absent modality is zero."""
    tau = math.exp(float(hub.log_temperature))
    f = gelu if activation == "gelu" else (lambda x: x)
    a_image = [linear(layer_norm(z, hub.norm_image), hub.down_image) for z in z_image]
    a_text = [linear(layer_norm(z, hub.norm_text), hub.down_text) for z in z_text]
    c_image = [
        z + linear(f(_message(a, a_text, tau)), hub.up_image) if has_text else z
        for z, a in zip(z_image, a_image, strict=True)
    ]
    c_text = [
        z + linear(f(_message(a, a_image, tau)), hub.up_text) if has_image else z
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
