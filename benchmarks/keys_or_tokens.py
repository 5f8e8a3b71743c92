"""What to store for read-only prompts: keys and values, or the tokens that they are projected from.

At every interaction layer a prompt reads the keys and values of the frozen tokens. A cache could
store these, or half as many bytes: the tokens that enter the layer, from which every step would
project keys and values anew, without gradient. Both feed EPIC's forward and backward pass here from
memory, in turns, ViT-B/16 at 224 pixels and BERT-base with random weights; each one's best round
counts:

    python benchmarks/keys_or_tokens.py --json
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from epic_pl.features.store.records import TORCH_DTYPES
from epic_pl.module import EPICModule

_SIZE = 224
_CLASSES = 101
Features = dict[str, Tensor]


def build(layers: int) -> EPICModule:
    """EPIC, read-only, on random encoders."""
    module = EPICModule(
        "vit_base_patch16_224",
        "bert-base-uncased",
        num_classes=_CLASSES,
        pretrained=False,
        interaction_layers=layers,
        prompt_attention="read_only",
    )
    return module.train()


@torch.inference_mode()
def tokens_of(tower: Any, inputs: Tensor, mask: Tensor | None) -> Tensor:
    """Tokens ``(B, K, N, d)`` that enter each of a tower's interaction layers."""
    encoder, entering = tower.encoder, []
    tokens, layer = tower.boundary(inputs, mask), tower.layers[0]
    for interaction_layer in tower.layers:
        tokens = encoder.run_layers(layer, interaction_layer, tokens, mask)
        entering.append(tokens)
        layer = interaction_layer
    return torch.stack(entering, dim=1)


@torch.no_grad()
def projected(tower: Any, features: Features) -> Features:
    """Keys and values from a batch's tokens, as a step would have to make them."""
    tokens, dtype = features["tokens"], next(tower.encoder.parameters()).dtype
    memory = torch.stack(
        [
            torch.stack(tower.encoder.memory(layer, tokens[:, step].to(dtype)))
            for step, layer in enumerate(tower.layers)
        ]
    )  # (K, 2, B, h, N, d / h)
    rest = {name: tensor for name, tensor in features.items() if name != "tokens"}
    return {"memory": memory.movedim(2, 0), **rest}


def samples(module: EPICModule, batch: int, text_tokens: int, dtype: torch.dtype) -> Any:
    """A batch, and for each tower its features as keys and values, and as tokens."""
    given = {
        "image": (torch.randn(batch, 3, _SIZE, _SIZE), None),
        "text": (
            torch.randint(1000, 2000, (batch, text_tokens)),
            torch.ones(batch, text_tokens) > 0,
        ),
    }
    keys: dict[str, Features] = {}
    tokens: dict[str, Features] = {}
    for kind, (inputs, mask) in given.items():
        tower = getattr(module.model, f"{kind}_tower")
        with torch.inference_mode():
            features = tower.features(inputs, mask, "layers")
        stored = {name: tensor.to(dtype) for name, tensor in features.items()}
        keys[kind] = {name: tensor.clone() for name, tensor in stored.items()}
        tokens[kind] = {name: t for name, t in keys[kind].items() if name != "memory"}
        tokens[kind]["tokens"] = tokens_of(tower, inputs, mask).to(dtype).clone()
    rest = {"attention_mask": given["text"][1], "labels": torch.randint(_CLASSES, (batch,))}
    return rest, keys, tokens


def nbytes(features: dict[str, Features], batch: int) -> int:
    """Bytes of a sample."""
    return sum(t.nbytes for each in features.values() for t in each.values()) // batch


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Sizes and best step times of both, and their ratios, tokens over keys and values."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    module = build(options.layers)
    dtype = TORCH_DTYPES[options.dtype]
    rest, keys, tokens = samples(module, options.batch, options.text_tokens, dtype)
    model: Any = module.model

    def step(feed: Callable[[], dict[str, Features]]) -> float:
        start = time.perf_counter()
        features = {f"{kind}_features": each for kind, each in feed().items()}
        logits = model({**rest, **features})
        torch.nn.functional.cross_entropy(logits, rest["labels"]).backward()
        module.zero_grad()
        return time.perf_counter() - start

    def from_tokens() -> dict[str, Features]:
        return {k: projected(getattr(model, f"{k}_tower"), each) for k, each in tokens.items()}

    best = {"keys": float("inf"), "tokens": float("inf")}
    for _ in range(options.rounds + 1):  # the first warms up, and is as good as another
        best["keys"] = min(best["keys"], step(lambda: keys))
        best["tokens"] = min(best["tokens"], step(from_tokens))
    sizes = {"keys": nbytes(keys, options.batch), "tokens": nbytes(tokens, options.batch)}
    return {
        "batch": options.batch,
        "threads": options.threads,
        "dtype": options.dtype,
        "keys_values_bytes_per_sample": sizes["keys"],
        "tokens_bytes_per_sample": sizes["tokens"],
        "bytes_ratio": round(sizes["tokens"] / sizes["keys"], 3),
        "keys_values_step_ms": round(1000 * best["keys"], 1),
        "tokens_step_ms": round(1000 * best["tokens"], 1),
        "step_ratio": round(best["tokens"] / best["keys"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--layers", type=int, default=4, help="K, interaction layers")
    parser.add_argument("--text-tokens", type=int, default=40)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    measured = measure(options)
    if options.json:
        print(json.dumps(measured))
        return
    for name, value in measured.items():
        print(f"{name:>30}  {value}")


if __name__ == "__main__":
    main()
