import os
from pathlib import Path

import fabricate
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from epic_pl.config_files import find_config, read_yaml
from epic_pl.data import TableDataModule
from epic_pl.errors import ConfigError, DataError
from epic_pl.inspection.guess import guess_columns
from epic_pl.inspection.init import summarize, write_config


@pytest.fixture(autouse=True)
def images(folder):
    (folder / "pics").mkdir()
    for index in range(40):
        Image.new("RGB", (300, 200)).save(folder / "pics" / f"{index}.jpg")


def _config(folder, **options):
    """The config for the table of a folder, as it is read again."""
    return yaml.safe_load(write_config(folder, **options)[0].read_text())


def _table(image="pics/{}.jpg", **columns):
    table = {
        "row": [f"r{i}" for i in range(40)],
        "photo": [image.format(i) for i in range(40)],
        "caption": [f"a caption that is number {i}" for i in range(40)],
        "kind": ["cat", "dog"] * 20,
    }
    return pa.table({k: v for k, v in (table | columns).items() if v is not None})


def test_images_are_found_beside_the_table_or_in_a_folder_there(folder):
    guess = guess_columns(_table(), folder)
    assert (guess.image_column, guess.image_root) == ("photo", None)
    assert guess.unused == ["row"]
    assert guess_columns(_table(image="{}.jpg"), folder).image_root == folder / "pics"


def test_whole_paths_start_from_the_folder_that_they_share(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "b").mkdir(parents=True)
    for number in range(40):
        (elsewhere / "b" / f"{number}.jpg").touch()
    guess = guess_columns(_table(image=f"{elsewhere}/b/{{}}.jpg"), folder)
    assert (guess.image_column, guess.image_root) == ("photo", elsewhere / "b")
    here = [str(folder / "pics" / "0.jpg"), *(f"{elsewhere}/b/{n}.jpg" for n in range(1, 40))]
    common = Path(os.path.commonpath([folder / "pics", elsewhere]))
    assert guess_columns(_table(photo=here), folder).image_root == common
    # "/" would let any path in
    here[0] = "/0.jpg"
    assert guess_columns(_table(photo=here), folder).image_root is None


def test_names_without_a_suffix_become_a_template(folder):
    guess = guess_columns(_table(image="{}"), folder)
    assert (guess.image_column, guess.image_root) == ("{photo}.jpg", folder / "pics")
    assert "photo" not in [*guess.text_columns, *guess.unused]
    by_id = guess_columns(_table(photo=None, id=list(range(40))), folder)
    assert (by_id.image_column, by_id.id_column) == ("{id}.jpg", "id")


@pytest.mark.parametrize("image", ["pics/{}.jpg ", "gone-{}", "https://example.org/{}"])
def test_a_column_called_like_images_is_never_dropped(folder, image):
    assert guess_columns(_table(image=image), folder).image_column == "photo"
    about = _table(photo=None, photo_title=[f"a photo of {i}" for i in range(40)])
    assert guess_columns(about, folder).image_column is None


NUMBERS = [f"{number}" for number in range(100, 140)]
CIRCLES = [f"红色的圆形第{number}号" for number in range(40)]
KINDS = [f"kind {number // 4}" for number in range(40)]
LABEL = {"label_column": "label"}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"split": ["train", "dev"] * 20}, {"split_column": "split"}),
        ({"split": ["left", "right"] * 20}, {"split_column": None}),
        # a slip beside train is for the check to name
        ({"split": ["train", "tst"] * 20}, {"split_column": "split"}),
        ({"id": list(range(40))}, {"id_column": "id"}),
        ({"id": [1, 1] * 20}, {"id_column": None}),
        ({"kind": ["a|b", "a", "a|b|c", "b"] * 10}, {"label_separator": "|", "multilabel": True}),
        ({"kind": ['["a", "b"]', '["a"]'] * 20}, {"label_separator": None, "multilabel": True}),
        ({"kind": ["Paris, France", "Rome, Italy"] * 20}, {"label_separator": None}),
        ({"photo": None}, {"image_column": None, "text_columns": ["caption"]}),
        ({"photo": None, "image_number": NUMBERS}, {"image_column": None}),
        ({"caption": None}, {"image_column": "photo", "text_columns": []}),
        ({"caption": None, "标题": CIRCLES}, {"text_columns": ["标题"]}),
        ({"imageClass": [0, 1] * 20}, {"label_column": "imageClass"}),
        ({"kind": None, "label_source": ["x", "y"] * 20, "label": [*"abcd"] * 10}, LABEL),
        (
            {"kind": None, "label": [f"species {i % 25}" for i in range(40)], "new": [0, 1] * 20},
            {**LABEL, "text_columns": ["caption"]},
        ),
        ({"target_url": [f"u{i}" for i in range(40)]}, {"label_column": "kind"}),
        ({"labels": [[0.5, i / 3] for i in range(40)]}, {"label_column": "kind"}),
        ({"label": [1.0, 2.0, None, 1.0] * 10}, LABEL),
        # fewer texts than classes, but other ones in each class
        (
            {"caption": None, "desc": [f"a nice {i % 8}" for i in range(40)], "label": KINDS},
            {"text_columns": ["desc"], **LABEL},
        ),
        # the class in other words is no text to learn from
        (
            {"kind_title": ["A cat, of course", "The dog"] * 20},
            {"text_columns": ["caption"], "label_column": "kind"},
        ),
        (
            {"kind": [0, 1] * 20, "kind_text": ["cat", "dog"] * 20, "caption": None},
            {"text_columns": [], "label_column": "kind"},
        ),
    ],
)
def test_roles_of_columns_are_guessed(folder, columns, expected):
    guess = guess_columns(_table(**columns), folder)
    assert {name: getattr(guess, name) for name in expected} == expected


def test_texts_may_be_named_by_a_template_or_a_list(folder):
    pq.write_table(_table(), folder / "t.parquet")
    guess = guess_columns(_table(), folder, text=["caption", "row"])
    assert (guess.image_column, guess.text_columns, guess.unused) == (
        None,
        ["caption", "row"],
        ["photo"],
    )
    with pytest.raises(DataError, match="no column 'body' for the text"):
        guess_columns(_table(), folder, text=["caption", "body"])
    data = _config(folder, text="{row}: {caption}")["data"]["init_args"]
    assert (data["image_column"], data["text_columns"]) == (None, "{row}: {caption}")


RARE = [f"one of {number % 3}" for number in range(40)]


@pytest.mark.parametrize(
    ("columns", "named", "hint"),
    [
        (
            {"caption": None, "my desc": RARE},
            {},
            "; my desc could be one: --image photo --text 'my",
        ),
        ({}, {"image": "photo"}, "; caption could be one: --image photo --text caption\n"),
        ({}, {}, ""),
        ({"caption": ["A cat", "The dog"] * 20}, {}, "no column of texts\n"),  # restates the class
    ],
)
def test_a_column_that_could_be_the_text_is_named(folder, columns, named, hint):
    said = summarize(Path("epic.yaml"), guess_columns(_table(**columns), folder, **named))
    assert hint in said
    assert ("could be one" in said) == ("could be one" in hint)


@pytest.mark.parametrize(
    ("label", "refused"),
    [
        ([f"{number / 3:.2f}" for number in range(40)], True),  # prices in a CSV file
        ([f"{number},{number % 3}9" for number in range(40)], True),
        ([f"{number % 25}.{number % 25:03},50 €" for number in range(100)], True),
        ([f"${number % 25},{number % 25:03}.50" for number in range(100)], True),
        ([f"{number % 25} {number % 25:03},5 EUR" for number in range(100)], True),
        ([number % 21 + 0.5 for number in range(40)], True),
        ([*range(1, 41)], True),
        ([number % 20 + 0.5 for number in range(40)], False),  # ratings
        ([float(number % 20) if number else None for number in range(40)], False),
        ([float(number % 21) if number > 5 else float("nan") for number in range(60)], False),
        ([f"{number % 20},5 %" for number in range(40)], False),
        ([f"{number % 5},1{number % 7},{number % 9}" for number in range(40)], False),  # several
        ([f"{number % 25},5" if number else "low" for number in range(100)], False),
        ([f"class {number // 2}" for number in range(40)], False),
    ],
)
def test_numbers_to_predict_are_no_classes(label, refused, folder):
    repeats = len(label) // 40 + 1
    table = pa.concat_tables([_table()] * repeats).slice(0, len(label))
    table = table.append_column("target", pa.array(label))
    if not refused:
        assert guess_columns(table, folder, label="target").label_column == "target"
        return
    for named in (None, "target"):
        with pytest.raises(DataError, match=r"'target', the label, holds \d+ different.*ranges"):
            guess_columns(table, folder, label=named)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"image": "kind"}, r"'kind', named for the images, holds no file in .*'cat'\. Name"),
        ({"image": "pics/{row}.png"}, r"holds no file in .*'pics/r0\.png'"),
        ({"image": "kind", "label": "kind"}, r"'kind' for the image, 'kind' for the label: change"),
        ({"text": ["caption", "kind"], "label": "kind"}, "one role"),
        ({"label": "row"}, "'row', the label, has as many classes as rows, 40"),
        ({"label": "knid"}, r"no column 'knid' for the label.* mean 'kind'\?"),
        ({"image": "photo", "text": "Caption"}, r"mean 'caption'\?"),
    ],
)
def test_a_column_that_is_named_for_a_role_it_cannot_have_is_refused(folder, named, said):
    with pytest.raises(DataError, match=said):
        guess_columns(_table(), folder, **named)


def test_named_images_may_be_a_template_some_files_of_which_exist(folder):
    columns = _table(photo=[f"{i}" for i in range(30, 70)])
    guess = guess_columns(columns, folder, image="pics/{photo}.jpg", label="kind")
    assert guess.image_column == "pics/{photo}.jpg"


def test_table_without_label_or_content_is_refused_with_its_columns(folder):
    with pytest.raises(
        DataError, match=r"looks like a label of several values; there are \['row', 'photo'"
    ):
        guess_columns(_table(kind=None), folder)
    with pytest.raises(DataError, match="like images or text"):
        guess_columns(_table(photo=None, caption=None), folder)


def test_config_fits_the_table_without_editing(folder):
    rows = _table(image="{}.jpg").rename_columns(["row", "photo", 'cap: "x" {y}', "kind"])
    pa.csv.write_csv(rows, folder / "table.csv")
    config = _config(folder)
    data = config["data"]["init_args"]
    assert data["text_columns"] == 'cap: "x" {y}'
    module = TableDataModule(**fabricate.ENCODERS | data)
    module.setup()
    assert module.class_names == ["cat", "dog"]
    recipe = read_yaml(find_config("table.yaml"))
    recipe["model"]["encoders"]["image_size"] = 224
    assert config["model"] == recipe["model"]
    assert set(recipe["data"]["init_args"]) <= set(data)
    assert data["on_bad_sample"] == "error"


@pytest.mark.parametrize(
    ("caption", "most"),
    [
        ("five words of plain English", 32),
        ("Straßenbahnhaltestellenüberdachung aus gebürstetem Edelstahl, feuerverzinkt", 35),
        ("一张红色正方形的照片放在白色的桌子上旁边还有一只猫", 34),
    ],
)
def test_texts_of_any_script_are_given_room(folder, caption, most):
    pq.write_table(_table(caption=[f"{caption} {i}" for i in range(40)]), folder / "t.parquet")
    assert _config(folder)["data"]["init_args"]["max_text_tokens"] == most


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize(
    ("rows", "validation", "best"),
    # of rows without a split, a tenth is drawn
    [(3000, None, True), (2990, None, False), (900, 300, True), (3000, 299, False)],
)
def test_an_epoch_is_chosen_where_validation_has_rows_enough(
    folder, rows, validation, best, multilabel
):
    kinds = ["a|b", "a", "b"] if multilabel else ["cat", "dog"]
    columns = {
        "text": [f"a caption that is number {i}" for i in range(rows)],
        "kind": [kinds[i % len(kinds)] for i in range(rows)],
    }
    if validation is not None:
        columns["split"] = ["Dev"] * validation + ["train"] * (rows - validation)
    pq.write_table(pa.table(columns), folder / "t.parquet")
    text = write_config(folder)[0].read_text()
    config = yaml.safe_load(text)
    metric = "val/f1_micro" if multilabel else "val/accuracy"
    assert config["checkpoint"]["monitor"] == (metric if best else None)
    assert config["early_stopping"]["monitor"] == metric
    patience = config["early_stopping"]["patience"]
    assert patience < config["trainer"]["max_epochs"] if best else patience is None
    assert f"the {'best' if best else 'last'} epoch (" in text
    assert f"here {validation or rows // 10})" in text


def test_config_is_never_replaced_unless_forced_and_may_lie_elsewhere(folder, tmp_path):
    pq.write_table(_table(), folder / "t.parquet")
    config = _config(folder, output=tmp_path / "new" / "mine.yaml")
    data = config["data"]["init_args"]
    assert data["table"] == str(folder / "t.parquet")
    assert data["image_root"] is None  # so that images of predict_table are beside that table
    assert not (folder / "epic.yaml").exists()
    write_config(folder)[0].write_text("mine")
    with pytest.raises(ConfigError, match="--force"):
        write_config(folder / "t.parquet")
    assert (folder / "epic.yaml").read_text() == "mine"
    assert "TableDataModule" in write_config(folder, force=True)[0].read_text()


def test_the_commands_to_run_next_name_the_written_file(folder, monkeypatch):
    monkeypatch.chdir(folder)
    pq.write_table(_table(), "t.parquet")
    for name, named in (("table.yaml", "./table.yaml"), ("new/mine.yaml", "new/mine.yaml")):
        config, guess = write_config(Path("t.parquet"), output=Path(name))
        assert summarize(config, guess).count(f"--config {named}") == 3


@pytest.mark.parametrize("names", [[], ["train.csv", "test.csv"]])
def test_folder_with_no_table_or_several_is_refused(folder, names):
    for name in names:
        (folder / name).write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=f"found: {', '.join(sorted(names)) or 'none'}"):
        write_config(folder)
