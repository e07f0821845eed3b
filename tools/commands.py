"""The commands of the repository: `python -m tools COMMAND`. Most make targets are a thin call of one."""

from __future__ import annotations

import functools
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence

import click

from crackutils import cli as package
from crackutils import config
from tools import setup
from tools.setup import call

_NAME = "python -m tools"
_FROM_ENVIRONMENT = ("PROFILE", "FORCE", "FROM", "SOURCE")  # also read from the environment if make calls
Settings = dict[str, str]


class _InOrder(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order below


@click.group(cls=_InOrder, context_settings={"max_content_width": 120})
@click.option("--make", is_flag=True, hidden=True)  # also read make's variables
@click.pass_context
def cli(context: click.Context, make: bool) -> None:
    """Run the series and maintain the repository. Settings are NAME=VALUE, as with make."""
    context.obj = make


def _make_variables() -> Settings:
    """Return the variables on make's own command line.

    make lists them in MAKEFLAGS after ` -- ` and puts their values into the environment. There they need no quotes, so
    paths with spaces and apostrophes remain intact.
    """
    words = re.findall(r"(?:\\.|[^\s\\])+", os.environ.get("MAKEFLAGS", ""), re.S)
    words = words[words.index("--") + 1 :] if "--" in words else []
    names = [re.split(r"[:?+!]*=", word, maxsplit=1)[0] for word in words if "=" in word]
    ours = [n for n in names if n not in ("PYTHON", "MAKEFLAGS") and not n.startswith("CRACKUTILS_")]
    return {name: os.environ.get(name, "") for name in ours}


def _read_settings(words: Sequence[str], known: Sequence[str] | None) -> Settings:
    """Return the settings of the running command; empty values count as not given.

    Args:
        words: the words after the command, each NAME=VALUE.
        known: the names that the command takes; None if the command checks them itself.
    """
    context = click.get_current_context()
    values: Settings = {}
    if context.obj:
        wanted = ("PROFILE", "FORCE") if known is None else known
        values |= {n: os.environ[n] for n in _FROM_ENVIRONMENT if n in wanted and n in os.environ}
        values |= _make_variables()
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise config.CrackutilsError(f"{word} is not of the form NAME=VALUE. See {_NAME} --help.")
        values[name] = value
    values = {name: value for name, value in values.items() if value}
    for name in values if known is not None else ():
        if not known:
            raise config.CrackutilsError(
                f"{context.info_name} takes no setting, but {name}={values[name]} is given. Leave it out."
            )
        config.choose("setting", name, known)
    return values


def _command(*known: str) -> Callable[[Callable[..., int | None]], click.Command]:
    """Return a decorator that turns a function into a command; its first argument holds the settings `known`."""

    def register(function: Callable[..., int | None]) -> click.Command:
        @functools.wraps(function)
        def read_and_call(words: tuple[str, ...], **options: bool) -> int | None:
            return function(_read_settings(words, known), **options)

        words = click.argument("words", nargs=-1, metavar=" ".join(f"[{name}=...]" for name in known))
        return cli.command(function.__name__.strip("_").replace("_", "-"))(words(read_and_call))

    return register


def _profile(values: Settings) -> config.Profile:
    return config.profile(values.get("PROFILE", config.DEFAULT_PROFILE))


def _force(values: Settings) -> bool:
    if (force := values.pop("FORCE", "0")) not in ("0", "1"):
        raise config.CrackutilsError(f"FORCE={force} must be 1 or 0.")
    return force == "1"


@_command()
def _setup(_: Settings) -> None:
    """Create .venv with the exact versions of requirements.lock, unless it is up to date."""
    setup.set_up()


@cli.command()
@click.argument("words", nargs=-1, metavar="03|all|recipes [NAME=VALUE]...")
def run(words: tuple[str, ...]) -> None:
    """Run notebooks that are not up to date; FORCE=1 runs all of them. NAME=VALUE sets a parameter."""
    values = _read_settings([word for word in words if "=" in word], None)
    which = [word for word in words if "=" not in word]
    if not which:
        raise config.CrackutilsError(
            f"run needs the number of a notebook, all or recipes. For example: {_NAME} run 03."
        )
    force = _force(values)
    from tools.run_series import run

    run(which, values, force)


@_command()
def recipes(_: Settings) -> None:
    """List the recipes with their source, parameters, published result and corrections."""
    config.start("sample")
    from crackutils.models import describe_model
    from crackutils.published import CORRECTED_IN_ALL, PUBLISHED, published_result
    from crackutils.recipes import RECIPES

    row = "{:<26} {:<8} {:>10} {:>10} {:>4} {:>6}  {}".format
    print(row("RECIPE", "run", "parameters", "trained", "px", "epochs", "published on METU"))
    for name, recipe in RECIPES.items():
        size, origin = describe_model(recipe.build(config.DEFAULT_SEED, "random")), PUBLISHED.get(name)
        counts = (f"{size[key]:,}" for key in ("parameters", "trainable"))
        epochs = "+".join(str(stage.epochs) for stage in recipe.stages)
        result, source, notes = "ours", "", ()
        if origin:
            result, source, notes = published_result(origin), f"; {origin.source}", origin.corrections
        print(row(name, "run-03" if recipe.family == "transfer" else "run-04", *counts, recipe.size, epochs, result))
        print(*(f"{'':<26} {line}" for line in (recipe.title + source, *(f"- {n}" for n in notes))), sep="\n")
    print("\nIn all of them " + ";\n  ".join(CORRECTED_IN_ALL) + ".")
    print("Trained: with the backbone frozen, as training begins. make run-recipes runs all of them.")


@_command("FROM", "SOURCE", "CLASSES", "FORCE")
def data(values: Settings) -> None:
    """Fetch the images of a source, or read your copy of them: FROM=archive-or-folder [CLASSES=uncracked:cracked]."""
    from crackutils.sources.fetch import fetch

    fetch(values.get("SOURCE", "metu"), values.get("FROM"), values.get("CLASSES", ""), _force(values))


@_command()
def lab(_: Settings) -> int:
    """Open JupyterLab on the notebooks; only this machine can reach it, whatever its settings are."""
    # the whole project, so that links to docs and the executed copies in results open
    options = ["--ServerApp.ip=127.0.0.1", "--LabApp.default_url=/lab/tree/notebooks"]
    return call([sys.executable, "-m", "jupyterlab", str(config.ROOT), *options], JUPYTER_PREFER_ENV_PATH="1")


@_command("PROFILE")
def docs(values: Settings) -> None:
    """Build the site: the executed notebooks of a profile, the guides and the API."""
    from tools.site import write_site

    print(f"Open {config.display_path(write_site(_profile(values)))} in a browser.")


@_command("PROFILE")
def tensorboard(values: Settings) -> int:
    """Open TensorBoard on the results of a profile."""
    name = _profile(values).name
    logs = config.results_dir() / name
    if not logs.is_dir():
        raise config.CrackutilsError(f"{config.display_path(logs)} does not exist. Run make run-all PROFILE={name}.")
    return call([sys.executable, "-m", "tensorboard.main", "--logdir", str(logs)])


@_command("PROFILE")
def verify(values: Settings) -> int:
    """Compare the results of a profile with the reference."""
    from tools.reference import verify

    return verify(_profile(values).name)


@_command("PROFILE")
def reference(values: Settings) -> None:
    """Make the results of a profile the reference."""
    from tools.reference import make_reference

    make_reference(_profile(values).name)


@_command("PROFILE")
def spread(values: Settings) -> None:
    """Measure how far the numbers of the reference vary with the type of CPU and the seed."""
    from tools.spread import measure_spread

    measure_spread(_profile(values).name)


@_command()
def tables(_: Settings) -> None:
    """Write the tables of README.md and docs/benchmark.md, from the reference and from data/benchmark/."""
    from tools.tables import write_benchmark, write_results

    write_results()
    write_benchmark()


@_command()
def pretrain(_: Settings) -> None:
    """Train our own backbone again: half an hour on two cores, 2.5 GB of disk. Continues after a kill."""
    config.start("sample")
    from crackutils import models
    from tools.pretraining import Schedule, pretrain

    pretrain(Schedule(), models.OWN_FILE)
    print(f"{config.display_path(models.OWN_FILE)} is written. Measure it with {_NAME}.benchmarks.sample --final.")


@_command("PHOTOS")
def app(values: Settings) -> int:
    """Open a page in the browser, PHOTOS=folder: load photos, review and correct cracks, write a report."""
    return call([sys.executable, "-m", "crackutils", "app", *([m] if (m := values.get("PHOTOS")) else [])])


@_command("PROFILE", "MASKS")
def train_detector(values: Settings) -> None:
    """Train the detector of the package again, MASKS=folder with images/ and masks/: up to two hours on two cores.

    PROFILE is metu or metu-half. Continues after a kill.
    """
    from pathlib import Path

    from tools.detector import train_shipped

    profile = config.choose("PROFILE", values.get("PROFILE", "metu-half"), ("metu", "metu-half"))
    train_shipped(config.start(profile), Path(m) if (m := values.get("MASKS")) else None)


@_command()
def bench(_: Settings) -> int:
    """Measure the speed of the series against a published recipe: half an hour on two cores."""
    return call([sys.executable, "-m", "tools.benchmarks.speed"])


@_command()
@click.option("--check", is_flag=True, help="Change nothing; exit status 1 if something would change.")
def badges(_: Settings, check: bool) -> int:
    """Write the repository's name into the Colab badges and set-up cells."""
    from tools.badges import write_badges

    changed = write_badges(check)
    for name in changed:
        print(f"{'to be rewritten' if check else 'rewritten'}: {name}")
    return int(bool(changed) and check)


@_command()
def lint(_: Settings) -> int:
    """Check style, format, spelling and imports between modules."""
    ruff = [sys.executable, "-m", "ruff"]
    own = ["--config", 'extend-exclude=["results", "data"]', "."]  # .gitignore works only in a git checkout
    imports = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    programs = ([*ruff, "check", *own], [*ruff, "format", "--check", *own])
    programs += ([sys.executable, "-m", "codespell_lib"], [sys.executable, "-c", imports, "--no-cache", "--no-logo"])
    return max([call(program) for program in programs])


# a file is one job, so session fixtures such as the smoke images are made once in each of the two processes
_PYTEST = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]


@_command()
def test(_: Settings) -> int:
    """Lint, then run all tests except the slow ones."""
    return lint.callback(()) or call([*_PYTEST, "-m", "not slow"])


@_command()
def test_all(_: Settings) -> int:
    """Lint, then run all tests, also slow ones: a repeated series compared byte for byte, kills, and pretraining."""
    return lint.callback(()) or call(_PYTEST)


@_command()
def lock(_: Settings) -> int:
    """Update requirements.lock; versions change only if they must."""
    command = "uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 --extra dev"
    return call([sys.executable, "-m", *command.split(), "pyproject.toml", "-o", config.LOCK.name])


@_command()
def clean(_: Settings) -> None:
    """Remove results and caches; images, downloads and corrections of photos stay."""
    root = config.ROOT
    names = ("results", "data/cache", "data/index", "data/splits")
    names += (".pytest_cache", ".ruff_cache", ".import_linter_cache")
    doomed = [root / name for name in names]
    for folder in ("crackutils", "tools", "tests", "notebooks", "docs"):
        doomed += [p for name in ("__pycache__", ".ipynb_checkpoints") for p in sorted((root / folder).rglob(name))]
    for path in doomed:
        if path.is_symlink():
            path.unlink()  # the target of the link is not ours
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            continue
        print(f"removed {config.display_path(path)}")


def main(argv: list[str] | None = None) -> int:
    """Run `python -m tools` and return its exit status."""
    return package.run_command(cli, _NAME, argv)
