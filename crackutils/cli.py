"""The command line of the package: `crackutils COMMAND`, or `python -m crackutils COMMAND`."""

import functools
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import click

from crackutils.config import DEFAULT_PROFILE, DEFAULT_SEED, ENGINES, SPLITS, CrackutilsError, start


class _Name(click.Path):
    """A name of a file or folder; whether it exists is checked later, with a remedy."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return a name, but refuse an empty one, as of an unset variable, for it would be the current folder."""
        if not os.fspath(value):
            self.fail("The name is empty. Give a file or a folder.", param, ctx)
        return super().convert(value, param, ctx)


_PATH = _Name(path_type=Path, readable=False)  # one photo that may not be read stops no other
_TEXT = _Name(readable=False)
_path = functools.partial(click.option, type=_PATH)
_FORCE = click.option("--force", is_flag=True, help="Also replace files that you wrote or changed.")
_ENGINE = click.option("--engine", default=ENGINES[0], metavar="NAME", help=f"Runtime: {', '.join(ENGINES)}.")

_PROFILE = click.option("--profile", default=DEFAULT_PROFILE, metavar="NAME", help="Images, as sample or metu-half.")
_SPLIT = click.option("--split", default="", metavar="NAME", help=f"One of {', '.join(SPLITS)}; else the profile's.")
_SEED = click.option("--split-seed", type=click.IntRange(0, 2**32 - 1), default=DEFAULT_SEED, help="Seed of the split.")
_CLUSTER = "Work on a Ray cluster: that at ADDRESS, or one on this machine if --ray stands last."
_RAY = click.option("--ray", is_flag=False, flag_value="local", metavar="[ADDRESS]", help=_CLUSTER)


@click.group(context_settings={"max_content_width": 120})
def cli() -> None:
    """Find cracks in pictures of concrete with trained models."""
    start(DEFAULT_PROFILE)  # its thread counts


@cli.command()
@click.argument("folder", type=_TEXT)
@click.option("--out", type=_TEXT, metavar="CSV", help="File; with --ray, folder of Parquet parts.", required=True)
@_path("--model", metavar="RUN_FOLDER", help="Run to score with; default: METU run with the lowest validation loss.")
@_ENGINE
@_FORCE
@_RAY
def score(folder: str, ray: str | None, **options: Any) -> None:
    """Write the crack probability of every picture in FOLDER and its subfolders to a CSV file.

    With --ray, FOLDER is a folder, a list (.txt) or a table (.parquet) of files, on disk or at an address (s3://...).
    """
    if ray:
        from crackutils.scale.scoring import score

        options["ray"] = ray
    else:
        from crackutils.scoring import score
    score(folder, **options)


@cli.command()
@_path("--labels", metavar="TABLE", help="Fit the last layer: table of file, label, photo (if known); or as --masks.")
@_path("--masks", metavar="SESSION|FOLDER", help="Train all layers: a session, or a folder of photos with masks.")
@_path("--out", metavar="FOLDER", help="New folder to write.", required=True)
@_path("--model", metavar="RUN_FOLDER", help="Run of notebook 08; default: the detector of the package.")
@_ENGINE
@_FORCE
def adapt(labels: Path | None, masks: Path | None, **options: Any) -> None:
    """Adapt the detector to your site, with labelled tiles or photos with masks, and measure the gain."""
    if (labels is None) == (masks is None):
        raise click.UsageError("Give --labels, to fit the last layer in seconds, or --masks, to train all in minutes.")
    from crackutils.adaptation.adapt import adapt, refuse_out
    from crackutils.inspection.session import is_session

    out, using = options["out"], (options["model"], options["engine"])
    if labels and not (labels.is_dir() or is_session(labels)):
        adapt(labels, **options)
        return
    from crackutils.adaptation.masks import adapt_to_masks
    from crackutils.inspection.labelled import corrected_photos, labelled_tiles

    refuse_out(out.resolve(), options["force"])  # before the work
    if labels:
        with labelled_tiles(labels, out, *using) as table:
            adapt(table, **options)
    else:
        with corrected_photos(masks, out, *using) as (_, shots):
            adapt_to_masks(shots, **options)


@cli.command()
@click.argument("photos", nargs=-1, type=_TEXT)
@_path("--out", metavar="FOLDER", help="Output folder: a new one, or one to continue.", required=True)
@_path("--model", metavar="RUN_FOLDER", help="Run of notebook 08 or adapt; default: the detector of the package.")
@_ENGINE
@click.option("--threshold", type=float, metavar="P", help="Probability at which a crack begins; default: 0.5.")
@click.option("--mm-per-pixel", type=float, metavar="MM", help="Scale of all photos; measures are then in mm.")
@_path("--labels", metavar="TABLE", help="Copy of tiles.csv with a column crack (1, 0, empty): chooses the threshold.")
@_path("--session", metavar="FILE", help="Session file, photos with your corrections; takes the place of PHOTOS.")
@click.option("--marker-mm", type=float, metavar="MM", help="Side of the ArUco markers that show the scale of a photo.")
@click.option("--limit-mm", type=float, metavar="MM", help="Largest allowed width: wider parts are marked.")
@click.option("--exposure", metavar="CLASS", help="Exposure class such as XC2: take the limit of EN 1992-1-1.")
@click.option("--exif/--no-exif", default=True, help="Report camera, date and GPS position of the photos, or not.")
@_path("--truth", metavar="MASKS", help="Folder of true masks, named like the photos: prints scores against them.")
@_FORCE
@_RAY
def inspect(photos: tuple[str, ...], out: Path, ray: str | None, **options: Any) -> None:
    """Find and measure cracks in PHOTOS (files or folders); write masks, tables, GeoJSON, DXF, COCO and a report."""
    if not photos and options["session"] is None:
        raise click.UsageError("There are no photos. Give PHOTOS or --session.")
    from crackutils.files import printable
    from crackutils.inspection.export import describe_limit
    from crackutils.inspection.report import is_lineless
    from crackutils.inspection.session import CONTRARY

    if ray:
        from crackutils.scale.inspecting import inspect

        options["ray"] = ray
    else:
        from crackutils.inspection.folder import inspect
    table = inspect(list(photos), out, **options)
    for file, problem in zip(table["file"], table["problem"], strict=True):
        if CONTRARY in problem:
            print(f"{printable(file)}: {problem}")
    cracked, usable = table["cracks"] > 0, table["wide"].notna()
    lineless = int(is_lineless(table).sum())
    more = f"; in {lineless:,} more, possible cracks are too short to be measured" if lineless else ""
    rejected = int(table["rejected"].sum()) if "rejected" in table else 0
    more += f"; {rejected:,} found line{'s' * (rejected > 1)} rejected by the user" if rejected else ""
    more += f"; {(~usable).sum():,} could not be used" if not usable.all() else ""
    more += " (see the column problem)" if (table["problem"] != "").any() else ""
    more += f"; {text}" if (text := describe_limit(table)) else ""
    print(f"{cracked.sum():,} of {usable.sum():,} photos examined show possible cracks{more} -> {out / 'report.html'}")


def _load(profile: str) -> Any:
    """Return the images of a profile, which are drawn first if they are synthetic."""
    chosen = start(profile)
    from crackutils import datasets
    from crackutils.sources.fetch import prepare

    prepare(chosen)
    return datasets.load(chosen)


@cli.command()
@click.argument("predictions", type=_PATH)
@_PROFILE
@_path("--validation", metavar="TABLE", help="The same for validation images; chooses temperature and threshold.")
@click.option("--name", default="", help="Name of the model; that of the table if not given.")
@_SPLIT
@_SEED
@_FORCE
def evaluate(predictions: Path, profile: str, **options: Any) -> None:
    """Judge a model of any framework by PREDICTIONS, a table with file and p_crack for each test image."""
    from crackutils.evaluation.predictions import evaluate

    evaluate(predictions, _load(profile), **options)


@cli.command()
@_path("--export", "folder", metavar="FOLDER", help="Folder to write to.", required=True)
@_PROFILE
@_SPLIT
@_SEED
@_FORCE
def splits(profile: str, **options: Any) -> None:
    """Write a split as a CSV file: part, label, group and SHA-256 of each image."""
    from crackutils.evaluation.manifest import export_split

    export_split(_load(profile), **options)


@cli.command()
@click.argument("predicted", type=_PATH)
@click.argument("truth", type=_PATH)
@_path("--out", metavar="CSV", help="File to write.")
@_FORCE
def evaluate_masks(**options: Any) -> None:
    """Compare a folder of PREDICTED masks with the folder of TRUTH: IoU, F1, centre lines, and 95 % intervals."""
    from crackutils.evaluation.masks import evaluate_masks

    evaluate_masks(**options)


@cli.command()
@click.argument("photos", nargs=-1, type=_PATH)
@_path("--model", metavar="RUN_FOLDER", help="Run of notebook 08 or adapt; default: the detector of the package.")
@_ENGINE
@click.option("--host", default="127.0.0.1", help="Address to listen on; default: this computer only.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on; default: the first free one from 7860.")
def app(photos: tuple[Path, ...], **options: Any) -> None:
    """Open a page in the browser: load photos, review and correct cracks, write a report."""
    from crackutils.app.serve import serve

    serve(photos, **options)


@cli.command()
@click.argument("source", metavar="RUN|detector")
@click.option("--format", "form", required=True, metavar="NAME", help="litert[-int8], onnx, openvino or saved_model.")
@_path("--out", metavar="FILE", help="File to write, for saved_model a folder; its card is FILE.json.", required=True)
@_path("--images", metavar="FOLDER", help="Pictures to compare with Keras on; else the run's, or synthetic ones.")
@_FORCE
def export(source: str, form: str, out: Path, **options: Any) -> None:
    """Write the model of a run folder, or the package's detector, for programs without Keras."""
    from crackutils.deployment.export import export_model

    card = export_model(source, form, out, **options)
    compared = card["compared_with_keras"]
    told = f"largest difference from Keras {compared['largest_difference']:.2g} on {compared['on']}"
    print(f"{card['bytes'] / 1e6:.1f} MB, {card['images_per_second']:.0f} images/s, {told} -> {out}")


def run_command(group: click.Group, name: str, argv: list[str] | None) -> int:
    """Run `argv` (None: of this process) in a group called `name`, and return its status.

    The status is 2 after a user's mistake, 130 after Ctrl-C or SIGTERM.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: unfinished files are removed
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a console without Unicode must not stop a run
            stream.reconfigure(errors="replace")
    try:  # click's own main() would answer a mistake with several lines of usage
        with group.make_context(name, list(sys.argv[1:] if argv is None else argv) or ["--help"]) as context:
            return group.invoke(context) or 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        cause = " ".join(error.format_message().split())
        told = f"{cause}{'' if cause.endswith(('.', '?')) else '.'} See {name} --help."
    except CrackutilsError as error:
        told = str(error)
    except MemoryError:
        told = "there is not enough memory. Close other programs, or use smaller pictures."
    except BrokenPipeError:  # the reader, head for example, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # failure of a disk or network; expected errors have their own messages
        what = " ".join(str(part) for part in (error.filename, error.strerror or error) if part)
        told = f"{what}. Check the disk or network, then run the same command again."
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues where it stopped.", file=sys.stderr)
        return 130
    print(f"error: {told}", file=sys.stderr)
    return 2


def main(argv: list[str] | None = None) -> int:
    """Run `python -m crackutils` and return its exit status."""
    return run_command(cli, "python -m crackutils", argv)
