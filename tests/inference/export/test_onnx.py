"""``epic-pl export``: the file, its predict.py, and 8 bits."""

import contextlib
import csv
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from PIL import Image
from rich.filesize import decimal

import tiny_onnx
import tiny_runs
from epic_pl import Classifier
from epic_pl.cli.main import call
from epic_pl.data.tables.formats import read_csv
from epic_pl.inference.export.folder import largest_difference, write_folder
from epic_pl.inference.exported import load_program
from epic_pl.utils.errors import CheckpointError, ConfigError
from tolerance import assert_same

RNG = np.random.default_rng(0)


@pytest.fixture(scope="session")
def in_onnx(two_epochs, tmp_path_factory):
    """Folder of the exported model, and what the command said."""
    folder, said = tmp_path_factory.mktemp("onnx"), io.StringIO()
    options = [two_epochs.checkpoint, "--output", str(folder)]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.chdir(two_epochs.root)
        patch.setattr("sys.argv", ["epic-pl"])
        assert call("export", [*options, "--int8", "--config", two_epochs.config]) == 0
    return folder, said.getvalue()


def untranslated(patch):
    """Let exports take seconds less: a model that is none of the module's is put in its place."""
    room = "epic_pl.inference.export.folder"
    patch.setattr(f"{room}.export_program", lambda _: None)
    patch.setattr(f"{room}.write_onnx", lambda _, path: tiny_onnx.write_onnx(path, tiny_runs.SIDE))
    patch.setattr(f"{room}.largest_difference", lambda *_: 0.0)


@pytest.fixture(scope="session")
def written(loaded, tmp_path_factory):
    """A folder like that of an exported model, with another model."""
    folder = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patch:
        untranslated(patch)
        write_folder(loaded.module, loaded.processor.tokenizer, folder)
    return folder


@pytest.fixture
def predict(written, monkeypatch):
    """The folder's predict.py as a module."""
    monkeypatch.syspath_prepend(written)
    for name in ("predict", "clean_text", "decoding", "untrusted"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("predict")


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
    texts = ["a red square", None, "", "a &amp; b <b>c</b>", "blue " * 200 + "red"]
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
scores = [model.probabilities(*pair).tolist() for pair in pairs]
print(json.dumps([scores, model(*pairs[0], top_k=2)]))
"""


@pytest.mark.slow
def test_predict_py_agrees_with_the_package_on_all_kinds_of_inputs(in_onnx, trained, samples):
    folder, _ = in_onnx
    command = [sys.executable, "-B", "-c", USER, str(folder), json.dumps(samples)]
    scores, labels = json.loads(subprocess.check_output(command, text=True))
    classifier = Classifier.load(trained.checkpoint, device="cpu")
    assert_same(scores, classifier.probabilities(samples))
    first = classifier(samples[:1], top_k=2)[0]
    assert [answer["label"] for answer in labels] == [answer["label"] for answer in first]
    loaded = Classifier.load(folder)
    assert_same(loaded.probabilities(samples), scores)
    with pytest.raises(ConfigError, match="an exported model: load its run"):
        loaded.embed(samples)


@pytest.mark.slow
def test_predict_py_runs_as_a_script(in_onnx, predict, samples):
    script = [sys.executable, "-B", str(in_onnx[0] / "predict.py")]
    here = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    model, image = predict.Model(in_onnx[0]), samples[0]["image"]
    for words in ([image, "a red square"], ["-", "blue"], [image]):
        line = subprocess.check_output([*script, *words], text=True, env=here)
        given = [None if word == "-" else word for word in [*words, None][:2]]
        assert json.loads(line) == model(*given)


@pytest.fixture
def predict_py(predict, monkeypatch, capfd):
    """The script on arguments: exit code, stdout and stderr."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["predict.py", *map(str, arguments)])
        code = predict.main()
        said = capfd.readouterr()
        return code, said.out, said.err

    return call


def test_predict_py_classifies_a_table_and_names_its_bad_rows(predict_py, predict, tmp_path):
    Image.new("RGB", (40, 36), "red").save(tmp_path / "red.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    table, output = tmp_path / "rows.csv", tmp_path / "out.csv"
    table.write_text(
        "id,photo,title,label\n1,red.png,a red square,red\n2,none.png,x,\n3,,blue,blue\n"
        '4,broken.png,y,\n5,,,\n6,red.png,"two\nlines",\n7,red.png,a, b,c\n'
    )
    named = ["--table", table, "--image", "photo", "--text", "title", "--output", output]
    code, _, errors = predict_py(*named)
    assert code == 1
    bad = {"2": "line 3: .*none.png", "4": "line 5: .*none of", "5": "line 6: .*neither"}
    bad["7"] = "line 9: .*more cells than columns"
    told = [line for line in errors.splitlines() if line.startswith("predict.py:")]
    for line, message in zip(told, bad.values(), strict=True):
        assert re.match(rf"predict.py: {re.escape(str(table))}, {message}", line)
    with output.open(newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert list(rows["1"]) == [*("id", "photo", "title", "label", "predicted", "score", "error")]
    model = predict.Model()
    pairs = {"1": ("red.png", "a red square"), "3": (None, "blue"), "6": ("red.png", "two\nlines")}
    for name, (image, text) in pairs.items():
        (best,) = model(image and tmp_path / image, text, top_k=1)
        told = rows[name]["predicted"], rows[name]["score"], rows[name]["error"]
        assert told == (best["label"], f"{best['score']:.4f}", "")
    assert {name for name, row in rows.items() if row["error"]} == bad.keys()
    assert all(not rows[name]["predicted"] for name in bad)
    assert (rows["1"]["label"], rows["6"]["title"]) == ("red", "two\nlines")


def test_predict_py_reads_regular_files_below_the_table_alone(predict_py, tmp_path, monkeypatch):
    folder, secret = tmp_path / "table", tmp_path / "secret.png"
    (folder / "in").mkdir(parents=True)
    Image.new("RGB", (40, 36)).save(secret)
    Image.new("RGB", (40, 36)).save(folder / "in" / "a.png")
    (folder / "link").symlink_to(secret)
    (folder / "up").symlink_to(tmp_path)
    (folder / "circle").symlink_to("circle")
    (folder / "text.png").write_text("root:x:0:0")
    os.mkfifo(folder / "pipe")
    good = ["in/a.png", "./in/../in/a.png", "inside/a.png"]
    (folder / "inside").symlink_to("in")
    bad = [
        *("../secret.png", "in/../../secret.png", str(secret), "link", "up/secret.png"),
        *("/etc/passwd", "/proc/self/environ", "/dev/zero", "/dev/stdin"),
        *("pipe", "in", "circle", "circle/a", "text.png"),
    ]
    (folder / "rows.csv").write_text("image\n" + "\n".join([*good, *bad]))
    output = tmp_path / "out.csv"
    code, _, _ = predict_py("--table", folder / "rows.csv", "--text=-", "--output", output)
    with output.open(newline="") as file:
        rows = [
            (row["image"], row["predicted"] != "", row["error"]) for row in csv.DictReader(file)
        ]
    assert (code, [name for name, done, _ in rows if done]) == (1, good)
    errors = {name: error for name, _, error in rows}
    assert [name for name in bad if "leads outside of" in errors[name]] == bad[:9]
    assert "root" not in errors["text.png"]
    monkeypatch.chdir(folder)
    assert predict_py("../secret.png", "-")[0] == 0  # the user's own choice
    for path in ("pipe", "/dev/zero"):
        with pytest.raises(OSError, match="no regular file"):
            predict_py(path)


def test_predict_py_quotes_cells_that_a_spreadsheet_would_run(predict_py, predict, tmp_path):
    Image.new("RGB", (40, 36)).save(tmp_path / "=a.png")
    table, output = tmp_path / "rows.csv", tmp_path / "out.csv"
    rows = [["@note", "image", "text", "n"], ["=1+1", "=a.png", "-x", "-0.5"], ["a", "=b", "", "+"]]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert predict_py("--table", table, "--output", output)[0] == 1
    written = output.read_text()
    cells = written.splitlines()[1].split(",")
    assert cells[:4] == ["'=1+1", "'=a.png", "'-x", "-0.5"]
    assert cells[4] == predict.Model()(tmp_path / "=a.png", "-x", top_k=1)[0]["label"]
    assert written.startswith("'@note,image,text,n,predicted")
    read = read_csv(output)
    assert read.select(rows[0]).to_pylist() == [
        dict(zip(rows[0], row, strict=True)) for row in rows[1:]
    ]
    again = tmp_path / "again.csv"  # a table that was quoted is no other table
    output.write_text("\n".join(",".join(line.split(",")[:4]) for line in written.splitlines()))
    predict_py("--table", output, "--output", again)
    assert again.read_text().splitlines()[:2] == written.splitlines()[:2]


@pytest.mark.parametrize("mark", [";", "|", "\t"])
def test_predict_py_reads_and_writes_cells_between_other_marks(predict_py, mark, tmp_path):
    table, output = tmp_path / "rows.csv", tmp_path / "out.csv"
    lines = [mark.join(cells) for cells in (["No", "Text (DE)"], ["1", '"rot; 1,5 | 2\t"'])]
    table.write_text("\r\n".join(lines), newline="", encoding="utf-8-sig")
    assert predict_py("--table", table, "--image=-", "--text=Text (DE)", "--output", output)[0] == 0
    with output.open(newline="", encoding="utf-8") as file:
        (written,) = csv.DictReader(file, delimiter=mark)
    assert (written["No"], written["Text (DE)"]) == ("1", "rot; 1,5 | 2\t")
    assert written["predicted"]


def test_predict_py_says_which_columns_there_are_and_spares_files(predict_py, tmp_path):
    table, output = tmp_path / "rows.csv", tmp_path / "out.csv"
    table.write_text("photo,text\n,blue\n")
    given = ["--table", table, "--output"]
    with pytest.raises(ValueError, match="columns photo, text: name yours by --image"):
        predict_py(*given, output)
    for wrong in ([], ["a.png", "--table", table], given[:2], ["a", "b", "c"]):
        with pytest.raises(SystemExit, match="2"):
            predict_py(*wrong)
    with pytest.raises(FileExistsError, match=r"rows\.csv exists: give another --output"):
        predict_py(*given, table, "--image", "-")
    assert table.read_text() == "photo,text\n,blue\n"
    for header in ("text,score", "id,text,id"):
        table.write_text(f"{header}\nblue,7,8\n")
        with pytest.raises(ValueError, match="there twice or called like a result"):
            predict_py(*given, output, "--image", "-")
    assert not output.exists()


def test_predict_py_reads_no_more_of_a_huge_text_than_the_package(predict):
    model, given = predict.Model(), []
    encode = model.tokenizer.encode
    model.tokenizer = SimpleNamespace(encode=lambda text: given.append(len(text)) or encode(text))
    scores = [model.probabilities(text="a red cat " * count) for count in (10**5, 100)]
    assert given == [1000 * model.text["max_tokens"], 1000]
    assert_same(scores[0], scores[1])


@pytest.mark.parametrize(
    ("side", "options"),
    [
        ("image", {"resize": "pad", "crop_pct": 0.8}),
        ("image", {"resize": "squash", "crop_pct": 0.8}),
        ("image", {"mean": [0, 0, 0], "std": [1 / 255] * 3}),
        ("text", {"clean": True, "max_tokens": 12}),
        ("text", {"prompt": "a red "}),
        ("text", {"padded": True}),
        ("text", {"special": False}),
        ("text", {"truncation_side": "left"}),
    ],
    ids=str,
)
def test_predict_py_prepares_inputs_as_the_package_does(
    side, options, predict, written, samples, tmp_path
):
    for path in written.iterdir():
        (tmp_path / path.name).symlink_to(path)
    about = json.loads((tmp_path / "model.json").read_text())
    about["preprocessing"][side] |= options
    about["preprocessing"]["text"]["tokenizer"] = ""  # it is another one below
    (tmp_path / "model.json").unlink()
    (tmp_path / "model.json").write_text(json.dumps(about))
    for option, name, changed in (
        ("special", "tokenizer.json", {"post_processor": None}),
        ("truncation_side", "tokenizer_config.json", options),
    ):
        if option in options:
            (tmp_path / "tokenizer").unlink()
            shutil.copytree(written / "tokenizer", tmp_path / "tokenizer")
            file = tmp_path / "tokenizer" / name
            file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    model, given = predict.Model(tmp_path), []
    model.session = SimpleNamespace(run=lambda _, inputs: given.append(inputs) or [[0]])
    processor = Classifier.load(tmp_path).processor
    for sample in samples:
        model.probabilities(sample.get("image"), sample.get("text"))
        for name, tensor in processor([sample]).items():
            if name in given[-1]:
                assert_same(given[-1][name], tensor)


@pytest.mark.slow
def test_the_command_tells_size_pace_difference_and_what_8_bits_cost(in_onnx, trained):
    folder, said = in_onnx
    files = {path.name for path in folder.iterdir()} - {"__pycache__"}  # of a predict.py that ran
    assert sorted(files) == [
        *(
            "cells.py",
            "clean_text.py",
            "decoding.py",
            "model.int8.onnx",
            "model.json",
            "model.onnx",
        ),
        *("predict.py", "tokenizer", "untrusted.py"),
    ]
    whole, small = ((folder / name).stat().st_size for name in ("model.onnx", "model.int8.onnx"))
    assert small < whole
    assert f"model.onnx  {decimal(whole)}" in said
    assert float(said.split("probabilities: ")[1].split()[0]) <= 1e-5
    assert "on 4 rows of the validation split" in said
    assert said.count("accuracy ") == 2
    classifier = Classifier.load(trained.checkpoint, device="cpu")
    difference = largest_difference(load_program(folder / "model.int8.onnx"), classifier.module)
    assert 0 < difference < 0.3  # of random weights


def test_a_missing_modality_that_training_never_lacked_is_told_once(written, predict):
    assert json.loads((written / "model.json").read_text())["never_missing"] == ["image", "text"]
    classifier = Classifier.load(written)
    assert "Classifier (EPIC, multiclass): 3 classes" in repr(classifier)
    items = [{"text": "a red square"}, {"image": Image.new("RGB", (40, 40))}]
    for item, name in zip(items, ("image", "text"), strict=True):
        with pytest.warns(UserWarning, match=rf"Samples lack the {name}.*predict \w+, \w+") as told:
            classifier([item])
        assert {warning.filename for warning in told} == {"sys"}  # no line of the package
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier(items)
    with pytest.warns(UserWarning, match="Samples lack the image, but every"):
        predict.Model()(text="a red square")


def test_a_model_of_another_pipeline_brings_no_predict_py(make, written, tmp_path, monkeypatch):
    untranslated(monkeypatch)
    write_folder(make(method="LinearProbe").eval(), None, tmp_path / "made")
    files, others = (
        {path.name for path in folder.iterdir()} - {"__pycache__"}  # of a predict.py that ran
        for folder in (tmp_path / "made", written)
    )
    assert files == {"model.json", "model.onnx"}
    assert others - files == {
        *("cells.py", "clean_text.py", "decoding.py", "predict.py", "tokenizer", "untrusted.py"),
    }


OUTSIDE = ("../secret", "/etc/hostname", "link", "up/secret", "up/../secret", "./../secret")


@pytest.mark.parametrize(
    ("weights", "operator"),
    [
        *((path, kind) for path in OUTSIDE for kind in ("Identity", "Constant")),
        ("*/_ORT_MEM_ADDR_/*", "Identity"),
        ("w", "Evil"),
    ],
)
def test_an_onnx_model_reads_nothing_outside_its_folder_and_has_no_operators_of_its_own(
    weights, operator, tmp_path
):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (tmp_path / "secret", folder / "w"):
        path.write_bytes(bytes(16))
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to(tmp_path)
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=1)
    tensor.external_data.add(key="location", value=weights)
    domain = "evil" if operator == "Evil" else ""
    node = onnx.helper.make_node(operator, ["w"], ["y"], domain=domain)
    if operator == "Constant":
        del node.input[:]
        node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    output = onnx.helper.make_tensor_value_info("y", 1, [4])
    weights_of = [] if operator == "Constant" else [tensor]
    graph = onnx.helper.make_graph([node], "graph", [], [output], weights_of)
    opsets = [onnx.helper.make_opsetid(name, 17) for name in {"", domain}]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=re.escape(str(folder / "model.onnx"))):
        load_program(folder / "model.onnx")


@pytest.mark.parametrize("version", ["1.20.0", "1.23.2", "1.24.0"])
def test_an_onnxruntime_that_reads_any_file_is_refused(version, monkeypatch, tmp_path):
    monkeypatch.setattr("onnxruntime.__version__", version)
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ConfigError, match=rf"onnxruntime {version} reads any file.*1\.24\.1"):
        load_program(tmp_path / "model.onnx")


def test_a_damaged_folder_and_wrong_options_are_told(written, trained, told, tmp_path):
    for name, content in (("model.onnx", b"x"), ("model.json", b"{}")):
        (tmp_path / "model.json").write_bytes((written / "model.json").read_bytes())
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            CheckpointError, match=r"is damaged|cannot be read|missing \d+ required"
        ):
            Classifier.load(tmp_path)
    given = ["export", trained.checkpoint, "--output", tmp_path / "new"]
    code, _, error = told(*given, "--int8")
    assert code == 1
    assert "--int8 needs the config of the run: add --config." in error
