"""Result of each test sample of a compared run."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from epic_pl.callbacks.predictions import prediction_table
from epic_pl.evaluation.evaluator import Evaluator
from epic_pl.module import EPICModule


def write_test_outputs(module: EPICModule, path: Path) -> None:
    """Write ``sample_id``, ``image_path``, ``truth`` and ``probability_<class>`` of a test.

    ``truth`` is a class name, or a list of them for multilabel.

    Args:
        module: as the test has left it.
        path: Parquet file.
    """
    outputs, evaluator = module.outputs.merged(), Evaluator.of(module)
    named = [evaluator.names(label) for label in outputs.labels]
    columns = {
        "sample_id": outputs.sample_id,
        "image_path": outputs.image_path or [None] * len(named),
        "truth": [name for [name] in named]
        if module.task == "multiclass"
        else pa.array(named, pa.list_(pa.string())),
    }
    scores = evaluator.probabilities(outputs.logits).numpy()
    table = prediction_table(columns, scores, module.class_names, None, None)
    pa.parquet.write_table(table.drop_columns("label"), path)
