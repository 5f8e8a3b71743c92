"""``epic-pl export``."""

from collections.abc import Sequence
from pathlib import Path

from epic_pl.utils.errors import ConfigError


def export(
    model: str,
    fit_options: Sequence[str],
    output: Path = Path("runs/export"),
    int8: bool = False,
    overwrite: bool = False,
    image_encoder: str | None = None,
    text_encoder: str | None = None,
) -> None:
    """Write a trained model as a folder that runs without this package (extra `onnx`).

    It has the model in ONNX, its description in JSON, the tokenizer, and predict.py.

    Args:
        model: a run's folder or a checkpoint; without --config also a saved model or a hub's
            user/name, with it also best or last.
        fit_options: options of epic-pl fit, needed for best or last, and for --int8.
        output: folder to write.
        int8: also write a model whose encoders have weights in 8 bits, and compare the scores of
            both on the validation split of --config.
        overwrite: replace a model that exists.
        image_encoder: name or folder of the image encoder, if it has moved since training.
        text_encoder: name or folder of the text encoder, if it has moved since training.

    Raises:
        EpicError: if the model cannot be exported.
    """
    from rich.filesize import decimal

    from epic_pl.inference.export.folder import check_output, find_tokenizer, write_folder
    from epic_pl.inference.export.onnx_file import compare_scores, require_onnx
    from epic_pl.inference.sharing import find_model, load_trained
    from epic_pl.module.checkpoint import check_preprocessing
    from epic_pl.run.epic_cli import build_data, checkpoint_of

    if not fit_options and (int8 or model in ("best", "last")):
        needs = "--int8" if int8 else model
        raise ConfigError(f"{needs} needs the config of the run: add --config.")
    require_onnx()
    check_output(output, overwrite)
    if fit_options:
        checkpoint = checkpoint_of([*fit_options, f"--ckpt_path={model}"])
    else:
        checkpoint = find_model(model)
    data = build_data([*fit_options, f"--ckpt_path={checkpoint}"]) if int8 else None
    module = load_trained(checkpoint, image_encoder, text_encoder)
    if data:
        check_preprocessing(module.hparams.get("preprocessing"), data.preprocessing)
    written = write_folder(module, find_tokenizer(module), output, int8)
    print(f"{checkpoint} exported to {output}")
    for path in sorted(path for path in output.rglob("*") if path.is_file()):
        print(f"  {path.relative_to(output)}  {decimal(path.stat().st_size)}")
    difference = f"{written.difference:.1e} in float32, {written.as_tested:.1e} as it was tested"
    print(f"largest difference to the checkpoint's probabilities: {difference}")
    print(f"decisions on random inputs that differ from the tested ones: {written.decisions}")
    if data:
        print(compare_scores(output, module, data))
