"""``epic-pl export --format onnx``: the file, its predict.py, and 8 bits."""

import contextlib
import io
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from PIL import Image

from epic_pl import Classifier
from epic_pl.errors import CheckpointError, ConfigError
from epic_pl.evaluation.export.folder import largest_difference, write_folder
from epic_pl.evaluation.templates import predict
from epic_pl.inference.exported import load_program
from epic_pl.main import call

RNG = np.random.default_rng(0)


@pytest.fixture(scope="session")
def in_onnx(two_epochs, tmp_path_factory):
    """Folder of the exported model, and what the command said."""
    folder, said = tmp_path_factory.mktemp("onnx"), io.StringIO()
    options = ["--ckpt_path", two_epochs.checkpoint, "--output", str(folder), "--format", "onnx"]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.chdir(two_epochs.root)
        patch.setattr("sys.argv", ["epic-pl"])
        assert call("export", [*options, "--int8", "--config", two_epochs.config]) == 0
    return folder, said.getvalue()


@pytest.fixture
def samples(tmp_path):
    """Images of all kinds, some with a text, and texts alone."""
    noise = RNG.integers(0, 256, (60, 90, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    images = {
        "plain.png": Image.fromarray(noise),
        "turned.jpg": Image.fromarray(noise),
        "large.jpg": Image.fromarray(RNG.integers(0, 256, (500, 301, 3), np.uint8)),
        "clear.png": Image.fromarray(RNG.integers(0, 256, (40, 50, 4), np.uint8)),
        "deep.png": Image.fromarray(RNG.integers(0, 65_536, (40, 50), np.uint16)),
        "palette.gif": Image.fromarray(noise).quantize(16),
        "cmyk.jpg": Image.fromarray(noise).convert("CMYK"),
        "long.png": Image.fromarray(RNG.integers(0, 256, (20, 300, 3), np.uint8)),
        "tall.png": Image.fromarray(RNG.integers(0, 256, (211, 33, 3), np.uint8)),
        "tiny.png": Image.fromarray(RNG.integers(0, 256, (3, 5, 3), np.uint8)),
        "exact.png": Image.fromarray(RNG.integers(0, 256, (35, 40, 3), np.uint8)),
    }
    for name, image in images.items():
        image.save(tmp_path / name, **({"exif": exif} if name == "turned.jpg" else {}))
    texts = ["a red square", None, "", "a &amp; b <b>c</b>", "blue " * 200]
    named = [
        {"image": str(tmp_path / name), "text": texts[number % len(texts)]}
        for number, name in enumerate(images)
    ]
    return [*named, *({"text": text} for text in texts if text is not None)]


USER = """
import json, sys
for name in ("epic_pl", "torch", "torchvision", "transformers", "timm"):
    sys.modules[name] = None  # not there
sys.path.insert(0, sys.argv[1])
from predict import Model
model, samples = Model(), json.loads(sys.argv[2])
pairs = [(sample.get("image"), sample.get("text")) for sample in samples]
print(json.dumps([model.probabilities(pairs).tolist(), model(*pairs[0], top_k=2)]))
"""


@pytest.mark.slow
def test_predict_py_agrees_with_the_package_on_all_kinds_of_inputs(in_onnx, trained, samples):
    folder, _ = in_onnx
    command = [sys.executable, "-B", "-c", USER, str(folder), json.dumps(samples)]
    scores, labels = json.loads(subprocess.check_output(command, text=True))
    classifier = Classifier.load(trained.checkpoint, device="cpu")
    np.testing.assert_allclose(scores, classifier.probabilities(samples), atol=1e-4)
    first = classifier(samples[:1], top_k=2)[0]
    assert [answer["label"] for answer in labels] == [answer["label"] for answer in first]
    loaded = Classifier.load(folder)
    np.testing.assert_allclose(loaded.probabilities(samples), scores, atol=1e-5)
    script = [sys.executable, str(folder / "predict.py"), samples[0]["image"], "-"]
    assert json.loads(subprocess.check_output(script, text=True))[0]["label"] in loaded.class_names
    with pytest.raises(ConfigError, match="exported model, which only classifies"):
        loaded.embed(samples)


def test_predict_py_reads_no_more_of_a_huge_text_than_the_package(in_onnx):
    model, given = predict.Model(in_onnx[0]), []
    encode = model.tokenizer.encode_batch

    def counted(texts):
        given.extend(map(len, texts))
        return encode(texts)

    model.tokenizer = SimpleNamespace(encode_batch=counted)
    scores = model.probabilities([(None, "a red cat " * 10**5), (None, "a red cat " * 100)])
    assert given == [1000 * model.text["max_tokens"], 1000]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)


@pytest.mark.parametrize("resize", ["pad", "squash"])
def test_predict_py_makes_images_square_as_the_package_does(resize, in_onnx, samples, tmp_path):
    for path in in_onnx[0].iterdir():
        (tmp_path / path.name).symlink_to(path)
    about = json.loads((tmp_path / "model.json").read_text())
    about["preprocessing"]["image"]["resize"] = resize
    (tmp_path / "model.json").unlink()
    (tmp_path / "model.json").write_text(json.dumps(about))
    pairs = [(sample.get("image"), sample.get("text")) for sample in samples]
    scores = predict.Model(tmp_path).probabilities(pairs)
    np.testing.assert_allclose(scores, Classifier.load(tmp_path).probabilities(samples), atol=1e-5)


def test_the_command_tells_size_pace_difference_and_what_8_bits_cost(in_onnx, trained):
    folder, said = in_onnx
    assert sorted(path.name for path in folder.iterdir()) == [
        *("model.int8.onnx", "model.json", "model.onnx", "predict.py", "tokenizer")
    ]
    whole, small = ((folder / name).stat().st_size for name in ("model.onnx", "model.int8.onnx"))
    assert small < whole
    assert f"model.onnx  {whole / 1e6:,.1f} MB" in said
    assert "one sample takes " in said
    assert float(said.split("probabilities: ")[1].split()[0]) <= 1e-5
    assert "on 4 rows of the validation split" in said
    assert said.count("accuracy ") == 2
    classifier = Classifier.load(trained.checkpoint, device="cpu")
    difference = largest_difference(load_program(folder / "model.int8.onnx"), classifier.module)
    assert 0 < difference < 0.3  # of random weights


def test_a_model_of_another_pipeline_brings_no_predict_py(make, tmp_path):
    write_folder(make(method="linear_probe").eval(), None, tmp_path / "made", "onnx")
    files = sorted(path.name for path in (tmp_path / "made").iterdir())
    assert files == ["model.json", "model.onnx"]


@pytest.mark.parametrize(
    ("weights", "operator"),
    [("../secret", "Identity"), ("/etc/hostname", "Identity"), ("link", "Identity"), ("w", "Evil")],
)
def test_an_onnx_model_reads_nothing_outside_its_folder_and_has_no_operators_of_its_own(
    weights, operator, tmp_path
):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (tmp_path / "secret", folder / "w"):
        path.write_bytes(bytes(16))
    (folder / "link").symlink_to(tmp_path / "secret")
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=1)
    tensor.external_data.add(key="location", value=weights)
    domain = "" if operator == "Identity" else "evil"
    node = onnx.helper.make_node(operator, ["w"], ["y"], domain=domain)
    output = onnx.helper.make_tensor_value_info("y", 1, [4])
    graph = onnx.helper.make_graph([node], "graph", [], [output], [tensor])
    opsets = [onnx.helper.make_opsetid(name, 17) for name in {"", domain}]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=re.escape(str(folder / "model.onnx"))):
        load_program(folder / "model.onnx")


def test_a_damaged_folder_and_wrong_options_are_told(in_onnx, trained, told, tmp_path):
    for name, content in (("model.onnx", b"x"), ("model.json", b"{}")):
        (tmp_path / "model.json").write_bytes((in_onnx[0] / "model.json").read_bytes())
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=r"cannot be read|does not hold"):
            Classifier.load(tmp_path)
    given = ["export", "--ckpt_path", trained.checkpoint, "--output", tmp_path / "new"]
    for options, said in ((["--config", trained.config], "onnx"), (["--format=onnx"], "--config")):
        code, _, error = told(*given, "--int8", *options)
        assert (code, "add --" in error, said in error) == (1, True, True)
