"""Models as folders, and on a hub that is fabricated."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from huggingface_hub import CommitInfo, HfApi, RepoUrl, snapshot_download
from safetensors.torch import load_file, save

import tiny_runs
from epic_pl import Classifier, EPICModule
from epic_pl.inference import sharing
from epic_pl.inference.export.folder import find_tokenizer
from epic_pl.module.checkpoint import check_preprocessing
from epic_pl.utils.errors import AssetError, CheckpointError
from tolerance import assert_differ

ITEMS = [{"text": "a red square"}, {"image": "data/images/test0.png"}]


MANY = {"class_path": "Ensemble", "init_args": {"members": 100_000}}


@pytest.fixture
def saved(classifier, tmp_path):
    classifier.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_saved_folder_is_the_same_model_and_small(classifier, saved, tmp_path):
    (tmp_path / "new").touch()
    assert len({path.stat().st_mode for path in (*saved.iterdir(), tmp_path / "new")}) == 1
    names = {"README.md", "config.json", "model.safetensors"}
    assert {path.name for path in saved.iterdir()} == names
    scores = Classifier.load(saved, device="cpu").probabilities(ITEMS)
    np.testing.assert_array_equal(scores, classifier.probabilities(ITEMS))
    trained_bytes = sum(4 * p.numel() for p in classifier.module.parameters() if p.requires_grad)
    assert (saved / "model.safetensors").stat().st_size < 2 * trained_bytes + 20_000
    card = (saved / "README.md").read_text()
    assert "library_name: epic_pl" in card
    assert 'Classifier.load("saved")' in card
    assert "None were given" in card


def _without(key):
    return lambda config: config.pop(key)


def _option(value):
    return lambda config: config["options"].update(method_options=value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without("library_name"), "describes a model of None"),
        (lambda config: config["epic_pl"].update(format_version=4), "has format 4"),
        (_without("weights_sha256"), "weights_sha256 differs"),
        (_without("options"), "are not options: it is damaged"),
        (lambda config: config["options"].pop("num_classes"), "No model can be built"),
        (_without("epic_pl"), "not a checkpoint of EPICModule"),
        (_option({"a": {"class_path": "subprocess.Popen"}}), "name a class to build"),
        (lambda config: config["options"].update(num_classes=4), "class_names"),
        (lambda config: config["options"].update(unknown=4), "unexpected keyword"),
        (
            lambda config: config["options"].update(num_classes=10**9),
            "num_classes of .* is 1,000,000,000",
        ),
        (lambda config: config["options"].update(method=MANY), "members of .* is 100,000"),
        (lambda config: config["epic_pl"]["text_encoder"].update(fingerprint="0"), "text encoder"),
    ],
)
def test_a_changed_description_is_refused(saved, change, said):
    path = saved / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    with pytest.raises(Exception, match=said) as raised:
        Classifier.load(saved)
    assert type(raised.value).__module__ == "epic_pl.utils.errors"


def test_a_subclass_is_loaded_with_its_hooks_from_a_folder_as_from_a_checkpoint(
    classifier, tmp_path
):
    class Own(EPICModule):
        loaded = False

        def on_load_checkpoint(self, checkpoint):
            super().on_load_checkpoint(checkpoint)
            self.loaded = True

    module = Own(**classifier.module.hparams)
    Classifier(module, "cpu").save_pretrained(tmp_path / "own")
    tiny_runs.save(module, tmp_path / "own.ckpt")
    for path in ("own", "own.ckpt"):
        again = Classifier.load(tmp_path / path, device="cpu").module
        assert isinstance(again, Own)
        assert again.loaded
        assert not tiny_runs.differing(again.state_dict(), module.state_dict())


def _save_and_die(classifier, folder, step):
    """Save, and be killed at one of the steps that change the folder."""
    replace, steps = Path.replace, iter(range(step + 1))

    def until(path, target):
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(path, target)

    Path.replace = until
    classifier.save_pretrained(folder)


@pytest.mark.parametrize("step", range(3))
def test_a_save_that_is_killed_leaves_the_old_model_the_new_one_or_an_error(
    classifier, saved, step
):
    """The step is the number of files that were replaced before the kill."""
    (saved / "README.md").unlink()  # the third file
    old = classifier.probabilities(ITEMS)
    classifier.module.postprocessor.temperature.mul_(2)
    classifier.module.class_names.reverse()
    classifier.module.hparams["class_names"] = classifier.module.class_names
    new = classifier.probabilities(ITEMS)
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=_save_and_die, args=(classifier, saved, step))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    if step == 1:
        with pytest.raises(CheckpointError, match=r"weights_sha256 differs.*Save or fetch"):
            Classifier.load(saved)
    else:
        loaded = Classifier.load(saved, device="cpu")
        names, scores = (
            (["blue", "green", "red"], old) if step == 0 else (["red", "green", "blue"], new)
        )
        assert loaded.class_names == names
        np.testing.assert_array_equal(loaded.probabilities(ITEMS), scores)
    for left in saved.glob(".*.partial"):
        os.utime(left, (0, 0))
    classifier.save_pretrained(saved)
    assert Classifier.load(saved, device="cpu").class_names == ["red", "green", "blue"]
    assert sorted(os.listdir(saved)) == ["README.md", "config.json", "model.safetensors"]


def test_changed_weights_are_refused(saved):
    def write(content):
        path.write_bytes(content)
        config = json.loads((saved / "config.json").read_text())
        config["weights_sha256"] = hashlib.sha256(content).hexdigest()
        (saved / "config.json").write_text(json.dumps(config))

    path = saved / "model.safetensors"
    state, data = load_file(path), path.read_bytes()
    first = next(iter(state))
    for changed in (
        {**state, "more": torch.ones(1)},
        {name: tensor for name, tensor in state.items() if name != first},
        {**state, first: state[first].double().repeat(2)},
    ):
        write(save(changed))
        with pytest.raises(CheckpointError, match=r"does not fit|of shape"):
            Classifier.load(saved)
    for content in (b"", data[:100], b"\xff" * 100):
        write(content)
        with pytest.raises(CheckpointError, match="cannot be read"):
            Classifier.load(saved)
    path.write_bytes(data)  # sound, but of another description
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors is not what .*config\.json desc"
    ):
        Classifier.load(saved)


def test_safetensors_win_over_an_exported_model_beside_them(saved, classifier):
    about = {"class_names": ["evil"], "task": "multiclass", "thresholds": None, "tokenizer": None}
    (saved / "model.json").write_text(json.dumps({**about, "preprocessing": None}))
    (saved / "model.onnx").write_bytes(b"code")
    loaded = Classifier.load(saved, device="cpu")
    assert loaded.class_names == classifier.class_names


def test_encoders_that_moved_are_named(saved, tiny_vit_dir, tmp_path):
    config = json.loads((saved / "config.json").read_text())
    config["options"]["encoders"]["image"]["name"] = str(tmp_path / "gone")
    (saved / "config.json").write_text(json.dumps(config))
    shutil.copytree(tiny_vit_dir, tmp_path / "moved")
    assert Classifier.load(saved, image_encoder=str(tmp_path / "moved"))(text="a")


@pytest.mark.parametrize("how", ["saved", "checkpoint", "export", "data"])
def test_another_tokenizer_beside_the_same_weights_is_refused(
    how, saved, trained, classifier, tiny_vit_dir, tiny_tokenizer_dir, tmp_path
):
    path = shutil.copytree(tiny_tokenizer_dir, moved := tmp_path / "moved") / "tokenizer.json"
    place = saved if how == "saved" else trained.checkpoint

    def use():
        if how == "data":
            data = tiny_runs.table_data("data/table.csv", tiny_vit_dir, moved)
            check_preprocessing(classifier.module.hparams["preprocessing"], data.preprocessing)
        elif how == "export":
            find_tokenizer(sharing.load_trained(Path(place), text_encoder=str(moved)))
        else:
            Classifier.load(place, text_encoder=str(moved))

    use()  # the same files elsewhere
    plain = json.loads(path.read_text())
    words = plain["model"]["vocab"]
    words["red"], words["green"] = words["green"], words["red"]
    path.write_text(json.dumps(plain))
    with pytest.raises(CheckpointError, match="trained with a tokenizer of digest"):
        use()


class FakeHub:
    """What is asked of huggingface_hub: ``commits`` has a folder for each push, the newest last."""

    def __init__(self, root):
        self.root, self.commits, self.branches = root, {}, []

    def create_branch(self, name, branch, exist_ok):
        self.branches.append((name, branch))

    def create_repo(self, name, private, exist_ok):
        return RepoUrl(f"https://huggingface.co/{name}")

    def file_exists(self, name, file, revision):
        return name in self.commits and (self.commits[name][-1] / file).exists()

    def upload_folder(self, *, repo_id, folder_path, ignore_patterns, **_):
        commits = self.commits.setdefault(repo_id, [])
        folder = self.root / f"commit{len(commits)}"
        shutil.copytree(commits[-1] if commits else folder_path, folder)
        ignored = shutil.ignore_patterns(*(ignore_patterns or []))
        shutil.copytree(folder_path, folder, ignore=ignored, dirs_exist_ok=True)
        commits.append(folder)
        url = f"https://huggingface.co/{repo_id}/commit/{folder.name}"
        return CommitInfo(commit_url=url, commit_message="", commit_description="", oid="")

    def snapshot_download(self, name, *, revision, allow_patterns, local_files_only, token):
        commits = self.commits.get(name, [])
        commit = [c for c in commits if revision in (None, c.name)][-1]  # an IndexError if none
        snapshot = self.root / "snapshots" / commit.name
        if local_files_only and not snapshot.exists():
            raise FileNotFoundError(snapshot)
        snapshot.mkdir(parents=True, exist_ok=True)
        for file in allow_patterns:
            shutil.copy(commit / file, snapshot)
        return str(snapshot)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    fake = FakeHub(tmp_path / "hub")
    api = create_autospec(HfApi, instance=True)  # refuses arguments that the real one lacks
    for name in ("create_repo", "create_branch", "file_exists", "upload_folder"):
        getattr(api, name).side_effect = getattr(fake, name)
    download = create_autospec(snapshot_download, side_effect=fake.snapshot_download)
    monkeypatch.setattr(sharing, "HfApi", lambda token: api)
    monkeypatch.setattr(sharing, "snapshot_download", download)
    return fake


def test_a_model_is_pushed_to_a_hub_and_loaded_by_its_name(hub, classifier):
    expected = classifier.probabilities(ITEMS)
    address = classifier.push_to_hub("me/squares", token="hf_x", dataset="squares")
    first = address.rpartition("/")[2]
    classifier.module.postprocessor.temperature.fill_(2)
    classifier.push_to_hub("me/squares", token="hf_x", dataset="others")
    with pytest.raises(AssetError, match="me/squares"):  # before anything was fetched
        Classifier.load("me/squares", local_files_only=True)
    newest = Classifier.load("me/squares", device="cpu")
    np.testing.assert_array_equal(newest.probabilities(ITEMS), classifier.probabilities(ITEMS))
    pinned = Classifier.load(f"me/squares@{first}", device="cpu")
    offline = Classifier.load("me/squares", revision=first, local_files_only=True)
    for model in (pinned, offline):
        np.testing.assert_array_equal(model.probabilities(ITEMS), expected)
    assert_differ(newest.probabilities(ITEMS), expected)
    files = {path.name: path for path in hub.commits["me/squares"][-1].iterdir()}
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    assert "on squares" in files["README.md"].read_text()  # the first card stays
    fetched = {path.name for path in (hub.root / "snapshots").rglob("*.*")}
    assert fetched == {"config.json", "model.safetensors"}
    classifier.push_to_hub("me/squares", token="hf_x", revision="trial")
    assert hub.branches == [("me/squares", "trial")]
    for name, revision in (("me/none", None), ("me/squares", "0" * 40)):
        with pytest.raises(AssetError, match=name):
            Classifier.load(name, revision=revision)


def test_what_is_neither_a_folder_nor_on_a_hub_is_told(workdir):
    with pytest.raises(AssetError, match="There is no folder 'me/none'"):
        Classifier.load("me/none")


def test_an_address_is_no_folder():
    with pytest.raises(CheckpointError, match="no run or checkpoint at s3:"):
        Classifier.load("s3://bucket/model")
