"""Rules that decide, such as which epoch is kept, judged on records of trainings.

    python benchmarks/decisions.py record [--tasks icons,FOLDER] [--methods EPIC] [--seeds 3]
    python benchmarks/decisions.py judge [--tasks icons] [--json]

Each training is done once: a record has the logits of validation rows and of held-out rows after
each epoch, and those of the mean of the last epochs' weights. Rules are then judged without
training. Held-out rows are fold 0 of `folds.py`, for a table of one's own (a folder, as there) its
split `val`; no test split is read. Finished records are not made again.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.callbacks import Checkpoint
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torchmetrics import MetricCollection

import folds
import tables
from common import show
from epic_pl.experiments.options import feature_cache, use_stored_features
from epic_pl.module.postprocess import Postprocessor
from epic_pl.nn.temperature import fit_bias, fit_temperature, most_likely, sample_losses
from epic_pl.run.epic_cli import parse, quiet_lightning

METHODS = {
    "LateFusionMLP": ["--model.method=LateFusionMLP"],
    "LateFusionMLP-text": ["--model.method=LateFusionMLP", "--data.alone=text"],
    "LinearProbe": ["--model.method=LinearProbe"],
    "Parts": ["--model.method=Parts"],
    "EPIC": ["--model.method=EPIC"],
}
TASKS = ",".join((*folds.OPENMOJI, *tables.TABLES))
ENOUGH_TO_CHOOSE = 30  # rows, as the head has it
# weights are the same without, and validation follows at the end
QUICK = ("--trainer.limit_val_batches=0", "--trainer.logger=false")


class States(L.Callback):
    """Keeps trained weights and statistics after each epoch, and the training loss."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []
        self.losses: list[float] = []
        self._batches: list[Tensor] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep what training has changed."""
        trained = {name for name, value in pl_module.named_parameters() if value.requires_grad}
        frozen = {name for name, _ in pl_module.named_parameters()} - trained
        self.states.append(
            {
                name: value.detach().clone()
                for name, value in pl_module.state_dict().items()
                if name not in frozen
            }
        )
        self.losses.append(float(torch.stack(self._batches).mean()))
        self._batches.clear()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        """Note the loss of a batch."""
        self._batches.append(outputs["loss"].detach())


def mean(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of floating values, and the last of the others."""
    return {
        name: torch.stack([state[name] for state in states]).mean(dim=0)
        if value.is_floating_point()
        else value
        for name, value in states[-1].items()
    }


def last_epochs(epochs: int) -> dict[str, int]:
    """How many of the last epochs each mean takes."""
    numbers = {"mean2": 2, "mean3": 3, "mean5": 5, "half": epochs // 2}
    return {name: number for name, number in numbers.items() if 1 < number <= epochs}


def options_of(task: str, folder: Path) -> list[str]:
    if Path(task).is_dir():
        return ["--config", str(tables.write(folder / "tables", task, locked=True))]
    return folds.options_of(task, 0, argparse.Namespace(folder=folder, draw=0))


def record(options: Sequence[str], folder: Path) -> dict[str, Any]:
    """Train with options of fit, and collect the record of the docstring above."""
    cli = parse(["fit", *options, *QUICK, f"--trainer.default_root_dir={folder}"])
    module, data, trainer = built = cli.build()
    use_stored_features(built)
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning's
    others = [each for each in callbacks if not isinstance(each, Checkpoint)]
    callbacks[:] = [*others, kept := States()]
    module.train_metrics = MetricCollection({})
    module.log = module.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    trainer.fit(module, datamodule=data)
    data.setup("test")
    feature_cache(trainer).fill(module.eval(), data, "fit", "test")
    loaders = {"val": data.val_dataloader(), "test": data.test_dataloader()}
    made: dict[str, Any] = {
        "task": module.task,
        "classes": module.class_names,
        "train_losses": kept.losses,
        "options": list(options),
    }
    states = kept.states
    means = {name: mean(states[-n:]) for name, n in last_epochs(len(states)).items()}
    answers = [outputs(module, loaders, state) for state in (*states, *means.values())]
    used = [choose(answer, module.task) for answer in answers]
    for split in loaders:
        made[f"{split}_labels"] = answers[0][split][0]
        candidates = torch.stack([answer[split][1] for answer in answers])
        logits = torch.stack([each[:, n] for each, n in zip(candidates, used, strict=True)])
        made[f"{split}_logits"], made[f"{split}_candidates"] = logits, candidates
        epochs = len(states)
        for kind in ("logits", "candidates"):
            every = made[f"{split}_{kind}"]
            made[f"{split}_{kind}"] = every[:epochs].clone()
            made[f"{split}_{kind}_of_means"] = {
                name: value.clone() for name, value in zip(means, every[epochs:], strict=True)
            }
    made["chosen"] = used[: len(states)]
    return made


@torch.inference_mode()
def outputs(
    module: Any, loaders: dict[str, Any], state: dict[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Labels and candidates ``(N, k, C)`` of both splits with a state's weights."""
    module.load_state_dict(state, strict=False)
    made = {}
    for split, loader in loaders.items():
        labels, candidates = [], []
        for batch in loader:
            output = module(batch)
            some = output.logits[:, None] if output.candidates is None else output.candidates
            candidates.append(some.float())
            labels.append(batch["labels"].clone())
        made[split] = torch.cat(labels).clone(), torch.cat(candidates).clone()
    return made


def choose(answer: dict[str, tuple[Tensor, Tensor]], task: Any) -> int:
    """Index of the candidate that validation chooses, as in training."""
    labels, candidates = answer["val"]
    return most_likely(candidates, labels, task) if len(labels) >= ENOUGH_TO_CHOOSE else 0


def record_all(arguments: argparse.Namespace, options: Sequence[str]) -> None:
    for seed in range(arguments.first, arguments.seeds):
        for task in arguments.tasks.split(","):
            for method in arguments.methods.split(","):
                name = f"{Path(task).name}-{method}-{seed}"
                path = arguments.records / f"{name}.pt"
                if path.is_file():
                    continue
                own = [*options_of(task, arguments.folder), *METHODS[method], *options]
                with quiet_lightning():
                    made = record([*own, f"--seed_everything={seed}"], arguments.folder / name)
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.save(made, path.with_suffix(".part"))
                path.with_suffix(".part").rename(path)
                print(name, flush=True)


RULES = ("accuracy", "last", "loss", "ranking", "mean2", "mean3", "mean5", "half")
# of the last epoch: a bias of each class, and one that is kept upon strong evidence, as shipped
BIASES = ("bias", "strong bias")


def judge(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Scores of each rule minus those of the first, in points: mean and standard error."""
    groups: dict[tuple[str, str], list[Path]] = {}
    tasks = [Path(task).name for task in arguments.tasks.split(",")]
    methods = arguments.methods.split(",")
    for path in sorted(arguments.records.glob("*.pt")):
        task, method, _ = re.fullmatch(r"(\w+)-(.+)-(\d+)", path.stem).groups()  # type: ignore[union-attr]
        if task in tasks and method in methods:
            groups.setdefault((task, method), []).append(path)
    rows = []
    every: dict[tuple[str, str, str], list[float]] = {}
    for (task, method), paths in sorted(groups.items()):
        found = [scores(torch.load(path, weights_only=False)) for path in paths]
        for rule in found[0]:
            row: dict[str, Any] = {"task": task, "method": method, "rule": rule, "runs": len(found)}
            for name in found[0][rule]:
                base = np.array([each[RULES[0]][name] for each in found])
                values = np.array([each[rule][name] for each in found]) - base
                row[name] = spread(base if rule == RULES[0] else values)
                every.setdefault((method, rule, name), []).append(float(np.mean(values)))
            rows.append(row)
    for method in dict.fromkeys(method for _, method in groups):
        for rule in (*RULES[1:], *BIASES):
            names = dict.fromkeys(name for m, r, name in every if (m, r) == (method, rule))
            each = {name: spread(np.array(every[method, rule, name])) for name in names}
            rows.append({"task": "mean", "method": method, "rule": rule, "runs": "", **each})
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name, "") for name in names} for row in rows]


def spread(values: npt.NDArray[Any]) -> str:
    """Mean and, of several values, the standard error of the mean."""
    error = f" ± {np.std(values, ddof=1) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{error}"


def scores(made: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Scores of the held-out rows by rule, in percent; of the likelihood, 100 times it."""
    task, labels = made["task"], made["val_labels"]
    main = "f1" if task == "multilabel" else "accuracy"
    epochs = [measure(task, logits, labels) for logits in made["val_logits"]]
    best: dict[str, Callable[[int], float]] = {
        "accuracy": lambda e: epochs[e][main],
        "loss": lambda e: -epochs[e]["uncalibrated"],
        "ranking": lambda e: epochs[e].get("ranking", epochs[e][main]),
        "last": float,
    }
    found = {}
    for rule in (*RULES, *(BIASES if task == "multiclass" else ())):
        pairs = (made["val_logits"], made["test_logits"])
        if rule in best:
            epoch = max(range(len(epochs)), key=best[rule])  # the first of equal ones
            val, test = (logits[epoch] for logits in pairs)
        elif rule in made["val_logits_of_means"]:
            val, test = (made[f"{split}_logits_of_means"][rule] for split in ("val", "test"))
        else:  # fewer epochs
            val, test = (logits[-1] for logits in pairs)
        temperature = fit_temperature(val, labels, task)
        val, test, threshold = val / temperature, test / temperature, 0.5
        if rule == "bias":
            test = test + fit_bias(val, labels).float()
        elif rule == "strong bias":
            post = Postprocessor(task, val.shape[1])
            post.fit(made["val_logits"][-1], labels)
            test = post.calibrated(made["test_logits"][-1])
        if task == "multilabel":
            tried = np.arange(0.05, 0.96, 0.01)
            given = val.sigmoid()
            threshold = float(max(tried, key=lambda t: f1(given, labels, "micro", t)))
        measured = measure(task, test, made["test_labels"], threshold)
        measured.pop("uncalibrated")
        found[rule] = {name: 100 * value for name, value in measured.items()}
    return found


def measure(task: Any, logits: Tensor, labels: Tensor, threshold: float = 0.5) -> dict[str, float]:
    """Scores of some rows; F1 also at a threshold."""
    loss = float(sample_losses(logits, labels, task).mean())
    if task == "multilabel":
        given = logits.sigmoid()
        precisions = [
            average_precision_score(truth, score)
            for truth, score in zip(labels.T.numpy(), given.T.numpy(), strict=True)
            if truth.any()
        ]
        return {
            "f1": f1(given, labels, "micro", 0.5),
            "f1_macro": f1(given, labels, "macro", 0.5),
            "f1_common": f1(given, labels, "micro", threshold),
            "f1_macro_common": f1(given, labels, "macro", threshold),
            "ranking": float(np.mean(precisions)),
            "loss": loss,
            "uncalibrated": loss,
        }
    found = {"accuracy": float((logits.argmax(dim=1) == labels).float().mean())}
    if logits.shape[1] == 2:
        found["ranking"] = float(roc_auc_score(labels, logits.softmax(dim=1)[:, 1]))
    return {**found, "loss": loss, "uncalibrated": loss}


def f1(given: Tensor, labels: Tensor, average: str, threshold: float) -> float:
    predicted, truth = (given >= threshold).double(), labels.double()
    sums = [(predicted * truth).sum(dim=0), (predicted + truth).sum(dim=0)]
    hits, total = sums if average == "macro" else [each.sum() for each in sums]
    return float((2 * hits / total.clamp(min=1)).mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["record", "judge"])
    parser.add_argument("--tasks", default=TASKS)
    parser.add_argument("--methods", default="LateFusionMLP,LateFusionMLP-text,Parts,EPIC")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--folder", type=Path, default=Path("runs/decisions"))
    parser.add_argument("--records", type=Path, default=Path("runs/decisions/records"))
    parser.add_argument("--json", action="store_true")
    arguments, options = parser.parse_known_args()
    if arguments.command == "judge":
        show(judge(arguments), arguments.json)
    else:
        record_all(arguments, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
