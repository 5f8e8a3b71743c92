import os
import re
import shutil
from pathlib import Path

import fabricate
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from epic_pl.data import TableDataModule
from epic_pl.data.inspection.guess import guess_columns
from epic_pl.data.inspection.init import write_config
from epic_pl.utils.config_files import find_config, read_yaml
from epic_pl.utils.errors import ConfigError, DataError

JPEG = fabricate.encoded(Image.new("RGB", (300, 200)), "JPEG")


@pytest.fixture(autouse=True)
def images(folder):
    (folder / "pics").mkdir()
    for index in range(40):
        (folder / "pics" / f"{index}.jpg").write_bytes(JPEG)


@pytest.fixture
def no_images(folder, images):
    shutil.rmtree(folder / "pics")


def _made(folder, table, **options):
    """The config for a table, as it is read again, and what init prints."""
    pq.write_table(table, folder / "t.parquet")
    config, said = write_config(folder / "t.parquet", force=True, **options)
    return read_yaml(config), said


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


@pytest.mark.parametrize("image", ["pics/{}.jpg ", "gone-{}", "https://example.org/{}"])
def test_a_column_called_like_images_is_never_dropped(folder, image):
    assert guess_columns(_table(image=image), folder).image_column == "photo"


def test_images_to_which_no_column_leads_are_asked_for(folder):
    about = _table(photo=None, photo_title=[f"a photo of {i}" for i in range(40)])
    with pytest.raises(
        DataError, match=r"images such as .*\.jpg, but .*--image 'photos/{id}\.jpg'.* --image none"
    ):
        guess_columns(about, folder, text="caption")
    assert guess_columns(about, folder, image="none", text="caption").image_column is None
    by_id = guess_columns(_table(photo=None, id=range(40)), folder, image="pics/{id}.jpg")
    assert (by_id.image_column, by_id.id_column) == ("pics/{id}.jpg", "id")


CODES = [f"SKU-{number}" for number in range(40)]
NUMBERS = [f"{number}" for number in range(100, 140)]
CIRCLES = [f"红色的圆形第{number}号" for number in range(40)]
KINDS = [f"kind {number // 4}" for number in range(40)]
LABEL = {"label_column": "label"}
KIND = {"kind": None, "label": [*"abcd"] * 10}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"split": ["train", "dev"] * 20}, {"split_column": "split"}),
        ({"split": ["train"] * 40}, {"split_column": "split"}),
        ({"usage": ["train", "test"] * 20}, {"split_column": "usage"}),
        ({"my_split": [" Train", "TEST"] * 20}, {"split_column": "my_split"}),
        ({"id": list(range(40))}, {"id_column": "id"}),
        ({"id": [1, 1] * 20}, {"id_column": None}),
        ({"sku": CODES}, {"id_column": "sku"}),
        ({"sku": CODES, "id": NUMBERS}, {"id_column": "id"}),
        ({"sku": [*CODES[1:], CODES[1]], "item_number": CODES}, {"id_column": "item_number"}),
        ({"code": [*CODES[:39], None]}, {"id_column": None}),
        ({"number": list(range(40))}, {"id_column": None}),
        ({"caption": None, "code_title": CIRCLES}, {"id_column": None}),
        ({"kind": ["a|b", "a", "a|b|c", "b"] * 10}, {"label_separator": "|", "multilabel": True}),
        ({"kind": ['["a", "b"]', '["a"]'] * 20}, {"label_separator": None, "multilabel": True}),
        ({"kind": ["Paris, France", "Rome, Italy"] * 20}, {"label_separator": None}),
        ({"photo": None}, {"image_column": None, "text_columns": "caption"}),
        ({"photo": None, "image_number": NUMBERS}, {"image_column": None}),
        ({"caption": None}, {"image_column": "photo", "text_columns": None}),
        # the only column of many strings in a table without images
        ({"photo": None, "caption": None, "标题": CIRCLES}, {"text_columns": "标题"}),
        ({"caption": None, "remark": ["fine", "so so"] * 20, **KIND}, {"text_columns": None}),
        ({"imageClass": [0, 1] * 20}, {"label_column": "imageClass"}),
        ({"kind": None, "label_source": ["x", "y"] * 20, "label": [*"abcd"] * 10}, LABEL),
        (
            {"kind": None, "label": [f"species {i % 20}" for i in range(40)], "new": [0, 1] * 20},
            {**LABEL, "text_columns": "caption"},
        ),
        ({"target_url": [f"u{i}" for i in range(40)]}, {"label_column": "kind"}),
        ({"labels": [[0.5, i / 3] for i in range(40)]}, {"label_column": "kind"}),
        ({"brand_class": ["x", "y", "z", "x"] * 10}, {"label_column": "brand_class"}),
        ({"label": [1.0, 2.0, None, 1.0] * 10}, LABEL),
    ],
)
def test_roles_of_columns_are_guessed(folder, columns, expected):
    if "photo" in columns:  # else the images would be asked for
        shutil.rmtree(folder / "pics")
    guess = guess_columns(_table(**columns), folder)
    assert {name: getattr(guess, name) for name in expected} == expected


def test_ids_and_columns_that_are_left_out_are_listed_with_a_reason(folder):
    columns = {"sku": CODES, "note": [""] * 40, "price": [f"{i},50 €" for i in range(40)]}
    _, said = _made(folder, _table(**columns))
    assert "\n  ids         sku\n" in said
    assert "\n  numbers     price ('0,50 €' is 0.5)\n" in said
    assert f"\n  left out    row: another value in each row\n{'':14}note: empty\n" in said


def test_texts_may_be_named_by_a_template_or_a_list(folder):
    guess = guess_columns(_table(), folder, text=["caption", "row"])
    assert (guess.text_columns, guess.unused) == (["caption", "row"], [])
    config, _ = _made(folder, _table(), text="{row}: {caption}")
    assert config["data"]["init_args"]["text_columns"] == "{row}: {caption}"


@pytest.mark.parametrize(
    ("named", "columns"),
    [
        ({"text": "caption"}, ("photo", "caption")),
        ({"image": "photo"}, ("photo", "caption")),
        ({"image": "none"}, (None, "caption")),
        ({"text": "none"}, ("photo", None)),
    ],
)
def test_a_modality_is_left_out_only_on_request(folder, named, columns):
    guess = guess_columns(_table(), folder, **named)
    assert (guess.image_column, guess.text_columns) == columns


def test_names_of_images_that_are_not_found_are_asked_for(folder):
    shutil.move(folder / "pics", folder / "2024" / "pics")
    table = _table(image="IMG_{}.JPG").rename_columns(["row", "Foto", "caption", "kind"])
    with pytest.raises(DataError, match=r"'Foto' names images such as 'IMG_0.JPG'.*data or .*2024"):
        guess_columns(table, folder, text="caption")
    for image, column in (("none", None), ("Foto", "Foto"), ("2024/pics/{Foto}",) * 2):
        assert guess_columns(table, folder, image=image, text="caption").image_column == column


def test_all_questions_are_asked_at_once(folder):
    columns = {"caption": None, "Text": None, "colour": ["red", "blue"] * 20, "b": CIRCLES}
    table = _table(**columns, fold=[*"01234"] * 8)
    command = "epic-pl data init ... --split none --label 'kind' --text 'b'"
    with pytest.raises(DataError, match=f"'fold' is called.*the label:.*the texts:.*`{command}`"):
        guess_columns(table, folder)
    guess = guess_columns(table, folder, split="none", label="kind", text="b")
    assert (guess.text_columns, guess.label_column) == ("b", "kind")


MEASURES = ["{},51", "€ {}.99", "1.234,{} EUR", "{:02}.01.2024 10:30", "2024-01-{:02}", "12 Jan {}"]


@pytest.mark.parametrize("cell", MEASURES)
def test_quantities_and_dates_are_no_texts_or_labels(folder, cell):
    cells = [cell.format(number) for number in range(40)]
    columns = {"caption": None, "b": CIRCLES, "Preis": cells, "other": [*cells[:8]] * 5}
    with pytest.raises(DataError, match=r"^Columns .* the texts: 'b'\. No name decides: choose"):
        guess_columns(_table(**columns), folder)


SORTED = ["train"] * 3000 + ["validation"] * 300 + ["test"] * 300


@pytest.mark.parametrize("name", ["split", "usage"])
def test_a_split_column_of_a_sorted_table_is_used_and_its_rows_are_told(folder, name, no_images):
    columns = {
        "text": [f"a caption that is number {i}" for i in range(3600)],
        "kind": ["cat", "dog"] * 1800,
        name: SORTED,
    }
    config, said = _made(folder, pa.table(columns))
    assert config["data"]["init_args"]["split_column"] == name
    assert re.search(rf"splits +{name} \(3,000 train, 300 val, 300 test\)\n", said)


def test_a_split_column_of_training_rows_alone_is_used_and_the_rest_drawn(folder):
    _, said = _made(folder, _table(split=["train"] * 40))
    assert re.search(r"splits +split \(40 train\); val and test rows are drawn", said)


@pytest.mark.parametrize(
    ("columns", "question"),
    [
        ({"split": ["left", "right"] * 20}, r"'split' is called.*'left' \(20 rows\), 'right' \(20"),
        (
            {"split": ["train"] * 39 + ["tst"]},
            r"'train' \(39 rows\), 'tst' \(1 rows\).*--split none",
        ),
        ({"split": ["train"] * 39 + [None]}, r"'train' \(39 rows\), '' \(1 rows\)"),
        ({"split": ["val", "test"] * 20}, r"train \(some at least\)"),
        (
            {"fold": [0, 1, 2, 3, 4] * 8},
            r"'fold' is called.*'3' \(8 rows\), \.\.\.\. .*--split none",
        ),
        ({"fold": [0.0, 1.0, 2.0, None] * 10}, "'fold' is called"),
        ({"colour": ["red", "blue"] * 20}, r"label: 'kind', 'colour'\. No name .*--label 'kind'`"),
        ({"new": ["0", "1"] * 20}, r"could be the label: 'kind', 'new'\. No name"),
        ({"x": [[1]] * 40, "y": [["a"]] * 40}, r"could be the label: 'x', 'y'\. No name"),
        (
            {"caption": None, "标题": CIRCLES},
            r"hold the texts: '标题'\. .*--text '标题'`, or --text none",
        ),
        (
            {"photo": None, "caption": None, "a": CIRCLES, "b": CIRCLES},
            r"'a', 'b'\. .*--text 'a'`\.",
        ),
        (
            {"kind": ["cat", "NA"] * 20},
            r"'kind', the label, has the cells 'NA'.* leave them",
        ),
        ({"kind": ["a|b", "b|N/A", "None", "b"] * 10}, "cells 'N/A', 'None'"),
        ({"kind": [["a"], ["NULL", "b"]] * 20}, "cells 'NULL'"),
        ({"kind": [f"[0x{'f' * 5000}]", "['b']"] * 20}, r"but '\[0xf{50,60} cannot be read as one"),
        ({"kind": ["['a', 'b']", "['null']"] * 20}, "cells 'null'"),
    ],
)
def test_what_is_unclear_is_asked(folder, columns, question):
    if "photo" in columns:
        shutil.rmtree(folder / "pics")
    with pytest.raises(DataError, match=question):
        guess_columns(_table(**columns), folder)


@pytest.mark.parametrize("cell", [{"a": 1}, b"\xff"])
def test_a_label_of_no_scalars_is_refused(folder, cell):
    with pytest.raises(DataError, match=r"'kind' holds .*strings or numbers are needed"):
        guess_columns(_table(kind=[cell] * 40), folder, label="kind")


def test_a_row_to_predict_may_lack_its_label(folder):
    splits = ["train"] * 30 + ["predict"] * 10
    kinds = ["cat", "dog"] * 15 + ["NA"] * 10
    assert guess_columns(_table(kind=kinds, split=splits), folder).label_column == "kind"


def test_questions_are_answered_by_options(folder):
    table = _table(caption=None, remark=CIRCLES, fold=[*"01234"] * 8, colour=["red", "blue"] * 20)
    guess = guess_columns(table, folder, label="colour", text="none", split="none")
    assert (guess.image_column, guess.text_columns, guess.split_column) == ("photo", None, None)
    assert guess.unused == ["row", "kind", "remark", "fold"]
    rows = ["train"] * 30 + ["val"] * 10
    guess = guess_columns(_table(split=["x"] * 40, usage=rows), folder, split="usage")
    assert (guess.split_column, guess.split_rows) == ("usage", {"train": 30, "val": 10})
    with pytest.raises(DataError, match="'split' must hold one of train"):
        guess_columns(_table(split=["x"] * 40), folder, split="split")


@pytest.mark.parametrize(
    ("label", "refused"),
    [
        ([f"{number / 3:.2f}" for number in range(40)], True),  # prices in a CSV file
        ([f"${number % 25},{number % 25:03}.50" for number in range(40)], True),
        ([*range(1, 41)], True),
        ([f"species {number // 2}" for number in range(40)], False),
        ([float(number % 20) if number else None for number in range(40)], False),
        ([f"{number % 5},1{number % 7},{number % 9}" for number in range(40)], False),  # several
    ],
)
def test_a_label_that_hardly_occurs_twice_is_refused(label, refused, folder):
    table = _table().append_column("target", pa.array(label))
    if not refused:
        assert guess_columns(table, folder, label="target").label_column == "target"
        return
    for named in (None, "target"):
        with pytest.raises(DataError, match=r"'target', the label, has \d+ different.*ranges"):
            guess_columns(table, folder, label=named)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"image": "kind", "label": "kind"}, "'kind' is named twice: change one"),
        ({"text": ["caption", "kind"], "label": "kind"}, "one role"),
        ({"label": "row"}, "'row', the label, has 40 different values in 40 rows: "),
        ({"label": "knid"}, r"no column 'knid' \(label_column\).* mean 'kind'\?"),
        ({"split": "splt"}, r"no column 'splt' \(split_column\)"),
        ({"image": "photo", "text": "Caption"}, r"mean 'caption'\?"),
    ],
)
def test_a_column_that_is_named_for_a_role_it_cannot_have_is_refused(folder, named, said):
    with pytest.raises(DataError, match=said):
        _made(folder, _table(), **named)


def test_table_without_label_or_content_is_refused_with_its_columns(folder):
    with pytest.raises(
        DataError, match=r"looks like a label of several values; there are \['row', 'photo'"
    ):
        guess_columns(_table(kind=None), folder)
    shutil.rmtree(folder / "pics")
    with pytest.raises(DataError, match="like images or text"):
        guess_columns(_table(photo=None, caption=None), folder)


def test_config_fits_the_table_without_editing(folder):
    rows = _table(image="{}.jpg").rename_columns(["row", "photo", 'cap: "x" {y}', "kind"])
    config, _ = _made(folder, rows, image="photo", text='cap: "x" {y}')
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
    ("caption", "tokens"),
    [
        ("five words of plain English", 32),
        ("Straßenbahnhaltestellenüberdachung aus gebürstetem Edelstahl, feuerverzinkt", 64),
        ("一张红色正方形的照片放在白色的桌子上旁边还有一只猫", 64),
        ("word " * 60, 128),
        ("word " * 600, 128),
    ],
)
def test_texts_of_any_script_are_given_room_in_one_of_few_sizes(folder, caption, tokens):
    config, said = _made(folder, _table(caption=[f"{caption} {i}" for i in range(40)]))
    assert config["data"]["init_args"]["max_text_tokens"] == tokens
    assert f"  tokens      {tokens} of a text, the rest is cut (95% have about " in said


@pytest.mark.parametrize(
    ("sizes", "size", "resize"),
    [
        ([(300, 240)], 224, "auto"),
        ([(240, 300)] * 4 + [(600, 300)], 224, "auto"),  # a fifth are long
        ([(300, 240)] * 2 + [(200, 400)], 224, "pad"),
        ([(320, 240)], 224, "pad"),
        ([(120, 60)], 112, "pad"),
    ],
)
def test_long_images_are_padded_and_choices_are_told(folder, sizes, size, resize):
    for index in range(40):  # sorted: the first rows are no sample
        image = Image.new("RGB", sizes[index * len(sizes) // 40])
        image.save(folder / "pics" / f"{index}.jpg")
    options, said = _made(folder, _table())
    assert options["model"]["encoders"]["image_size"] == size
    assert options["data"]["init_args"]["resize"] == resize
    assert re.search(rf"image size +{size} pixels \(shorter sides are \d+", said)
    assert re.search(rf"resize +{resize}: .* \(\d+% are 4:3 or longer\)", said)


def test_two_tables_that_are_alike_can_share_encoders(folder):
    made = []
    for caption in ("twelve words " * 6, "nine words " * 9):
        config, _ = _made(folder, _table(caption=[f"{caption}{i}" for i in range(40)]))
        shared = (config["data"]["init_args"][name] for name in ("resize", "max_text_tokens"))
        made.append((config["model"]["encoders"], *shared))
    assert made[0] == made[1]
    assert made[0][1:] == ("pad", 64)


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["Schöne Küche mit großem Esstisch", "Ein Mann steht auf der Straße"], True),
        (["Красная машина", "Синий дом"], True),
        (["白色的桌子", "一只猫"], True),
        (["A man stands on the street", "Children play football"], False),
        (["Sony WH-1000XM4 headphones", "Levi's 501 jeans W32"], False),
    ],
)
def test_a_hint_is_given_for_texts_that_are_not_english(folder, texts, told):
    _, said = _made(folder, _table(caption=[f"{texts[i % 2]} {i}" for i in range(40)]))
    assert ("of letters are not a to z, but pypi:all-minilm" in said) == told


@pytest.mark.parametrize(
    ("kinds", "metric"), [(["cat", "dog"], "val/accuracy"), (["a|b", "a", "b"], "val/map")]
)
def test_a_metric_of_the_task_is_searched_for(kinds, metric, folder, no_images):
    columns = {
        "text": [f"a caption that is number {i}" for i in range(900)],
        "kind": [kinds[i % len(kinds)] for i in range(900)],
    }
    config, _ = _made(folder, pa.table(columns))
    assert config["early_stopping"] == {"monitor": metric}
    assert "checkpoint" not in config  # the last epoch is kept


def test_config_is_never_replaced_unless_forced_and_may_lie_elsewhere(folder, tmp_path):
    config, _ = _made(folder, _table(), output=tmp_path / "new" / "mine.yaml")
    data = config["data"]["init_args"]
    assert data["table"] == str(folder / "t.parquet")
    assert data["image_root"] is None  # so that images of predict_table are beside that table
    assert not (folder / "epic.yaml").exists()
    write_config(folder)[0].write_text("mine")
    with pytest.raises(ConfigError, match=r"epic.yaml exists: .* --force, or .* --output\."):
        write_config(folder / "t.parquet")
    with pytest.raises(DataError, match="does not exist"):
        write_config(folder / "nope.csv")
    assert (folder / "epic.yaml").read_text() == "mine"
    assert "TableDataModule" in write_config(folder, force=True)[0].read_text()


def test_the_commands_to_run_next_name_the_written_file(folder, monkeypatch):
    monkeypatch.chdir(folder)
    pq.write_table(_table(), "t.parquet")
    for name, named in (("table.yaml", "./table.yaml"), ("new/mine.yaml", "new/mine.yaml")):
        assert write_config(Path("t.parquet"), output=Path(name))[1].count(f"--config {named}") == 3


@pytest.mark.parametrize("names", [[], ["train.csv", "test.csv"]])
def test_folder_with_no_table_or_several_is_refused(folder, names):
    for name in names:
        (folder / name).write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=f"found: {', '.join(sorted(names)) or 'none'}"):
        write_config(folder)


IMAGES = [None]
IMAGES += [fabricate.encoded(Image.new("RGB", (300, 200), (i, 0, 0))) for i in range(1, 40)]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
def test_a_column_of_bytes_is_taken_for_the_images(folder, kind):
    images, names = pa.array(IMAGES, kind), [f"gone/{i}.jpg" for i in range(40)]
    table = _table(photo=None, data=images, filename=names)  # whose names lead to no file
    for named in ({}, {"image": "data", "text": "caption"}):
        guess = guess_columns(table, folder, **named)
        assert (guess.image_column, guess.text_columns) == ("data", "caption")
        assert "filename" in guess.unused
    with pytest.raises(DataError, match=r"hold images: 'photo', 'mask'\. .*--image 'photo'"):
        guess_columns(_table(photo=images, mask=images), folder)
    guess = guess_columns(_table(sha=images), folder)  # beside image files
    assert (guess.image_column, guess.unused) == ("photo", ["row", "sha"])


@pytest.mark.parametrize(("free", "level"), [(10**9, "auto"), (20_000_000, "off")])
def test_features_are_stored_where_the_disk_has_room(folder, monkeypatch, free, level):
    """40 rows of 32 tokens take up to 15 MB."""
    monkeypatch.setattr("epic_pl.data.inspection.init.free_bytes", lambda _: free)
    config, said = _made(folder, _table())
    assert config["cache"]["level"] == level
    (line,) = (line for line in said.splitlines() if "features  " in line)
    assert "up to 15.0 MB" in line
    assert ("not stored" in line) == (level == "off")
