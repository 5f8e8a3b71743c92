"""The rival methods written a second time, slowly: one sample, one token, one prompt at a time.

They follow the papers, read the weights of ``model``, and call none of its methods.
"""

import torch
from slow_epic import (
    bert_embedding,
    bert_layer,
    gelu,
    head_logits,
    layer_norm,
    linear,
    mean,
    standardised_over_samples,
    vit_embedding,
    vit_layer,
)


@torch.no_grad()
def logits(one_sample, model, batch, *options):
    """``one_sample`` on each row; a missing modality is None, a pad is never in the sequence."""
    rows = []
    for i, ids in enumerate(batch["input_ids"]):
        real = [int(x) for x, seen in zip(ids, batch["attention_mask"][i], strict=True) if seen]
        image = vit_embedding(model.image_encoder.model, batch["pixel_values"][i])
        text = bert_embedding(model.text_encoder.model, real)
        if "image_present" in batch and not batch["image_present"][i]:
            image = None
        if "text_present" in batch and not batch["text_present"][i]:
            text = None
        rows.append(one_sample(model, image, text, *options))
    return torch.stack(rows)


def _depths(model):
    return len(model.image_encoder.model.blocks), len(model.text_encoder.model.encoder.layer)


def _head(model, image, text, entering=None):
    """The head on the last layer's tokens; ``entering`` are those that enter the boundary."""
    vit = model.image_encoder.model
    pooled = [layer_norm(image[0], vit.norm) if image else None, text[0] if text else None]
    boundary = entering or [[], []]
    return head_logits(model, pooled, [[mean(tokens)] for tokens in boundary], [[], []])


def _encoded(model, image, text, boundary):
    vit, bert = model.image_encoder.model, model.text_encoder.model
    entering = [[], []]
    for index in range(_depths(model)[0]):
        if index == boundary and image:
            entering[0] = image[1:]
        image = vit_layer(vit, index, image) if image else image
    for index in range(_depths(model)[1]):
        if index == boundary and text:
            entering[1] = text
        text = bert_layer(bert, index, text) if text else text
    return image, text, entering


def linear_on_pooled(model, image, text, boundary=1):
    """No prompts, and fine-tuning, whose weights differ but whose function is the same."""
    return _head(model, *_encoded(model, image, text, boundary))


def mlp_on_pooled(model, image, text):
    image, text, _ = _encoded(model, image, text, 1)
    vit = model.image_encoder.model
    outputs = layer_norm(image[0], vit.norm) if image else None, text[0] if text else None
    h = [
        part.missing if x is None else standardised_over_samples(x, part.encoder)
        for part, x in zip((model.head.image, model.head.text), outputs, strict=True)
    ]
    first, _, _, last = model.head.classifier
    return linear(gelu(linear(torch.cat(h), first)), last)


def pmf(model, image, text, fusion_layers):
    """Query, map, fuse, in the last layers of each encoder."""
    vit, bert = model.image_encoder.model, model.text_encoder.model
    depths = _depths(model)
    width_v, width_t = vit.embed_dim, bert.config.hidden_size
    has_image, has_text = image is not None, text is not None
    image, text = image or [], text or []
    for index in range(depths[0] - fusion_layers):
        image = vit_layer(vit, index, image)
    for index in range(depths[1] - fusion_layers):
        text = bert_layer(bert, index, text)
    own_v, own_t = model.image_prompts, model.text_prompts
    for step in range(fusion_layers):
        at_v, at_t = depths[0] - fusion_layers + step, depths[1] - fusion_layers + step
        queries = list(own_v.query[step]), list(own_t.query[step])
        asked_v = vit_layer(vit, at_v, image + list(own_v.query_context[step]) + queries[0])
        asked_t = bert_layer(bert, at_t, text + list(own_t.query_context[step]) + queries[1])
        to_t = [_mapped(x, own_v.maps[step]) for x in asked_v[-len(queries[0]) :]]
        to_v = [_mapped(x, own_t.maps[step]) for x in asked_t[-len(queries[1]) :]]
        if not has_image:
            to_t = [torch.zeros(width_t, dtype=x.dtype) for x in to_t]
        if not has_text:
            to_v = [torch.zeros(width_v, dtype=x.dtype) for x in to_v]
        image = vit_layer(vit, at_v, image + list(own_v.fusion_context[step]) + to_v)[: len(image)]
        text = bert_layer(bert, at_t, text + list(own_t.fusion_context[step]) + to_t)[: len(text)]
    return _head(model, image, text)


def _mapped(x, layers):
    first, _, last = layers
    return linear(linear(x, first).clamp(min=0), last)


def maple(model, image, text):
    """New prompts for each of the first J layers; behind them the last ones' outputs go on."""
    own, vit, bert = model.prompts, model.image_encoder.model, model.text_encoder.model
    text_prompts = [list(layer) for layer in own.text]
    image_prompts = [
        [linear(prompt, couple) for prompt in layer]
        for layer, couple in zip(text_prompts, own.couplings, strict=True)
    ]
    if image is not None:
        image = _deep(lambda i, x: vit_layer(vit, i, x), _depths(model)[0], image, image_prompts)
    if text is not None:
        text = _deep(lambda i, x: bert_layer(bert, i, x), _depths(model)[1], text, text_prompts)
    return _head(model, image, text)


def _deep(layer, depth, tokens, prompts):
    count, going_on = len(tokens), []
    for index in range(depth):
        if index < len(prompts):
            going_on = prompts[index]
        outputs = layer(index, tokens + going_on)
        tokens, going_on = outputs[:count], outputs[count:]
    return tokens
