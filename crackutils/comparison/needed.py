"""Run the notebooks that another one needs, if it is opened alone."""

import re
from typing import Any

from crackutils import config
from crackutils.config import CrackutilsError, Profile

NEEDED = ("03_transfer_learning", "04_simple_cnn")


def run_needed(profile: Profile, parameters: dict[str, Any]) -> None:
    """Run notebooks 03 and 04, each in a kernel of its own, unless they have runs on this profile.

    `parameters` are those of the calling notebook; each is passed to the notebooks that have a parameter of this name.
    Raises CrackutilsError if one of them fails.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    for name in NEEDED:
        if any((config.results_dir() / profile.name / name).glob("*/metrics.json")):
            continue
        print(f"Notebook {name[:2]} has not run on {profile.name} yet. It runs now, once.", flush=True)
        nb = nbformat.read(config.NOTEBOOKS / f"{name}.ipynb", as_version=4)
        cell = next(cell for cell in nb.cells if "parameters" in cell.metadata.get("tags", []))
        given = parameters | {"PROFILE": profile.name}
        own = [name for name in given if re.search(rf"^{name} = ", cell.source, re.M)]
        cell.source = "\n".join([cell.source, *(f"{name} = {given[name]!r}" for name in own)])
        place = {"metadata": {"path": str(config.NOTEBOOKS)}}
        client = NotebookClient(nb, timeout=None, kernel_name="python3", resources=place)
        try:
            client.execute()
        except CellExecutionError as error:
            raise CrackutilsError(f"{name} stopped: {error.ename}: {error.evalue}. Run it by itself.") from error
