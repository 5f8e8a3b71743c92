"""``epic-pl app``."""

from epic_pl.cli.commands.parser import PositiveInt


def app(model: str, host: str = "127.0.0.1", port: PositiveInt = 7860) -> None:
    """Open a page in the browser on which people try a trained model (extra `app`).

    The page works offline, and images and texts stay on this machine.

    Args:
        model: a run's folder, a checkpoint, a saved or exported model, or a hub's user/name.
        host: address to listen on; 0.0.0.0 admits other machines, without a password.
        port: port to listen on.

    Raises:
        EpicError: if the page cannot be opened.
    """
    from epic_pl.inference.classifier import Classifier
    from epic_pl.inference.serving.page import build_page, open_page

    page = build_page(Classifier.load(model), model)
    print(f"{model} is on {open_page(page, host, port)} until Ctrl+C.", flush=True)
    page.block_thread()
