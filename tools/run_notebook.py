"""Execute one notebook with papermill, in a kernel that depends only on this Python."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat

from crackutils import config


def execute_notebook(
    notebook: Path, out: Path, parameters: dict[str, Any], force: bool, show: Callable[[int, int], None] | None
) -> tuple[nbformat.NotebookNode, list[str]]:
    """Run a notebook into the file `out`.

    Args:
        notebook: the notebook to run.
        out: output file, written after every cell.
        parameters: values for its cell tagged "parameters".
        force: whether its runs start from the beginning (CRACKUTILS_FORCE).
        show: called with the number of each cell and the number of all cells; None for no calls.

    Returns:
        The executed notebook, and the folders of its finished runs, relative to the results.
    """
    import papermill
    from papermill.engines import NBClientEngine, papermill_engines

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> Any:
            begin = nb_man.cell_start

            def cell_start(cell: Any, cell_index: int = 0, **more: Any) -> None:
                if show:
                    show(cell_index + 1, len(nb_man.nb.cells))
                begin(cell, cell_index, **more)

            nb_man.cell_start = cell_start
            # a kernel that is asked to stop takes seconds to free what it holds; its files are complete by now
            return super().execute_managed_notebook(nb_man, kernel_name, shutdown_kernel="immediate", **kwargs)

    papermill_engines.register("crackutils", Engine)
    logging.getLogger("papermill").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # on Ctrl-C it would print a traceback of the dying kernel

    def literal(path: Path) -> str:  # papermill formats paths with the parameters
        return str(path).replace("{", "{{").replace("}", "}}")

    with tempfile.TemporaryDirectory(prefix="crackutils-") as scratch:
        note = Path(scratch) / "runs.txt"
        with _environment(_kernel_environment(Path(scratch), note, force)):
            nb = papermill.execute_notebook(
                literal(notebook),
                literal(out),
                parameters=parameters,
                engine_name="crackutils",
                kernel_name="python3",
                language="python",
                cwd=str(config.NOTEBOOKS),
                progress_bar=False,
                log_output=False,
                execution_timeout=None,
            )
        lines = note.read_text("utf-8").splitlines() if note.exists() else []
    return nb, sorted({Path(os.path.relpath(line, config.results_dir())).as_posix() for line in lines if line})


def _kernel_environment(scratch: Path, note: Path, force: bool) -> dict[str, str | None]:
    """Environment of the kernel, which is this Python, whatever kernels and settings the user has."""
    from ipykernel.kernelspec import get_kernel_dict

    spec = scratch / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    quiet = ["--IPKernelApp.log_level=50"]  # it would warn that its local connections are not encrypted
    spec.write_text(json.dumps(get_kernel_dict(extra_arguments=quiet)), "utf-8")

    def before(value: Path, name: str) -> str:
        return os.pathsep.join([str(value), *filter(None, [os.environ.get(name)])])

    return {
        "JUPYTER_PATH": before(scratch, "JUPYTER_PATH"),  # searched first for kernels
        "JUPYTER_PREFER_ENV_PATH": "1",
        "IPYTHONDIR": str(scratch / "ipython"),  # without start-up files of the user
        "PYTHONPATH": before(config.ROOT, "PYTHONPATH"),
        "MPLBACKEND": None,  # a backend set for scripts would leave the copies without figures
        "CRACKUTILS_RUN_NOTE": str(note),
        "CRACKUTILS_FORCE": "1" if force else None,
    }


@contextlib.contextmanager
def _environment(values: dict[str, str | None]) -> Iterator[None]:
    """Set environment variables for the block; None removes one."""
    saved = {name: os.environ.get(name) for name in values}

    def put(those: dict[str, str | None]) -> None:
        for name, value in those.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    put(values)
    try:
        yield
    finally:
        put(saved)


def describe_failure(error: Exception, notebook: Path, kept: str) -> config.CrackutilsError:
    """Return the error of a notebook that failed, in one line.

    Args:
        error: what `execute_notebook` raised.
        notebook: the notebook.
        kept: a sentence on the place of its outputs.
    """
    from papermill.exceptions import PapermillExecutionError

    if not isinstance(error, PapermillExecutionError):
        what = str(error).strip().split("\n")[0].rstrip(".")
        if type(error).__name__ == "DeadKernelError":
            what = "its kernel died, usually for lack of memory"
        return config.CrackutilsError(f"{notebook.stem} stopped: {what or type(error).__name__}. {kept}")
    if list(error.traceback) == [f"{error.ename}: {error.evalue}"]:  # rendered by CrackutilsError, which needs no more
        return config.CrackutilsError(f"{notebook.stem}, cell [{error.exec_count}]: {error.evalue}")
    first = next((line.strip() for line in error.source.split("\n") if line.strip()), "")
    what = f"{error.ename}: {error.evalue.strip().split(chr(10))[0][:300]}".rstrip(".")
    return config.CrackutilsError(f"{notebook.stem} failed in cell [{error.exec_count}] `{first}` with {what}. {kept}")
