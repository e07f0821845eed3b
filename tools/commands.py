"""The command line: `python -m crackutils COMMAND`; every make target is a thin call of it.

Only the standard library is imported up here, so that `setup` works before anything is installed; and the lines down to
the check of the version stay readable for old ones.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from crackutils import config
from crackutils.files import sha256, write_atomically

if sys.version_info < (3, 11):  # noqa: UP036 - older ones cannot read the rest
    sys.exit(
        f"error: crackutils needs Python 3.11, 3.12 or 3.13, this is {sys.version.split()[0]};"
        " name another with make ... PYTHON=python3.12."
    )


_VENV = config.ROOT / ".venv"
_VENV_PYTHON = _VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
_FROM_ENVIRONMENT = ("PROFILE", "FORCE", "FROM", "SOURCE")  # taken from the environment too, when make calls


def _make_variables() -> dict[str, str]:
    """Return the variables on make's own command line.

    make lists them in MAKEFLAGS behind ` -- ` and puts their values into the environment, where no shell has to quote
    them: paths with spaces and apostrophes arrive whole.
    """
    words = re.findall(r"(?:\\.|[^\s\\])+", os.environ.get("MAKEFLAGS", ""), re.S)
    words = words[words.index("--") + 1 :] if "--" in words else []
    names = [re.split(r"[:?+!]*=", word, maxsplit=1)[0] for word in words if "=" in word]
    ours = [n for n in names if n not in ("PYTHON", "MAKEFLAGS") and not n.startswith("CRACKUTILS_")]
    return {name: os.environ.get(name, "") for name in ours}


def _values(args: argparse.Namespace, known: Sequence[str] | None) -> dict[str, str]:
    """Return NAME=VALUE settings of the command; an empty value counts as not given.

    Args:
        args: the parsed command line.
        known: the names that the command takes; None leaves the check to the command.
    """
    values: dict[str, str] = {}
    if args.make:
        wanted = ("PROFILE", "FORCE") if known is None else known
        values |= {n: os.environ[n] for n in _FROM_ENVIRONMENT if n in wanted and n in os.environ}
        values |= _make_variables()
    for word in getattr(args, "values", []):
        name, equals, value = word.partition("=")
        if not equals:
            raise config.CrackutilsError(f"{word} is not of the form NAME=VALUE; see python -m crackutils help.")
        values[name] = value
    values = {name: value for name, value in values.items() if value}
    for name in values if known is not None else ():
        if not known:
            raise config.CrackutilsError(
                f"{args.command} takes no variable, but {name}={values[name]} is given; leave it out."
            )
        config.choose("variable", name, known)
    return values


def _profile(args: argparse.Namespace) -> config.Profile:
    return config.profile(_values(args, ("PROFILE",)).get("PROFILE", "sample"))


def _yes(name: str, value: str) -> bool:
    try:
        return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[value.lower()]
    except KeyError:
        raise config.CrackutilsError(f"{name}={value} must be 1 or 0.") from None


def _help(args: argparse.Namespace) -> int:
    print("python -m crackutils COMMAND\n")
    for name, (_, summary) in COMMANDS.items():
        print(f"  {name:<12} {summary}")
    print(f"\nProfiles (PROFILE=name): {', '.join(config.PROFILES)}")
    return 0


def _stamp() -> str:
    """Text that is equal as long as the environment need not be made again; an editable install holds our path."""
    version = ".".join(str(part) for part in sys.version_info[:2])
    return f"lock {sha256(config.LOCK)}\npython {version}\nproject {config.ROOT}\n"


def _setup(args: argparse.Namespace) -> int:
    if args.python:
        return _call([args.python, "-m", "crackutils", "setup"])
    if sys.version_info >= (3, 14):
        raise config.CrackutilsError(
            f"crackutils needs Python 3.11, 3.12 or 3.13, this is {sys.version.split()[0]};"
            " name another with make ... PYTHON=python3.12."
        )
    stamp = _VENV / "crackutils-stamp"
    if stamp.is_file() and _VENV_PYTHON.exists() and stamp.read_text("utf-8") == _stamp():
        return 0
    print(
        f"Setting up {config.display_path(_VENV)} with the exact versions of {config.LOCK.name}: a few minutes.",
        flush=True,
    )
    stamp.unlink(missing_ok=True)  # from here on a killed set-up is done again
    # the interpreter below, where we run in the very environment that is to be replaced
    base = getattr(sys, "_base_executable", None) or sys.executable
    pip = [str(_VENV_PYTHON), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    again = "see the lines above, then run the same command again"
    steps = (
        (
            "make .venv; on Debian and Ubuntu install the package python3-venv",
            [base, "-m", "venv", "--clear", str(_VENV)],
        ),
        (f"install {config.LOCK.name}; {again}", [*pip, "--require-hashes", "-r", str(config.LOCK)]),
        (f"install the project itself; {again}", [*pip, "--no-deps", "--no-build-isolation", "-e", str(config.ROOT)]),
    )
    for what, command in steps:
        if _call(command):
            raise config.CrackutilsError(f"Set-up could not {what}.")
    write_atomically(stamp, _stamp())
    return 0


def _run(args: argparse.Namespace) -> int:
    which = [word for word in args.values if "=" not in word]
    args.values = [word for word in args.values if "=" in word]
    values = _values(args, None)
    if not which:
        raise config.CrackutilsError(
            "run needs the number of a notebook, all or recipes, for example python -m crackutils run 03."
        )
    force = _yes("FORCE", values.pop("FORCE", "0"))
    from tools.series import run

    run(which, values, force)
    return 0


def _recipes(args: argparse.Namespace) -> int:
    _values(args, ())
    config.start("sample")
    from crackutils import models
    from crackutils.published import CORRECTED_IN_ALL, PUBLISHED, published_result
    from crackutils.recipes import RECIPES

    print(f"{'RECIPE':<26} {'run':<8} {'parameters':>10} {'trained':>10} {'px':>4} {'epochs':>6}  published on METU")
    for name, recipe in RECIPES.items():
        model, _ = models.build(recipe, "random", config.DEFAULT_SEED)
        size = models.describe_model(model)
        published = PUBLISHED.get(name)
        target = "run-03" if recipe.family == "transfer" else "run-04"
        epochs = "+".join(str(stage.epochs) for stage in recipe.stages)
        print(
            f"{name:<26} {target:<8} {size['parameters']:>10,} {size['trainable']:>10,} {recipe.size:>4} {epochs:>6}"
            f"  {published_result(published) if published else 'ours'}"
        )
        print(f"{'':<26} {recipe.title}{f'; {published.source}' if published else ''}")
        for line in published.corrections if published else ():
            print(f"{'':<26} - {line}")
    print("\nIn all of them " + ";\n  ".join(CORRECTED_IN_ALL) + ".")
    print("Trained: with the backbone frozen, as training begins. make run-recipes runs all of them.")
    return 0


def _data(args: argparse.Namespace) -> int:
    values = _values(args, ("FROM", "SOURCE"))
    from crackutils.sources.fetch import fetch

    fetch(args.source or values.get("SOURCE", "metu"), args.origin or values.get("FROM"))
    return 0


def _pretrain(args: argparse.Namespace) -> int:
    _values(args, ())
    config.start("sample")
    from crackutils import models
    from tools.pretraining import Schedule, pretrain

    pretrain(Schedule(), models.OWN.file)
    print(f"{config.display_path(models.OWN.file)} is made again; benchmarks/sample.py --final measures it.")
    return 0


def _verify(args: argparse.Namespace) -> int:
    profile = _profile(args)
    from tools.reference import verify

    return verify(profile.name)


def _reference(args: argparse.Namespace) -> int:
    profile = _profile(args)
    from tools.reference import make_reference

    make_reference(profile.name)
    return 0


def _readme(args: argparse.Namespace) -> int:
    _values(args, ())
    from tools.readme import update_readme

    update_readme()
    return 0


def _bench(args: argparse.Namespace) -> int:
    _values(args, ())
    return _call([sys.executable, str(config.ROOT / "benchmarks" / "speed.py")])


def _report(args: argparse.Namespace) -> int:
    profile = _profile(args)
    from tools.report import report

    print(config.display_path(report(profile)))
    return 0


def _badges(args: argparse.Namespace) -> int:
    _values(args, ())
    from tools.badges import badges

    changed = badges(args.check)
    for name in changed:
        print(f"{'to be rewritten' if args.check else 'rewritten'}: {name}")
    return 1 if changed and args.check else 0


def _score(args: argparse.Namespace) -> int:
    _values(args, ())
    from crackutils.scoring import score

    score(args.folder, args.out, args.model, args.engine)
    return 0


def _adapt(args: argparse.Namespace) -> int:
    _values(args, ())
    from crackutils.adaptation.adapt import adapt

    adapt(args.labels, args.out, args.model, args.engine)
    return 0


def _inspect(args: argparse.Namespace) -> int:
    _values(args, ())
    from crackutils.inspection.folder import inspect

    table = inspect(args.photos, args.out, args.model, args.engine, args.threshold, args.mm_per_pixel, args.labels)
    broken, shown = int((table["problem"] != "").sum()), int((table["cracks"] > 0).sum())
    unusable = f", {broken:,} could not be used (see the column problem)" if broken else ""
    print(f"{shown:,} of {len(table):,} photos show something crack-like{unusable} -> {args.out / 'report.html'}")
    return 0


def _lab(args: argparse.Namespace) -> int:
    _values(args, ())
    return _call([sys.executable, "-m", "jupyterlab", str(config.NOTEBOOKS)], JUPYTER_PREFER_ENV_PATH="1")


def _tensorboard(args: argparse.Namespace) -> int:
    profile = _profile(args)
    logs = config.results_dir() / profile.name
    if not logs.is_dir():
        raise config.CrackutilsError(
            f"{config.display_path(logs)} does not exist; run make run-all PROFILE={profile.name} first."
        )
    return _call([sys.executable, "-m", "tensorboard.main", "--logdir", str(logs)])


def _lint(args: argparse.Namespace) -> int:
    _values(args, ())
    own = ["--config", 'extend-exclude=["results", "data"]', "."]  # .gitignore counts in a git checkout only
    checked = _call([sys.executable, "-m", "ruff", "check", *own])
    formatted = _call([sys.executable, "-m", "ruff", "format", "--check", *own])
    return 1 if checked or formatted else 0


def _test(args: argparse.Namespace) -> int:
    # files are whole jobs: session fixtures, as the smoke images, are made once in each of the two processes
    return _lint(args) or _call(
        [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    )


def _clean(args: argparse.Namespace) -> int:
    """Remove what can be computed again; images and downloads stay."""
    _values(args, ())
    root = config.ROOT
    doomed = [root / name for name in ("results", "data/cache", "data/index", "data/splits")]
    doomed += [root / name for name in (".pytest_cache", ".ruff_cache")]
    for folder in ("crackutils", "tests", "notebooks", "benchmarks"):
        doomed += [p for name in ("__pycache__", ".ipynb_checkpoints") for p in sorted((root / folder).rglob(name))]
    for path in doomed:
        if path.is_symlink():
            path.unlink()  # what it points to is not ours
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            continue
        print(f"removed {config.display_path(path)}")
    return 0


def _lock(args: argparse.Namespace) -> int:
    _values(args, ())
    command = "uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 --extra dev"
    return _call([sys.executable, "-m", *command.split(), "pyproject.toml", "-o", config.LOCK.name])


def _call(command: list[str], **variables: str) -> int:
    """Run a program in the project's folder and return its exit status; it must not inherit make's variables."""
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    try:
        return subprocess.call(command, cwd=config.ROOT, env=env | variables)
    except FileNotFoundError:
        raise config.CrackutilsError(
            f"{command[0]} is not on this machine; name a Python that is, or run make setup."
        ) from None


COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int], str]] = {
    "help": (_help, "show this list"),
    "setup": (_setup, "make .venv with the exact versions of requirements.lock; does nothing where that is done"),
    "run": (_run, "run notebooks: run all, run 03, run recipes [PROFILE=metu-half] [FORCE=1] [any parameter=value]"),
    "recipes": (_recipes, "list the recipes with their source, parameters, published result and corrections"),
    "data": (_data, "fetch the images; FROM=archive-or-folder takes a copy that you have, SOURCE=own your own"),
    "pretrain": (
        _pretrain,
        "make our own backbone again: half an hour on two cores, 2.5 GB of disk, goes on after a kill",
    ),
    "bench": (_bench, "measure how fast the series is, against a published recipe: three quarters of an hour"),
    "verify": (_verify, "compare the results of a profile with the reference results"),
    "reference": (_reference, "make the results of a profile the reference"),
    "readme": (_readme, "write the result tables of README.md"),
    "report": (_report, "make the browsable report of a profile again"),
    "score": (_score, "score a folder of images with a trained model into a CSV file"),
    "adapt": (
        _adapt,
        "fit a trained model to your own site with a CSV file of labelled tiles, and say what it is worth",
    ),
    "inspect": (
        _inspect,
        "find cracks in whole photos: maps, lengths and widths, and a report of one file to mail",
    ),
    "lab": (_lab, "open JupyterLab on the notebooks"),
    "tensorboard": (_tensorboard, "open TensorBoard on the results of a profile"),
    "test": (_test, "lint, then run the tests"),
    "lint": (_lint, "check style and format"),
    "badges": (_badges, "write the repository's name into the Colab badges and set-up cells"),
    "lock": (_lock, "make requirements.lock again"),
    "clean": (_clean, "remove results and caches; images stay"),
}


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are told in one sentence, like all others."""

    def error(self, message: str) -> NoReturn:
        raise config.CrackutilsError(f"{message.rstrip('.')}; see python -m crackutils help.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m crackutils", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (_, summary) in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        sub.add_argument("--make", action="store_true", help=argparse.SUPPRESS)  # read make's variables too
        if name in ("run", "data", "verify", "reference", "report", "tensorboard"):
            sub.add_argument("values", nargs="*", metavar="[03] NAME=VALUE" if name == "run" else "NAME=VALUE")
        if name == "setup":
            sub.add_argument("--python", metavar="PYTHON", help="interpreter to make it with, e.g. python3.12")
        elif name == "data":
            sub.add_argument(
                "--from", dest="origin", metavar="PATH", type=Path, help="RAR, ZIP or folder that you have"
            )
            sub.add_argument("--source", metavar="NAME", help="entry of data/sources.toml (metu)")
        elif name == "badges":
            sub.add_argument("--check", action="store_true", help="change nothing; exit status 1 if something would")
        elif name == "score":
            sub.add_argument("folder", type=Path, metavar="FOLDER", help="folder of images")
            sub.add_argument("--out", type=Path, required=True, metavar="CSV", help="file to write")
            sub.add_argument(
                "--model",
                type=Path,
                metavar="RUN_FOLDER",
                help="run whose model scores (the best on METU, by validation)",
            )
        elif name == "adapt":
            sub.add_argument("--labels", type=Path, required=True, metavar="CSV", help="columns file,label[,photo]")
            sub.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="new folder to write")
            sub.add_argument(
                "--model",
                type=Path,
                metavar="RUN_FOLDER",
                help="run of notebook 08 to begin with (that on the largest METU profile)",
            )
        elif name == "inspect":
            sub.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="photos, or folders of photos")
            sub.add_argument(
                "--out", type=Path, required=True, metavar="FOLDER", help="folder to write, or to go on in"
            )
            sub.add_argument(
                "--model",
                type=Path,
                metavar="RUN_FOLDER",
                help="run of notebook 08, or of adapt (that of 08 on the largest METU profile)",
            )
            sub.add_argument("--threshold", type=float, metavar="P", help="probability that counts as a crack (0.5)")
            sub.add_argument(
                "--labels",
                type=Path,
                metavar="CSV",
                help="copy of tiles.csv with a column crack (1, 0 or empty); they choose the threshold",
            )
            sub.add_argument("--mm-per-pixel", type=float, metavar="MM", help="of all photos; lengths are told in mm")
        if name in ("score", "adapt", "inspect"):
            sub.add_argument("--engine", default=config.ENGINES[0], help=f"one of {', '.join(config.ENGINES)}")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 2 a mistake told in one sentence, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="replace")  # a console without Unicode must not stop a run
    try:
        args = _parser().parse_args(argv)
        return COMMANDS[args.command or "help"][0](args)
    except config.CrackutilsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where it stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
