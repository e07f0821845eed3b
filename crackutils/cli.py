"""The command line of the package: `crackutils COMMAND`, or `python -m crackutils COMMAND`."""

import functools
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import click

from crackutils.config import DEFAULT_PROFILE, ENGINES, CrackutilsError, start

_PATH = click.Path(path_type=Path)  # whether it exists is checked later, with a remedy
_path = functools.partial(click.option, type=_PATH)
_FORCE = click.option("--force", is_flag=True, help="Replace files that are yours: not written, or changed since.")
_RAY = click.option(
    "--ray",
    is_flag=False,
    flag_value="local",
    metavar="[ADDRESS]",
    help="Work on a Ray cluster: that at ADDRESS, or one on this machine if --ray stands last.",
)
_ENGINE = click.option("--engine", default=ENGINES[0], metavar="NAME", help=f"One of {', '.join(ENGINES)}.")


@click.group(context_settings={"max_content_width": 120})
def cli() -> None:
    """Find cracks in pictures of concrete with trained models."""
    start(DEFAULT_PROFILE)  # its thread counts


@cli.command()
@click.argument("folder")
@click.option("--out", metavar="CSV", help="File to write; with --ray, a folder of Parquet parts.", required=True)
@_path("--model", metavar="RUN_FOLDER", help="Run whose model scores; the best on METU by validation if not given.")
@_ENGINE
@_FORCE
@_RAY
def score(folder: str, ray: str | None, **options: Any) -> None:
    """Write the crack probability of every picture below FOLDER to a CSV file.

    With --ray, FOLDER is a folder, a list (.txt) or a table (.parquet) of files, on disk or at an address (s3://...).
    """
    if ray:
        from crackutils.scale.scoring import score

        score(folder, ray=ray, **options)
        return
    from crackutils.scoring import score

    score(folder, **options)


@cli.command()
@_path(
    "--labels",
    metavar="TABLE",
    help="CSV or spreadsheet: file, label and, if known, photo; or a session, or a folder of photos with masks.",
    required=True,
)
@_path("--out", metavar="FOLDER", help="New folder to write.", required=True)
@_path("--model", metavar="RUN_FOLDER", help="Run of notebook 08; else the network of the package.")
@_ENGINE
@_FORCE
def adapt(labels: Path, **options: Any) -> None:
    """Fit a trained model to your own site with labelled tiles, and measure the gain."""
    from crackutils.adaptation.adapt import adapt, refuse_out
    from crackutils.inspection.session import is_session

    if not (labels.is_dir() or is_session(labels)):
        adapt(labels, **options)
        return
    from crackutils.inspection.labelled import labelled_tiles

    refuse_out(options["out"].resolve(), options["force"])  # before the work
    with labelled_tiles(labels, options["out"], options["model"], options["engine"]) as table:
        adapt(table, **options)


@cli.command()
@click.argument("photos", nargs=-1)
@_path("--out", metavar="FOLDER", help="Folder to write, or to continue in.", required=True)
@_path("--model", metavar="RUN_FOLDER", help="Run of notebook 08 or adapt; else the network of the package.")
@_ENGINE
@click.option("--threshold", type=float, metavar="P", help="Probability that counts as a crack; 0.5 if not given.")
@click.option("--mm-per-pixel", type=float, metavar="MM", help="Scale of all photos; lengths are then in mm too.")
@_path("--labels", metavar="TABLE", help="Copy of tiles.csv with a column crack (1, 0, empty); sets the threshold.")
@_path("--session", metavar="FILE", help="Photos with your corrections, saved as one file; in the place of PHOTOS.")
@click.option("--marker-mm", type=float, metavar="MM", help="Side of the ArUco markers that give each photo's scale.")
@click.option("--limit-mm", type=float, metavar="MM", help="Mark what is wider, and report its share of the length.")
@click.option("--exposure", metavar="CLASS", help="Exposure class (XC2), whose limit EN 1992-1-1 recommends.")
@click.option("--exif/--no-exif", default=True, help="Report camera, date and GPS place of the photos, or do not.")
@_path(
    "--truth",
    metavar="MASKS",
    help="Folder of true masks (white is crack), named as the photos: print IoU, F1, precision, recall, the same of"
    " centre lines (precision: share of found ones within 4 pixels of a true one), and the error of the length.",
)
@_FORCE
@_RAY
def inspect(photos: tuple[str, ...], out: Path, ray: str | None, **options: Any) -> None:
    """Find cracks in whole PHOTOS (files or folders): masks, measures, XLSX, GeoJSON, DXF, COCO, and a report."""
    if not photos and options["session"] is None:
        raise click.UsageError("Missing argument 'PHOTOS...', or a session.")
    from crackutils.inspection.export import describe_limit
    from crackutils.inspection.report import is_lineless

    if ray:
        from crackutils.scale.inspecting import inspect

        options["ray"] = ray
    else:
        from crackutils.inspection.folder import inspect
    table = inspect(list(photos), out, **options)
    cracked, usable = table["cracks"] > 0, table["wide"].notna()
    lineless = int(is_lineless(table).sum())
    more = f"; in {lineless:,} more the network sees something too short to be measured" if lineless else ""
    rejected = int(table["rejected"].sum()) if "rejected" in table else 0
    more += f"; {rejected:,} found line{'s' * (rejected > 1)} rejected by the user" if rejected else ""
    more += f"; {(~usable).sum():,} could not be used" if not usable.all() else ""
    more += " (see the column problem)" if (table["problem"] != "").any() else ""
    more += f"; {text}" if (text := describe_limit(table)) else ""
    print(f"{cracked.sum():,} of {len(table):,} photos show something crack-like{more} -> {out / 'report.html'}")


@cli.command()
@click.argument("photos", nargs=-1, type=_PATH)
@_path("--model", metavar="RUN_FOLDER", help="Run of notebook 08 or adapt; else the network of the package.")
@_ENGINE
@click.option("--host", default="127.0.0.1", help="Address to listen on; this computer alone if not given.")
@click.option("--port", type=int, help="Port to listen on; the first free one from 7860 if not given.")
def app(photos: tuple[Path, ...], **options: Any) -> None:
    """Open a page in the browser: photos in, cracks looked at and corrected, a report out."""
    from crackutils.app.serve import serve

    serve(photos, **options)


def run_command(group: click.Group, name: str, argv: list[str] | None) -> int:
    """Run `argv` (None: of this process) in a group called `name`, and return its status.

    It is 2 on a mistake, 130 after Ctrl-C or SIGTERM.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what is half written goes
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
        print(f"error: {cause}{'' if cause.endswith(('.', '?')) else '.'} See {name} --help.", file=sys.stderr)
        return 2
    except CrackutilsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except MemoryError:
        print("error: there is too little memory. Close other programs, or give smaller pictures.", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, head for example, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a disk or a network that gave way; what we expect has its own message
        what = " ".join(str(part) for part in (error.filename, error.strerror or error) if part)
        print(f"error: {what}. Look after that place, then run the same command again.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues where it stopped.", file=sys.stderr)
        return 130


def main(argv: list[str] | None = None) -> int:
    """Run `python -m crackutils` and return its exit status."""
    return run_command(cli, "python -m crackutils", argv)
