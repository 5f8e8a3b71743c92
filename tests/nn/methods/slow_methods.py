"""The rival methods written a second time, slowly, in the manner of `slow_epic`.

They follow the papers, read the weights of ``model``, and call none of its methods.
"""

import math

import torch
from slow_encoders import (
    cosine,
    layer_norm,
    linear,
    mean,
    samples,
    slow_encoders,
)
from slow_epic import head_logits, text_parts, where_fit


@torch.no_grad()
def logits(one_sample, model, batch, *options):
    """``one_sample`` on each row; a missing modality has no tokens."""
    encoders, rows = slow_encoders(model), []
    for inputs in samples(batch):
        pairs = zip(encoders, inputs, strict=True)
        tokens = [[] if x is None else encoder.embed(x) for encoder, x in pairs]
        rows.append(one_sample(model, encoders, tokens, *options))
    return torch.stack(rows)


def _pooled(encoders, tokens):
    return [encoder.pooled(x) for encoder, x in zip(encoders, tokens, strict=True)]


def _head(model, encoders, tokens, boundary=((), ())):
    """The head on the last layer's tokens and on those that enter the boundary."""
    means = [[mean(each)] for each in boundary]
    return head_logits(model, _pooled(encoders, tokens), means, [[], []])


def _encoded(encoders, tokens, boundary):
    outputs, entering = [], [[], []]
    for side, encoder in enumerate(encoders):
        x = tokens[side]
        for index in range(encoder.depth):
            if index == boundary:
                entering[side] = x[encoder.num_prefix :]
            x, _ = encoder.layer(index, x)
        outputs.append(x)
    return outputs, entering


def head_on_pooled(model, encoders, tokens, boundary=1):
    """No prompts, and fine-tuning, whose weights differ but whose function is the same."""
    return _head(model, encoders, *_encoded(encoders, tokens, boundary))


def pmf(model, encoders, tokens, fusion_layers):
    """Query, map, fuse, in the last layers of each encoder."""
    own, here = (model.image_prompts, model.text_prompts), [bool(x) for x in tokens]
    for side, encoder in enumerate(encoders):
        for index in range(encoder.depth - fusion_layers):
            tokens[side], _ = encoder.layer(index, tokens[side])
    for step in range(fusion_layers):
        layers, sent = [encoder.depth - fusion_layers + step for encoder in encoders], []
        for side, encoder in enumerate(encoders):
            context, queries = own[side].query_context[step], own[side].query[step]
            _, asked = encoder.layer(layers[side], tokens[side], [*context, *queries])
            mapped = [_mapped(x, own[side].maps[step]) for x in asked[-len(queries) :]]
            sent.append(mapped if here[side] else [torch.zeros_like(x) for x in mapped])
        for side, encoder in enumerate(encoders):
            prompts = [*own[side].fusion_context[step], *sent[1 - side]]
            tokens[side], _ = encoder.layer(layers[side], tokens[side], prompts)
    return _head(model, encoders, tokens)


def _mapped(x, layers):
    first, _, last = layers
    return linear(linear(x, first).clamp(min=0), last)


def maple(model, encoders, tokens):
    """New prompts for each of the first J layers; behind them the last ones' outputs go on."""
    text = model.prompts.text
    image = [
        [linear(prompt, couple) for prompt in layer]
        for layer, couple in zip(text, model.prompts.couplings, strict=True)
    ]
    outputs = []
    for encoder, x, prompts in zip(encoders, tokens, (image, text), strict=True):
        going_on = []
        for index in range(encoder.depth):
            going_on = prompts[index] if index < len(prompts) else going_on
            x, going_on = encoder.layer(index, x, going_on)
        outputs.append(x)
    return _head(model, encoders, outputs)


def parts_in_patches(model, encoders, tokens):
    outputs, entering = _encoded(encoders, tokens, 1)
    pooled, means = _pooled(encoders, outputs), [[mean(each)] for each in entering]
    if None in pooled:
        return head_logits(model, pooled, means, [[], []])
    patches, words = entering
    found = [
        part + offset
        for part, offset in zip(text_parts(model.parts, words), model.parts.offsets, strict=True)
    ]
    plain = torch.nn.LayerNorm(1, elementwise_affine=False)
    a = [[linear(layer_norm(x, plain), down) for x in side] for side, down in
         ((patches, model.hub.down_image), (found, model.hub.down_text))]  # fmt: skip
    tau = math.exp(float(model.hub.similarity.log_temperature))
    scores = [[cosine(p, q) / tau for q in a[1]] for p in a[0]]
    scores = torch.tensor(scores, dtype=torch.float64)
    return head_logits(model, pooled, means, [[], []], where_fit(scores))
