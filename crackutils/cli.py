"""The command line of the package: `crackutils COMMAND`, or `python -m crackutils COMMAND`."""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import click

from crackutils import config

_PATH = click.Path(path_type=Path)  # whether it exists is checked later, with a remedy
_ENGINE = click.option(
    "--engine", default=config.ENGINES[0], metavar="NAME", help=f"One of {', '.join(config.ENGINES)}."
)


def _path_option(name: str, metavar: str, text: str, required: bool = False) -> Any:
    return click.option(name, type=_PATH, metavar=metavar, help=text, required=required)


@click.group(context_settings={"max_content_width": 120})
def cli() -> None:
    """Find cracks in pictures of concrete with trained models."""


@cli.command()
@click.option("--from", "origin", type=_PATH, metavar="PATH", help="RAR, ZIP or folder that you have; only read.")
@click.option("--source", default="metu", metavar="NAME", help="Entry of data/sources.toml; metu if not given.")
def data(origin: Path | None, source: str) -> None:
    """Fetch the images of a source, or take your copy of them."""
    from crackutils.sources.fetch import fetch

    fetch(source, origin)


@cli.command()
def recipes() -> None:
    """List the recipes with their source, parameters, published result and corrections."""
    config.start("sample")
    from crackutils.models import describe_model
    from crackutils.published import CORRECTED_IN_ALL, PUBLISHED, published_result
    from crackutils.recipes import RECIPES

    print(f"{'RECIPE':<26} {'run':<8} {'parameters':>10} {'trained':>10} {'px':>4} {'epochs':>6}  published on METU")
    for name, recipe in RECIPES.items():
        size = describe_model(recipe.build(config.DEFAULT_SEED, "random"))
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


@cli.command()
@click.argument("folder", type=_PATH)
@_path_option("--out", "CSV", "File to write.", required=True)
@_path_option("--model", "RUN_FOLDER", "Run whose model scores; the best on METU by validation if not given.")
@_ENGINE
def score(folder: Path, out: Path, model: Path | None, engine: str) -> None:
    """Write the crack probability of every image below FOLDER to a CSV file."""
    from crackutils.scoring import score

    score(folder, out, model, engine)


@cli.command()
@_path_option("--labels", "CSV", "Columns file, label and, if you know it, photo.", required=True)
@_path_option("--out", "FOLDER", "New folder to write.", required=True)
@_path_option("--model", "RUN_FOLDER", "Run of notebook 08; that on the largest METU profile if not given.")
@_ENGINE
def adapt(labels: Path, out: Path, model: Path | None, engine: str) -> None:
    """Fit a trained model to your own site with labelled tiles, and measure the gain."""
    from crackutils.adaptation.adapt import adapt

    adapt(labels, out, model, engine)


@cli.command()
@click.argument("photos", nargs=-1, required=True, type=_PATH)
@_path_option("--out", "FOLDER", "Folder to write, or to continue in.", required=True)
@_path_option(
    "--model", "RUN_FOLDER", "Run of notebook 08 or of adapt; that of 08 on the largest METU profile if not given."
)
@_ENGINE
@click.option("--threshold", type=float, metavar="P", help="Probability that counts as a crack; 0.5 if not given.")
@click.option("--mm-per-pixel", type=float, metavar="MM", help="Scale of all photos; lengths are then in mm too.")
@_path_option("--labels", "CSV", "Copy of tiles.csv with a column crack (1, 0 or empty); it chooses the threshold.")
def inspect(photos: tuple[Path, ...], out: Path, **options: Any) -> None:
    """Find cracks in whole PHOTOS (files or folders): maps, lengths, widths, and a report in one file."""
    from crackutils.inspection.folder import inspect

    table = inspect(list(photos), out, **options)
    broken, shown = int((table["problem"] != "").sum()), int((table["cracks"] > 0).sum())
    unusable = f", {broken:,} could not be used (see the column problem)" if broken else ""
    print(f"{shown:,} of {len(table):,} photos show something crack-like{unusable} -> {out / 'report.html'}")


def run_command(group: click.Group, name: str, argv: list[str] | None) -> int:
    """Run a command of a group.

    Args:
        group: the commands.
        name: what the user writes before a command.
        argv: the command and its arguments; None for those of this process.

    Returns:
        The exit status: what the command returned, or 2 after a mistake (one line on standard error), or 130 after
        Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="replace")  # a console without Unicode must not stop a run
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        # click's own main() would answer a mistake with several lines of usage
        with group.make_context(name, argv or ["--help"]) as context:
            return group.invoke(context) or 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        cause = " ".join(error.format_message().split())
        print(f"error: {cause}{'' if cause.endswith(('.', '?')) else '.'} See {name} --help.", file=sys.stderr)
        return 2
    except config.CrackutilsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, head for example, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues where it stopped.", file=sys.stderr)
        return 130


def main(argv: list[str] | None = None) -> int:
    """Run `python -m crackutils` and return its exit status."""
    return run_command(cli, "python -m crackutils", argv)
