"""Classifier: a trained model for raw images and texts.

Shape legend: N items, B batch, C classes.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, Unpack

import numpy as np
import pyarrow as pa
import torch
from jsonargparse import ArgumentError

from epic_pl.data.images import BadSamplePolicy
from epic_pl.data.inspection.init import write_config
from epic_pl.data.processor import Item
from epic_pl.inference.bulk import checked_dataset, read_source
from epic_pl.inference.description import DESCRIPTION
from epic_pl.inference.exported import ExportedModel
from epic_pl.inference.item_classifier import Floats, ItemClassifier, Label, Loading, load_batches
from epic_pl.inference.model_card import write_card
from epic_pl.inference.models import TrainedModel
from epic_pl.inference.sharing import WEIGHTS, find_model, load_trained, push_model, write_model
from epic_pl.module import EPICModule, Loss, Method
from epic_pl.module.config import plain
from epic_pl.module.outputs import warn_of_absence
from epic_pl.module.postprocess import assign_labels
from epic_pl.module.prediction_table import prediction_table, sample_columns
from epic_pl.nn.pair import Pair
from epic_pl.utils.config_files import INIT_CONFIG
from epic_pl.utils.errors import CheckpointError, ConfigError
from epic_pl.utils.plugins import import_packages
from epic_pl.utils.types import Batch
from epic_pl.utils.validate import check_at_least

_SHOWN = 5  # default number of labels per item


class Classifier(ItemClassifier[Floats, list[Label]]):
    """Classifies image-text pairs; the image or the text may be missing.

    A warning says once if no training sample lacked what is missing, so that it was not learned.

    Images are prepared as in training: EXIF orientation applied, transparency on white, 8 bits,
    resized and cropped as the encoder was trained. Scores are probabilities, calibrated on
    the validation split; with fewer than 100 rows there, they may be too high or too low.

    Args:
        model: a trained module with preprocessing options, such as from the command line, or an
            exported model.
        device: its device; None is the machine's accelerator, or its CPU.

    Attributes:
        class_names: names of the C classes.
        task: "multiclass" or "multilabel".
        processor: makes batches of images and texts.

    Raises:
        ConfigError: the model was trained on batches of another pipeline, so its preprocessing is
            unknown.
        AssetError: the text encoder's tokenizer cannot be loaded.

    Example:
        >>> clf = Classifier.load("runs/colour")  # of epic-pl fit
        >>> clf(image="images/test0.png", text="a blue square")[0]["label"]
        'blue'
        >>> len(clf([{"image": "images/test1.png", "text": None}, {"text": "red"}], top_k=2))
        2
    """

    def __init__(
        self, model: EPICModule | ExportedModel, device: str | torch.device | None = None
    ) -> None:
        self._model = TrainedModel(model, device) if isinstance(model, EPICModule) else model
        self._warned: set[str] = set()
        self.class_names, self.task = self._model.class_names, self._model.task
        self.processor = self._model.processor()

    def __repr__(self) -> str:
        names, count = self.class_names, len(self.class_names)
        shown = ", ".join(names[:_SHOWN]) + ", ..." * (count > _SHOWN)
        sides = ", ".join(f"{side} encoder {name}" for side, name in self._model.encoders.items())
        kind = f"Classifier ({self._model.method}, {self.task})"
        return f"{kind}: {count} classes ({shown})\n  {sides}"

    @property
    def thresholds(self) -> Floats | None:
        """Minimum probability at which each label is assigned, ``(C,)``; None for multiclass."""
        return self._model.thresholds

    @property
    def never_missing(self) -> list[str]:
        """Modalities that no training sample lacked, so that answers without them are untrained."""
        return self._model.never_missing

    @property
    def digest(self) -> str:
        """A hash of the model, the same on all devices of a kind."""
        return self._model.digest

    @property
    def module(self) -> EPICModule:
        """The trained module.

        Raises:
            ConfigError: the model is an exported one, which has no module.
        """
        if isinstance(self._model, ExportedModel):
            raise ConfigError(f"{self._model.folder} is an exported model: load its run.")
        return self._model.module

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str | torch.device | None = None,
        image_encoder: str | None = None,
        text_encoder: str | None = None,
        trust: Sequence[str] = (),
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Load a trained model without running code.

        Args:
            path: a run's folder (its best checkpoint, else its last), a checkpoint, a folder that
                :meth:`save_pretrained` or ``epic-pl export`` wrote, or a hub's ``user/name``,
                optionally with ``@revision``.
            device: as for the class.
            image_encoder: name or folder of the image encoder, if it has moved since training.
            text_encoder: likewise for the text encoder.
            trust: packages to import, whose methods, losses and encoders the model may name.
            revision: commit, tag or branch of the hub's repository; a commit pins the model. This
                and the next two are ignored for a path.
            token: hub token; None is that of this machine.
            local_files_only: of a hub, use only files that were downloaded before.

        Raises:
            CheckpointError: there is no model, it is damaged, an encoder's fingerprint differs, or
                it names a class of a package that is not trusted.
            AssetError: it cannot be fetched.
            ConfigError: the model is an exported one, and onnxruntime is not installed.
        """
        import_packages(trust)
        place = find_model(path, revision, token, local_files_only)
        if (place / DESCRIPTION).is_file() and not (place / WEIGHTS).is_file():
            return cls(ExportedModel(place))
        return cls(load_trained(place, image_encoder, text_encoder), device)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        name: str | None = None,
        dataset: str | None = None,
        license: str | None = None,
        report: str | Path | None = None,
    ) -> None:
        """Write or replace ``config.json`` and ``model.safetensors``; a model card stays if there.

        Of the frozen encoders only names, revisions and fingerprints are written.

        Args:
            folder: folder to write to.
            name: name of the model in the card; None is the folder's name.
            dataset: name of the training data in the card; None is that in the report.
            license: licence of the model in the card.
            report: folder of ``epic-pl test --report``, whose metrics and confusion matrix the
                card shows.

        Raises:
            DataError: the report cannot be read.
        """
        folder = Path(folder)
        write_model(self.module, folder)
        write_card(self.module, folder, name or folder.name, dataset, license, report)

    def push_to_hub(
        self,
        name: str,
        *,
        revision: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        **card: Any,
    ) -> str:
        """Upload the model to a hub repository, which is created if it does not exist.

        Args:
            name: ``user/name``.
            revision: branch to write to; None is the main one.
            private: whether a new repository is private; None is the account's setting.
            token: hub token; None is that of this machine.
            **card: options of :meth:`save_pretrained`; an existing card is not changed.

        Returns:
            The URL of the commit.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **{"name": name, **card})
            return push_model(Path(folder), name, revision, private, token)

    @classmethod
    def train(
        cls,
        table: str | Path,
        *,
        image: str | None = None,
        text: str | list[str] | None = None,
        label: str | None = None,
        split: str | None = None,
        output: str | Path | None = None,
        method: Method | str | None = None,
        loss: Loss | str | None = None,
        options: Mapping[str, Any] | None = None,
        device: str | torch.device | None = None,
    ) -> Self:
        """Train on a table as ``epic-pl data init`` and ``epic-pl fit`` do, and load the result.

        Args:
            table: a file that :class:`~epic_pl.data.tables.datamodule.TableDataModule` reads.
            image: column of image paths, or a template; ``none`` for no images. Columns that are
                not named are guessed.
            text: column of texts, several columns, or a template; ``none`` for no texts.
            label: column of classes.
            split: column of train, val and test; ``none`` to draw validation and test rows.
            output: folder of the config and the runs; None is ``runs/`` and the table's name.
            method: the method with its options, or its name as in ``model.method``; None is EPIC.
            loss: the loss, likewise.
            options: options of ``epic-pl fit``, such as ``{"trainer.max_epochs": 5}``.
            device: device of the classifier; training uses ``trainer.accelerator``.

        Raises:
            EpicError: as in ``epic-pl fit``, with a message for the user.
        """
        # late, since a trained model needs none of it
        from epic_pl.run.epic_cli import as_options, run
        from epic_pl.run.error_text import message_of

        root = Path(output) if output is not None else Path("runs") / Path(table).stem
        columns = {"image": image, "text": text, "label": label, "split": split}
        config, _ = write_config(Path(table), True, root / INIT_CONFIG, **columns)
        own = {"model.method": plain(method), "model.loss": plain(loss)}
        chosen = {name: value for name, value in own.items() if value is not None}
        given = as_options({"trainer.default_root_dir": str(root), **chosen, **(options or {})})
        try:
            trainer = run(["fit", "--config", str(config), *given]).trainer
        except ArgumentError as error:
            raise ConfigError(message_of(error)) from error
        return cls.load(str(trainer.log_dir), device=device)

    def embed(self, items: Sequence[Item], **loading: Unpack[Loading]) -> dict[str, Floats]:
        """The encoders' pooled outputs of each item; arguments as in :meth:`__call__`.

        Returns:
            ``image (N, d_v)`` and ``text (N, d_t)`` float32; NaN where the modality is missing.

        Raises:
            DataError: as in :meth:`__call__`.
        """
        batches = self._batches(items, "Encoding", **loading)
        image, text = zip(self._no_features, *map(self._features, batches), strict=True)
        return {"image": np.concatenate(image), "text": np.concatenate(text)}

    def feature_table(self, batch: Batch | None) -> pa.Table:
        """The pooled outputs of a batch; None is one without samples.

        Returns:
            ``sample_id``, and ``image`` and ``text`` as lists of d_v and d_t float32 numbers, null
            where the modality is missing.
        """
        features = self._no_features if batch is None else self._features(batch)
        columns = {"sample_id": pa.array(batch["sample_id"] if batch else [], pa.string())}
        for side, output in features._asdict().items():
            rows = [None if np.isnan(row[0]) else row for row in output]
            # no list of fixed size: pyarrow before 26 cannot store a null one
            columns[side] = pa.array(rows, pa.list_(pa.float32()))
        return pa.table(columns)

    @property
    def _no_features(self) -> Pair[Floats]:
        return Pair(*(np.zeros((0, width), np.float32) for width in self.module.model.widths))

    @torch.inference_mode()
    def _features(self, batch: Batch) -> Pair[Floats]:
        """Pooled outputs ``(B, d_v)`` and ``(B, d_t)``, NaN where a modality is missing."""
        module = self.module
        batch = module.transfer_batch_to_device(batch, module.device, 0)
        outputs = []
        masks = batch.get("image_present"), batch.get("text_present")
        for pooled, present in zip(module(batch).pooled, masks, strict=True):
            output = pooled.output.float()
            if present is not None:
                output = output.masked_fill(~present[:, None], torch.nan)
            outputs.append(output.cpu().numpy())
        return Pair(*outputs)

    def predict_table(
        self,
        table: str | Path | pa.Table | Any,
        *,
        image: str | None = None,
        text: str | list[str] | None = None,
        id: str | None = None,
        image_root: str | Path | None = None,
        on_bad_sample: BadSamplePolicy = "error",
        top_k: int | None = None,
        **loading: Unpack[Loading],
    ) -> pa.Table:
        """Predictions for the rows of a table, in its order, as ``epic-pl predict`` writes them.

        Args:
            table: a file that :class:`~epic_pl.data.tables.datamodule.TableDataModule` reads, an
                Arrow table, or a pandas or polars data frame; or a folder, all images below which
                are classified, named by their paths in it. A text is a ``.txt`` file beside its
                image, and the columns are not used.
            image: column of image paths (or of images), or a template.
            text: column of texts, several columns, or a template. Columns that the model reads
                beside them have the names that they had in training.
            id: column of unique names; None is the row's number, from 0, or pandas' unique index.
            image_root: folder of relative image paths; None is the table's folder, or the working
                folder for a table in memory.
            on_bad_sample: ``error``, ``skip`` or ``absent``, for images that cannot be used; a row
                with neither image nor text is an error, or left out.
            top_k: None gives one column per class (``probability_<class>``); k gives the k most
                probable classes as ``label_1``, ``probability_1``, ...
            **loading: as in :meth:`__call__`.

        Returns:
            ``sample_id``, ``image_path`` (null without one), ``label`` (several joined by ``|``)
            and probabilities.

        Raises:
            ConfigError: ``on_bad_sample`` is none of the three.
            DataError: the table, or a row of it, cannot be used.
        """
        rows = read_source(table, image, text, id, image_root, self.processor.columns)
        dataset = checked_dataset(rows, on_bad_sample, self.processor)
        full, tables = 0, [self.prediction_table(None, top_k)]
        for batch in load_batches(dataset, self.processor.collate, "Classifying", **loading):
            full += self.processor.full_texts(batch)
            tables.append(self.prediction_table(batch, top_k))
        self.processor.tell_full(full)
        return pa.concat_tables(tables)

    def prediction_table(self, batch: Batch | None, top_k: int | None = None) -> pa.Table:
        """The predictions of a batch, with the columns of :meth:`predict_table`.

        None is a batch without samples.
        """
        columns, scores = sample_columns(batch), self._score([] if batch is None else [batch])
        return prediction_table(columns, scores, self.class_names, self.thresholds, top_k)

    def labels(self, scores: Floats, top_k: int | None = None) -> list[list[Label]]:
        """Labels of N items by their probabilities ``(N, C)``; ``top_k`` as in :meth:`__call__`.

        Raises:
            ConfigError: ``top_k`` is below 1.
        """
        check_at_least(1, top_k=top_k)
        chosen, shown = np.ones_like(scores, bool), top_k or _SHOWN
        if self._model.thresholds is not None and top_k is None:
            chosen = assign_labels(scores, self._model.thresholds)
            shown = len(self.class_names)
        orders = np.argsort(-scores, axis=1, kind="stable")[:, :shown]
        return [
            [{"label": self.class_names[at], "score": float(row[at])} for at in order if take[at]]
            for row, take, order in zip(scores, chosen, orders, strict=True)
        ]

    def _score(self, batches: Iterable[Batch]) -> Floats:
        scores = [np.zeros((0, len(self.class_names)), np.float32)]
        for batch in batches:
            warn_of_absence(batch, self.class_names, lambda: self.never_missing, self._warned)
            scores.append(self._model.probabilities(batch))
            if not np.isfinite(scores[-1]).all():
                raise CheckpointError("The model gives NaN: take another checkpoint of its run.")
        return np.concatenate(scores)
