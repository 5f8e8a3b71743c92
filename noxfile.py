"""Test runs beside `make test`: other Pythons, and the lowest dependencies that are allowed.

    pipx run --spec 'nox[uv]' nox            # everything
    pipx run --spec 'nox[uv]' nox -s oldest  # one session

uv finds or fetches the interpreters and can resolve to the lowest versions, which pip cannot.
"""

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "uv"


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Run the tests on one Python with the newest dependencies."""
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    """Run the tests with every dependency of pyproject.toml at its lower bound."""
    session.install("--resolution=lowest-direct", "-r", "pyproject.toml", "--extra", "test")
    session.install("--no-deps", "-e", ".")
    session.run("pytest", *session.posargs)
