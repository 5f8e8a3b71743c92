r"""List labels that are probably wrong, by logistic regression on the features of the encoders.

    epic-pl embed runs/my my/table.csv --image photo --text title --output features
    python label_errors.py features my/table.csv department > suspects.csv
    python label_errors.py features my/table.csv tags "|" > suspects.csv  # several labels in a cell

Each fifth of the rows is judged by a model of the others. The list begins with the most suspicious
label; look at as many as you have time for, and correct the table. `row` counts from 0, without the
header; then come the table's columns of text, such as image paths. Leave --id of embed out, so that
it names rows by their numbers.
"""

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from label_next import read_features
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import MultiLabelBinarizer

from epic_pl.data.tables.formats import read_table
from epic_pl.utils.errors import DataError

FIFTHS = KFold(5, shuffle=True, random_state=0)
# balanced, else every given label of a rare class is doubted
MODEL = LogisticRegression(C=10, class_weight="balanced", max_iter=1000)


def suspects(vectors: np.ndarray, labels: list[list[str]], several: bool) -> list[dict[str, Any]]:
    """Labels that models of other rows doubt, the most suspicious first.

    Args:
        vectors: features ``(N, d)`` of the rows.
        labels: labels of each row, one if not ``several``.
        several: whether to judge each pair of row and label by itself.
    """
    binarizer = MultiLabelBinarizer()
    given = binarizer.fit_transform(labels)  # (N, C)
    model = OneVsRestClassifier(MODEL) if several else MODEL
    target = given if several else given.argmax(axis=1)
    scores = cross_val_predict(model, vectors, target, cv=FIFTHS, method="predict_proba")
    if several:
        scores[:, given.all(axis=0)] = 1.0  # cross_val_predict encodes a label of all rows as 0
    names, found = binarizer.classes_, list[dict[str, Any]]()
    for row, label in np.ndindex(given.shape) if several else enumerate(target):
        if several:
            held = given[row, label]
            agreement = scores[row, label] if held else 1 - scores[row, label]
            each = {"given": names[label] * held, "proposed": names[label] * (1 - held)}
        else:
            best = scores[row].argmax()
            agreement = scores[row, label] - scores[row, best]
            each = {"given": names[label], "proposed": names[best]}
        if each["given"] != each["proposed"] and agreement < (0.5 if several else 0):
            found.append({"row": row, **each, "agreement": agreement})
    return sorted(found, key=lambda each: each["agreement"])


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    folder, source, column, *marks = sys.argv[1:]
    features = read_features(Path(folder))
    try:
        table = read_table(Path(source))
    except DataError as error:
        sys.exit(str(error))
    if column not in table.column_names:
        sys.exit(f"{source} has no column {column}: it has {', '.join(table.column_names)}.")
    cells = table[column].cast(pa.string()).to_pylist()
    if named := next((name for name in features if not name.isdecimal()), ""):
        sys.exit(f"{folder} names rows, as {named!r}: embed {source} without --id.")
    last = str(len(cells) - 1)  # embed may have skipped others
    if last not in features or features.keys() - {str(row) for row in range(len(cells))}:
        sys.exit(
            f"The {len(features)} rows of {folder} are not the {len(cells)} of {source}: "
            "embed this table."
        )
    rows = [number for number, cell in enumerate(cells) if cell and str(number) in features]
    labels = [cells[row].split(*marks) if marks else [cells[row]] for row in rows]
    found = suspects(np.stack([features[str(row)] for row in rows]), labels, bool(marks))
    own = ["row", "given", "proposed", "agreement"]
    texts = table.select(
        [each.name for each in table.schema if each.type == pa.string() and each.name not in own]
    )
    writer = csv.DictWriter(sys.stdout, [*own, *texts.column_names])
    writer.writeheader()
    for each in found:
        row = rows[each["row"]]
        writer.writerow(each | {"row": row} | texts.slice(row, 1).to_pylist()[0])
