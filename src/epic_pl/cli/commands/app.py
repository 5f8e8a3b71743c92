"""``epic-pl app``."""

from epic_pl.cli.commands.parser import PositiveInt


def app(
    model: str, host: str = "127.0.0.1", port: PositiveInt = 7860, programs: bool = False
) -> None:
    """Open a page in the browser on which people try a trained model (extra `app`).

    It works offline; what they give stays on this machine.

    Args:
        model: a run's folder, a checkpoint, a saved or exported model, or a hub's user/name.
        host: address to listen on; 0.0.0.0 lets others in, and there is no password.
        port: port to listen on.
        programs: load the program of an exported folder, which can run code.

    Raises:
        EpicError: with a message for the user.
    """
    from epic_pl.inference.classifier import Classifier
    from epic_pl.inference.serving.page import build_page, open_page

    page = build_page(Classifier.load(model, programs=programs), model)
    print(f"{model} is on {open_page(page, host, port)} until Ctrl+C.", flush=True)
    page.block_thread()
