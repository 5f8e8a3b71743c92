"""EPIC written a second time, slowly: one sample, one prompt at a time.

Follows the equations of docs/method.md, not the vectorised code. It reads the weights of ``model``
and calls none of its methods.
"""

import math

import torch
from slow_encoders import (
    cosine,
    gelu,
    layer_norm,
    linear,
    mean,
    samples,
    slow_encoders,
    weighted_sum,
)
from torch import Tensor

from epic_pl.nn.encoders import base


@torch.no_grad()
def logits(model, batch) -> Tensor:
    return torch.stack([_sample_logits(model, inputs) for inputs in samples(batch)])


def _sample_logits(model, inputs) -> Tensor:
    both = streams(model, inputs)
    here = [x is not None for x in inputs]
    z, scores = first_prompts(model, both, here)
    for step in range(len(both[0].layers)):
        prompts = entering_prompts(model, step, z, here)
        z = [stream.acquire(step, own) for stream, own in zip(both, prompts, strict=True)]
    means = [[mean(tokens) for tokens in stream.entering] for stream in both]
    return head_logits(model, [stream.pooled() for stream in both], means, z, scores)


def streams(model, inputs) -> list["Stream"]:
    """Of the image and of the text."""
    config, encoders = model.method, slow_encoders(model)
    pairs = config.interaction_layers
    if isinstance(pairs, int):
        pairs = [[e.depth - j for e in encoders] for j in range(pairs, 0, -1)]
    joint = config.prompt_attention == "joint"
    layers = zip(*pairs, strict=True)
    return [Stream(*each, joint) for each in zip(encoders, inputs, layers, strict=True)]


def first_prompts(model, both, here):
    """Of each modality, as lists of vectors, and where the parts of the text fit, if they do."""
    own, kind = model.prompts, model.method.first_prompt
    if kind == "from_text":
        text = list(own.first_text)
        return [[linear(p, own.coupling) for p in text], text], None
    if kind == "independent":
        return [list(own.first_image), list(own.first_text)], None
    for stream in both:
        stream.run_to(stream.layers[0])
    nothing = [torch.zeros(width).double() for width in model.widths]
    patches = both[0].read()[both[0].encoder.num_prefix :] or [nothing[0]]
    words = both[1].tokens or [nothing[1]]
    means, learned = text_parts(own.parts, words), list(own.parts.offsets)
    parts = [part + offset for part, offset in zip(means, learned, strict=True)]
    number = model.method.num_prompts
    if model.method.hub == "none":
        found, parts, scores = cells(patches, number), neighbours(parts, number), None
    else:
        hub = model.hubs[0]
        s = similarities(hub, patches, parts) * all(here)
        found, parts = consolidate(hub, patches, parts, here, gathered=s.T, number=number)
        scores = where_fit(s) if all(here) else None
    return [[f + p for f, p in zip(found, own.first_image, strict=True)], parts], scores


def text_parts(own, words) -> list[Tensor]:
    """Weighted means of stretches of words; the learned vectors come on top."""
    found = []
    for part in range(own.number):
        weights = []
        for at, word in enumerate(words):
            distance = (at + 0.5) / (len(words) / own.number) - (part + 0.5)
            score = float(linear(layer_norm(word, own.norm), own.score))
            weights.append(score - distance**2 / 2)
        found.append(weighted_sum(weights, words))
    return found


class Stream:
    """The tokens of one modality on their way through its encoder."""

    def __init__(self, encoder, inputs, layers, joint: bool) -> None:
        self.encoder, self.layers, self.joint = encoder, layers, joint
        self.tokens = [] if inputs is None else encoder.embed(inputs)
        self.at = 0
        self.entering: list[list[Tensor]] = []  # each step, a class token left out

    def run_to(self, layer: int) -> None:
        for index in range(self.at, layer):
            self.tokens, _ = self.encoder.layer(index, self.tokens)
        self.at = layer

    def acquire(self, step: int, prompts: list[Tensor]) -> list[Tensor]:
        layer = self.layers[step]
        self.run_to(layer)
        self.entering.append(self.tokens[self.encoder.num_prefix :])
        if not self.joint:
            return self.encoder.read(layer, self.read(), prompts)
        self.tokens, z = self.encoder.layer(layer, self.tokens, prompts)
        self.at = layer + 1
        return z

    def read(self) -> list[Tensor]:
        """What read-only prompts see: means of neighbouring patches, if there are many."""
        prefix = self.encoder.num_prefix
        side = math.isqrt(len(self.tokens) - prefix) if self.tokens else 0
        if self.joint or not prefix or side <= base._MAX_SIDE:
            return self.tokens
        length = math.ceil(side / base._MAX_SIDE)
        patches = self.tokens[prefix:]
        starts = range(0, side, length)
        return self.tokens[:prefix] + [
            mean(
                [
                    patches[side * row + column]
                    for row in range(top, min(top + length, side))
                    for column in range(left, min(left + length, side))
                ]
            )
            for top in starts
            for left in starts
        ]

    def pooled(self) -> Tensor | None:
        self.run_to(self.encoder.depth)
        return self.encoder.pooled(self.tokens)


def cells(patches, number: int) -> list[Tensor]:
    """Means of the cells of a grid."""
    side = math.isqrt(len(patches))
    rows = max(each for each in range(1, number + 1) if number % each == 0 and each**2 <= number)
    return [
        mean([patches[side * row + column] for row in across for column in down])
        for across in spans(side, rows)
        for down in spans(side, number // rows)
    ]


def spans(length: int, number: int) -> list[range]:
    """Equal parts of so many positions; they share some where they do not come out even."""
    bounds = [(length * each / number, length * (each + 1) / number) for each in range(number)]
    return [range(math.floor(start), math.ceil(stop)) for start, stop in bounds]


def head_logits(model, pooled, means, prompts, scores=None) -> Tensor:
    """Of what is pooled of each modality, None where it is missing, and of the last prompts.

    ``means`` are those of the tokens that enter each step's layer; ``scores`` tells of the first
    exchange, None where there is none.
    """
    head = model.head
    h, alone = [], []
    for part, output, entering, z in zip(
        (head.image, head.text), pooled, means, prompts, strict=True
    ):
        if output is None:
            features = part.missing
        else:
            vectors = [output, entering[0]] if part.boundary else [output]
            features = standardised_over_samples(torch.cat(vectors), part.standardize_encoder)
        alone.append(features)
        if part.standardize_prompts is not None:
            seen = standardised_over_samples(mean(z), part.standardize_prompts)
            complete = None not in pooled
            features = torch.cat([features, seen if complete else torch.zeros_like(seen)])
        h.append(features)
    if hasattr(head.classifier, "network"):
        logits = network_logits(head.classifier, h, scores)
    else:
        layers = getattr(head.classifier, "layers", None)
        chosen = layers[int(head.classifier.chosen)] if layers else head.classifier
        logits = linear(torch.cat(h), chosen)
    here = [output is not None for output in pooled]
    if head.similarity is not None and all(here):
        own = head.similarity
        a = linear(h[0], own.down_image), linear(h[1], own.down_text)
        tau = math.exp(float(own.cosine.log_temperature))
        logits = logits + own.linear.weight[:, 0] * cosine(*a) / tau
    if head.experts is not None and head.experts.chosen == 0:
        own = head.experts
        image = linear(alone[0], own.image) if here[0] else own.prior
        text = linear(alone[1], own.text) if here[1] else own.prior
        logits = (logits + image + text - own.prior) / 2
    return logits


def network_logits(own, h, scores) -> Tensor:
    seen = list(h)
    if hasattr(own, "squeeze_image"):
        seen = [linear(h[0], own.squeeze_image), linear(h[1], own.squeeze_text)]
    if own.standardize is not None and scores is None:
        seen.append(torch.zeros(len(own.standardize.mean)).double())
    elif own.standardize is not None:
        seen.append(standardised_over_samples(torch.stack(scores), own.standardize))
    value, gate = linear(torch.cat(seen), own.network[0]).chunk(2)
    logits = linear(value * gelu(gate), own.network[3])
    return logits if own.linear is None else logits + linear(torch.cat(h), own.linear)


def where_fit(scores) -> list[Tensor]:
    """Row, column and fit of each part of the text among the patches of a square."""
    kinds, e, side = ([], [], []), scores.exp(), math.isqrt(len(scores))
    at = [divmod(patch, side) for patch in range(side**2)]
    for part in range(scores.shape[1]):
        shares = [each / sum(e[:, part]) for each in e[:, part]]
        pairs = list(zip(shares, at, strict=True))
        kinds[0].append(sum(p * ((2 * row + 1) / side - 1) for p, (row, _) in pairs))
        kinds[1].append(sum(p * ((2 * column + 1) / side - 1) for p, (_, column) in pairs))
        kinds[2].append(torch.log(sum(e[:, part])))
    return [each for kind in kinds for each in kind]


def standardised_over_samples(x: Tensor, statistics) -> Tensor:
    return (x - statistics.mean) / torch.sqrt(statistics.variance + 1e-6)


def entering_prompts(model, step, z, here):
    """``P_v^k`` and ``P_t^k`` as lists of vectors; ``step`` = k - 1."""
    config, prompts = model.method, model.prompts
    if step == 0:
        return z
    if config.hub != "none":
        before = config.first_prompt == "tokens"
        hub = model.hubs[0 if config.hub == "parameter_free" else step - 1 + before]
        z = consolidate(hub, *z, here)
    if config.generation == "linear":
        maps = prompts.map_image, prompts.map_text
        return [[linear(c, g) for c in each] for each, g in zip(z, maps, strict=True)]
    offsets = prompts.offsets_image[step - 1], prompts.offsets_text[step - 1]
    return [
        [c + e for c, e in zip(each, own, strict=True)]
        for each, own in zip(z, offsets, strict=True)
    ]


def projected(hub, z_image, z_text):
    """``A_v`` and ``A_t``, prompt by prompt."""
    if not hasattr(hub, "up_image"):
        if hub.shared is None:
            return z_image, z_text
        return z_image, [hub.shared.weight @ z for z in z_text]
    sides = (z_image, hub.down_image), (z_text, hub.down_text)
    plain = torch.nn.LayerNorm(1, elementwise_affine=False)
    vectors = [[linear(layer_norm(z, plain), down) for z in each] for each, down in sides]
    return [[a * (len(a) / float((a * a).sum())) ** 0.5 for a in each] for each in vectors]


def similarities(hub, z_image, z_text) -> Tensor:
    """``S (n, n)``."""
    tau = math.exp(float(hub.similarity.log_temperature))
    image, text = projected(hub, z_image, z_text)
    rows = [[cosine(a, b) / tau for b in text] for a in image]
    return torch.tensor(rows, dtype=torch.float64)


def consolidate(hub, z_image, z_text, here=(True, True), gathered=None, number=0):
    """Prompt by prompt; what is missing is zero in the common space.

    ``gathered`` are logits of means in place of the image's prompts, a row for each part of the
    text; then ``number`` prompts are means of neighbours.
    """
    tau = math.exp(float(hub.similarity.log_temperature))
    free = not hasattr(hub, "up_image")
    w = hub.shared.weight if free and hub.shared is not None else None  # (d_v, d_t)
    a_image, a_text = (
        [a * present for a in each]
        for each, present in zip(projected(hub, z_image, z_text), here, strict=True)
    )

    def to_image(message: Tensor) -> Tensor:
        return message if free else linear(gelu(message), hub.up_image)

    def to_text(message: Tensor) -> Tensor:
        if not free:
            return linear(gelu(message), hub.up_text)
        return message if w is None else w.T @ message

    to_images = [_message(a, a_text, tau) for a in a_image]
    to_texts = [_message(a, a_image, tau) for a in a_text]
    if gathered is not None:
        z_image, to_images = (
            [weighted_sum(list(row), each) for row in gathered] for each in (z_image, to_images)
        )
        z_image, to_images, z_text, to_texts = (
            neighbours(each, number) for each in (z_image, to_images, z_text, to_texts)
        )
    c_image = [z + to_image(message) for z, message in zip(z_image, to_images, strict=True)]
    c_text = [z + to_text(message) for z, message in zip(z_text, to_texts, strict=True)]
    return c_image, c_text


def neighbours(vectors, number: int) -> list[Tensor]:
    """Means of stretches of vectors."""
    return [mean([vectors[at] for at in span]) for span in spans(len(vectors), number)]


def _message(own: Tensor, others: list[Tensor], tau: float) -> Tensor:
    return weighted_sum([cosine(own, a) / tau for a in others], others)
