"""Open the page on this computer."""

import functools
import gc
import os
import shutil
import socket
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from crackutils import config
from crackutils.app.desk import Desk, remove_old
from crackutils.config import CrackutilsError
from crackutils.detector.runs import SHIPPED
from crackutils.folders import find_pictures
from crackutils.inspection.tiling import TILE, load_detector, map_photo


def start_page(
    photos: Sequence[Path] = (),
    model: Path | None = None,
    engine: str = config.ENGINES[0],
    host: str = "127.0.0.1",
    port: int | None = None,
    inline: bool = False,
) -> Any:
    """Start the page and return it; `close` and `block_thread` are its methods, `local_url` its address.

    `photos`, files and folders, lie on the desk of whoever opens the page for the first time; `model` is as for
    `inspect`. It listens on `host`, this computer alone by default, and on the first free port from 7860, or on `port`.
    `inline` shows it in a notebook. Raises CrackutilsError where gradio is missing or too old, or the port is taken.
    """
    found = next((package.version for package in metadata.distributions(name="gradio")), None)
    if found is None or int(found.split(".")[0]) < 6:
        why = f"gradio {found} is too old for the page" if found else "The page needs gradio"
        raise CrackutilsError(f"{why}. Run pip install 'gradio>=6'.")
    from crackutils.app.page import build_page, launch

    host = f"[{bare}]" if ":" in (bare := host.strip("[]")) else bare
    try:  # gradio would try a hundred ports
        socket.create_server((bare, 0), family=socket.getaddrinfo(bare, None)[0][0]).close()
    except (OSError, UnicodeError) as error:
        raise CrackutilsError(f"The page cannot listen on {host} ({error}). Give another --host.") from error
    files = [file for path in photos for file in (find_pictures(path)[0] if path.is_dir() else [path])]
    if lost := [file for file in files if not file.is_file()]:
        raise CrackutilsError(f"{lost[0]} does not exist. Give photos, or folders of photos.")
    home, uploads = config.data_dir() / "desks", config.data_dir() / "cache" / "uploads"
    for old in uploads.with_name("desks").glob("*"):  # earlier versions kept corrections in the cache
        home.mkdir(exist_ok=True)
        if not (home / old.name).exists():
            shutil.move(old, home / old.name)
    for folder in (home, uploads):
        remove_old(folder)
    temporary = uploads / str(os.getpid())  # gradio's copies of what goes in and out
    os.environ["GRADIO_TEMP_DIR"] = str(temporary)
    net = load_detector(model or SHIPPED, engine)
    map_photo(np.zeros((TILE, TILE, 3), np.uint8), net)  # so that the first photo does not wait for the network
    gc.freeze()  # TensorFlow's objects stay: each collection would walk through them, a tenth of a second
    start = functools.partial(Desk, net=net, model=model, engine=engine)
    name = "that of the package" if model in (None, SHIPPED) else config.display_path(Path(model))
    page = build_page(start, home, name, files)
    try:
        launch(page, host, port, inline)
    except OSError as error:
        raise CrackutilsError(f"Port {port or 7860} is taken ({error}). Give another --port.") from error
    close = page.close

    def close_clean(*values: Any, **named: Any) -> None:
        close(*values, **named)
        shutil.rmtree(temporary, ignore_errors=True)

    page.close = close_clean
    return page


def serve(photos: Sequence[Path], **options: Any) -> None:
    """Open the page until Ctrl-C; the options are those of `start_page`."""
    page = start_page(photos, **options)
    print(f"The page is at {page.local_url} (Ctrl-C stops it; photos and corrections are kept for a week)", flush=True)
    try:
        page.block_thread()
    finally:
        page.close()


def show_page(photos: Sequence[Path], model: Path | None = None) -> None:
    """Show the page in a notebook in Jupyter or Colab, and say how to open it where there is no browser."""
    if not ("JPY_SESSION_NAME" in os.environ or "google.colab" in sys.modules):
        print("This run has no browser. Run make app, or open this notebook in JupyterLab or Colab.")
        return
    try:
        start_page(photos, model, inline=True)
    except CrackutilsError as error:  # a notebook goes on without its page
        print(error)
