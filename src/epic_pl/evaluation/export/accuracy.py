"""What a model in 8 bits costs in accuracy."""

from pathlib import Path

from epic_pl.data import ImageTextDataModule
from epic_pl.evaluation.evaluator import Evaluator
from epic_pl.inference.exported import ONNX, ONNX_INT8, load_program, run_batch
from epic_pl.module import EPICModule
from epic_pl.module.metrics import build_metrics


def compare_scores(folder: Path, module: EPICModule, data: ImageTextDataModule) -> str:
    """Scores of both ONNX models of a folder on the validation split, as lines of text."""
    data.prepare_data()
    data.setup("validate")
    models = {name: load_program(folder / name) for name in (ONNX, ONNX_INT8)}
    evaluator = Evaluator.of(module)
    metrics = {name: build_metrics(module.task, module.num_classes) for name in models}
    rows = 0
    for batch in data.val_dataloader():
        rows += len(batch["labels"])
        for name, run in models.items():
            found = run_batch(run, batch)
            if module.task == "multilabel":
                found = evaluator.postprocessor.predict(found)
            metrics[name].update(found, batch["labels"].int())
    lines = [f"on {rows:,} rows of the validation split:"]
    for name, each in metrics.items():
        scores = {key: float(value) for key, value in each.compute().items()}
        size = (folder / name).stat().st_size / 1e6
        listed = ", ".join(f"{key} {value:.4f}" for key, value in scores.items())
        lines.append(f"  {name}  {size:,.1f} MB: {listed}")
    return "\n".join(lines)
