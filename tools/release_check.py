"""Builds the last commit as a release and uses it as its users do: what `make release-check` does.

    python tools/release_check.py [--full] [NAME ...]

Sdist and wheel are left in dist/. The wheel is installed alone and with each of its extras, always
into a new environment, and trains, classifies, exports, serves and so on from an empty folder; the
unpacked sdist runs its own tests. Names choose checks; `demo` trains the model of the others.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PathDistribution
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

ROOT = Path(__file__).parents[1]
# 6.1 is the first that reads a licence as an SPDX expression
BUILDERS = ("build>=1.2", "twine>=6.1")
CONTRIBUTORS = {"dev", "docs", "lint", "test"}  # extras; `sdist` uses test
NOT_PACKED = ("configs", ".")  # the link, and the beginning of hidden files
FIT = ("fit", "--config", "openmoji.yaml")
MOST_IMPORT_SECONDS = 0.3
# tests that read other folders of the sdist
SDIST_TESTS = """
tests/benchmarks/test_demo.py tests/nn/methods/test_docs.py tests/regression
tests/house/test_api_pages.py tests/cli/test_cluster.py tests/cli/test_configs.py
tests/run/test_option_names.py tests/test_examples.py tests/house/test_packaging.py
""".split()  # noqa: SIM905 - readable as text

PREDICT = """
from epic_pl import Classifier
from epic_pl.utils.assets import fetch_openmoji, load_emoji

clf, images = Classifier.load("RUN"), fetch_openmoji()
emoji = [e for e in load_emoji() if e.subcategory in clf.class_names][::10]
pairs = [{"image": images / f"{e.code}.png", "text": e.name.lower()} for e in emoji]
answers = clf(pairs, top_k=1, progress=False)
right = sum(a[0]["label"] == e.subcategory for a, e in zip(answers, emoji)) / len(emoji)
assert right > 0.5, f"only {right:.0%} of {len(emoji)} emoji are classified right"
print(f"trains; {right:.0%} of {len(emoji)} emoji classified right")
"""
PREDICT_WITH_RAY = """
import pyarrow as pa
import ray
from epic_pl.inference.ray import predict_on_ray
from pyarrow import parquet

ray.init(num_cpus=3)
titles = ["cow face", "red apple"]
parquet.write_table(pa.table({"id": ["1", "2"], "title": titles}), "rows.parquet")
predict_on_ray("RUN", "rows.parquet", "out", id="id", text="title")
rows = parquet.read_table("out")
assert sorted(rows["sample_id"].to_pylist()) == ["1", "2"], rows
print("a cluster of one node predicts", *rows["label"].to_pylist())
"""


class Release:
    """The built files, the working folder of all checks, and the trained model."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.run = work / "model"
        self.log = work / "log.txt"
        self.dist = ROOT / "dist"
        # nothing of the machine's own epic_pl: not its source, not its cache
        self.variables = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        # a step on a few prompts does not fill two cores, and torch's threads wait for each other
        self.variables.setdefault("OMP_NUM_THREADS", "1")
        self.variables |= {"EPIC_PL_CACHE": str(work / "cache"), "NO_COLOR": "1"}

    def call(self, *command: object, cwd: Path) -> str:
        """Stdout of a command; RuntimeError with the end of what it said if it fails."""
        words = [str(word) for word in command]
        with self.log.open("w") as log:
            options = {"cwd": cwd, "env": self.variables, "stdin": subprocess.DEVNULL}
            done = subprocess.run(words, text=True, stdout=subprocess.PIPE, stderr=log, **options)
        if done.returncode:
            said = (self.log.read_text() + done.stdout).splitlines()
            raise RuntimeError("\n  ".join([f"{' '.join(words)[:300]} failed:", *said[-30:]]))
        return done.stdout

    def build(self) -> str:
        """Sdist and wheel of a clone, so that no stray file of this folder can get into them."""
        clone = self.work / "epic_pl"
        shutil.rmtree(self.dist, ignore_errors=True)
        self.call("git", "clone", "-q", "--depth=1", f"file://{ROOT}", clone, cwd=self.work)
        with self.environment("builders", *BUILDERS) as env:
            env.python("-m", "build", "--outdir", self.dist, clone)
            files = sorted(self.dist.iterdir())
            env.python("-m", "twine", "check", "--strict", *files)
        self.wheel, self.sdist = (next(self.dist.glob(end)) for end in ("*.whl", "*.tar.gz"))
        with tarfile.open(self.sdist) as archive:
            archive.extractall(self.work, filter="data")
        self.source = self.work / self.sdist.name.removesuffix(".tar.gz")
        tracked = self.call("git", "ls-files", cwd=clone).splitlines()
        lost = [
            name
            for name in tracked
            if not name.startswith(NOT_PACKED) and not (self.source / name).is_file()
        ]
        if lost:
            raise RuntimeError(f"MANIFEST.in leaves out {', '.join(lost)}")
        sizes = [f"{file.name} {file.stat().st_size / 1e6:.1f} MB" for file in files]
        return ", ".join(sizes)

    def extras(self) -> list[str]:
        """Extras for users, as the wheel lists them."""
        (info,) = (p for p in zipfile.Path(self.wheel).iterdir() if p.name.endswith(".dist-info"))
        names = PathDistribution(info).metadata.get_all("Provides-Extra", [])
        return [name for name in names if name not in CONTRIBUTORS]

    @contextmanager
    def environment(self, name: str, *requirements: str) -> Iterator["Environment"]:
        """A new environment with what is required and nothing else, removed afterwards."""
        folder = self.work / "environments" / name
        venv.create(folder, with_pip=True)
        env = Environment(self, folder)
        try:
            env.python("-m", "pip", "install", "--quiet", "--no-compile", *requirements)
            env.python("-m", "pip", "check")
            yield env
        finally:
            shutil.rmtree(folder)


class Environment:
    """A virtual environment; its commands start in an empty folder."""

    def __init__(self, release: Release, folder: Path) -> None:
        self.release, self.bin = release, folder / "bin"
        self.cwd = release.work / f"in_{folder.name}"
        self.cwd.mkdir()
        (self.site,) = folder.glob("lib/*/site-packages")

    def python(self, *arguments: object) -> str:
        return self.release.call(self.bin / "python", *arguments, cwd=self.cwd)

    def epic_pl(self, *arguments: object) -> str:
        return self.release.call(self.bin / "epic-pl", *arguments, cwd=self.cwd)

    def predict(self) -> str:
        """Load the trained model and classify; what that gave."""
        return self.python("-c", PREDICT.replace("RUN", str(self.release.run)))

    @contextmanager
    def service(self, *arguments: str) -> Iterator[str]:
        """URL of a command that answers requests, and ends well when it is told to."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [self.bin / "epic-pl", *arguments, "--port", str(port)]
        with self.release.log.open("w") as log:
            options = {"cwd": self.cwd, "env": self.release.variables}
            process = subprocess.Popen(command, stdout=log, stderr=log, **options)
        try:
            yield f"http://127.0.0.1:{port}"
            process.terminate()
            if (code := process.wait(60)) not in (0, -signal.SIGTERM):
                raise RuntimeError(f"{arguments[0]} ended with code {code}")
        except Exception as error:
            raise RuntimeError(f"{error}; it said:\n{self.release.log.read_text()}") from error
        finally:
            process.kill()


def ask(url: str, body: object = None, patience: float = 180) -> str:
    """The answer of a server that may still be starting."""
    headers = {"Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    end = time.monotonic() + patience
    while True:
        try:
            with urlopen(Request(url, data, headers), timeout=60) as answer:
                return str(answer.read().decode())
        except URLError:
            if time.monotonic() > end:
                raise
            time.sleep(1)


def size(folder: Path) -> str:
    return f"{sum(f.stat().st_size for f in folder.rglob('*') if f.is_file()) / 1e6:,.0f} MB"


def demo(env: Environment) -> str:
    """Real encoders and data from the package registry, three epochs."""
    env.epic_pl(*FIT, "--trainer.max_epochs=3")
    (env.cwd / "runs/openmoji/fit/version_0").rename(env.release.run)
    return env.predict()


def wheel_alone(env: Environment) -> str:
    """Without extras: the size, the time of an import, and training on fetched encoders."""
    seconds = dict.fromkeys(["pass", "import epic_pl"], 60.0)
    for code in [*seconds] * 6:  # the first one compiles
        start = time.perf_counter()
        env.python("-c", code)
        seconds[code] = min(seconds[code], time.perf_counter() - start)
    taken = seconds["import epic_pl"] - seconds["pass"]
    if taken > MOST_IMPORT_SECONDS:
        raise RuntimeError(f"import epic_pl takes {taken:.2f} s, over {MOST_IMPORT_SECONDS} s")
    sizes = f"{size(env.site / 'epic_pl')} installed, {size(env.site)} with its dependencies"
    env.epic_pl(*FIT, "--trainer.max_epochs=1")
    return f"{sizes}; import {taken:.2f} s; {env.predict()}"


def onnx(env: Environment) -> str:
    said = env.epic_pl("export", env.release.run, "--output=out")
    with env.release.environment("docker", *packages_of_dockerfile()) as small:
        answer = json.loads(small.python(env.cwd / "out/predict.py", "-", "cow face"))
        used = size(small.site)
    return f"{said.splitlines()[-1]}; predict.py in {used}: {answer[0]['label']}"


def packages_of_dockerfile() -> list[str]:
    """What the image of an exported model installs."""
    lines = (ROOT / "examples/docker/onnx.Dockerfile").read_text().splitlines()
    start = "RUN pip install --no-cache-dir "
    (line,) = (line for line in lines if line.startswith(start))
    return line.removeprefix(start).split()


def tune(env: Environment) -> str:
    env.epic_pl("tune", *FIT[1:], "--trials=1", "--trainer.max_epochs=1")
    (env.cwd / "runs/tune/openmoji/best.yaml").stat()
    return "one trial, and its options in best.yaml"


def compare(env: Environment) -> str:
    env.epic_pl(*FIT, "--config=debug.yaml", "--model.method=LoRA", "--cache.level=off")
    return "the method LoRA takes a step"


def serve(env: Environment) -> str:
    with env.service("serve", str(env.release.run)) as url:
        answer = json.loads(ask(f"{url}/classify", {"text": "cow face", "top_k": 1}))
    return f"the server answers {answer['labels'][0]['label']}"


def ray(env: Environment) -> str:
    return env.python("-c", PREDICT_WITH_RAY.replace("RUN", str(env.release.run)))


def app(env: Environment) -> str:
    with env.service("app", str(env.release.run)) as url:
        return f"a page of {len(ask(url)) / 1000:.0f} kB"


COMMANDS: dict[str, Callable[[Environment], str]] = {
    "demo": demo,
    "onnx": onnx,
    "tune": tune,
    "compare": compare,
    "serve": serve,
    "app": app,
    "ray": ray,
}


def checks(release: Release, full: bool) -> dict[str, Callable[[], str]]:
    """All that is done with the built files, by name; the first one trains."""

    def with_extra(extra: str) -> str:
        with release.environment(extra, f"{release.wheel}[{extra}]") as env:
            return COMMANDS[extra](env)

    def without_extra() -> str:
        with release.environment("wheel", str(release.wheel)) as env:
            return wheel_alone(env)

    def sdist() -> str:
        options = ["-q", "-p", "no:cacheprovider"]
        which = ["-m", "not slow", "-n", "auto", "--dist=loadfile"] if full else SDIST_TESTS
        with release.environment("sdist", f"{release.source}[test]") as env:
            env.cwd = release.source
            return env.python("-m", "pytest", *options, *which).splitlines()[-1]

    extras = {name: partial(with_extra, name) for name in release.extras()}
    first = {"demo": extras.pop("demo"), "wheel": without_extra}
    return {**first, **extras, "sdist": sdist}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help="checks beside demo (all)")
    parser.add_argument("--full", action="store_true", help="all tests of the sdist but slow ones")
    arguments = parser.parse_args()
    rows: list[tuple[str, float, str]] = []

    def attempt(name: str, check: Callable[[], str]) -> bool:
        print(f"== {name}", flush=True)
        start = time.monotonic()
        try:
            told = check().strip()
        except Exception as error:
            told = f"FAILED: {error}"
        print(told, flush=True)
        rows.append((name, time.monotonic() - start, told.splitlines()[0]))
        return not told.startswith("FAILED")

    with tempfile.TemporaryDirectory(prefix="release-check-") as folder:
        release = Release(Path(folder))
        passed = [attempt("build", release.build)]
        for name, check in checks(release, arguments.full).items() if passed[0] else ():
            if name == "demo" or not arguments.names or name in arguments.names:
                passed.append(attempt(name, check))
                if name == "demo" and not passed[-1]:
                    break  # the others need its model
    print()
    for name, seconds, told in rows:
        print(f"{name:<10} {seconds:>5.0f} s  {told}")
    return int(not all(passed))


if __name__ == "__main__":
    sys.exit(main())
