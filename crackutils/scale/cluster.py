"""A Ray cluster: start or join it, bring the model to its nodes, and deal blocks of files to one actor per core."""

import contextlib
import hashlib
import logging
import os
import pickle
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crackutils import config
from crackutils.config import CrackutilsError
from crackutils.files import progress, write_atomically
from crackutils.inference.engines import Engine

LOCAL = "local"  # in the place of an address: a cluster on the cores of this machine, for this call alone
_STORE = 256 * 2**20  # bytes of shared memory of such a cluster: only names and counts go through it
_RUN = ("metrics.json", "run.json", "model/model.keras", "model/model.weights.h5")


def import_ray() -> Any:
    """Return the package ray with its data part, quiet; CrackutilsError where the extra is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its lines on standard error are for its developers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of a coming change
    try:
        import fsspec  # noqa: F401
        import pyarrow  # noqa: F401
        import ray
        import ray.data
    except ImportError as error:
        remedy = f"Run {sys.executable} -m pip install 'crackutils[ray]'."
        raise CrackutilsError(f"--ray needs the package {error.name}, which is not installed. {remedy}") from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors come with pages of its own code
    return ray


@dataclass(frozen=True)
class Model:
    """A run on its way to the nodes: nothing of it needs to lie on a shared disk."""

    run: Path  # its folder below `config.data_dir()`
    engine: str  # one of `config.ENGINES`
    files: dict[Path, bytes]  # the run and the converted network, by path below `config.data_dir()`

    def unpack(self) -> Path:
        """Write the files that this node lacks, take one core for this process, and return the folder of the run."""
        os.environ["CRACKUTILS_CORES"] = "1"
        config.start(config.DEFAULT_PROFILE)
        for name, content in self.files.items():
            if not (config.data_dir() / name).is_file():
                write_atomically(config.data_dir() / name, content)
        return config.data_dir() / self.run


def pack_model(folder: Path, engine: Engine) -> Model:
    """Return a run with its network, which is converted here where it was not before."""
    engine.worker()  # fails here, not on every node
    files = {name: (folder / name).read_bytes() for name in _RUN if (folder / name).is_file()}
    home = Path("cache", "ray", hashlib.sha256(pickle.dumps(files)).hexdigest()[:12])
    carried = {home / name: content for name, content in files.items()}
    if engine.file is not None:
        carried[engine.file.relative_to(config.data_dir())] = engine.file.read_bytes()
    return Model(home, engine.name, carried)


def load_once(engine: Engine, mine: str, theirs: str) -> Engine:
    """Return an engine for one thread that reads its network once, however many streams run through it.

    Raises CrackutilsError where its key `mine` is not the driver's, `theirs`: results would differ.
    """
    if mine != theirs:
        why = f"A node of the cluster has other versions of the model or its engine ({mine}, not {theirs})"
        raise CrackutilsError(f"{why}. Install the same versions on all nodes.")
    run = engine.worker()
    return replace(engine, worker=lambda: run)


def deal(address: str, actor: type, arguments: dict[str, Any], blocks: list[Any], what: str, unit: str) -> None:
    """Give each block to an actor on some core of a cluster, with a progress bar, until all are done.

    `actor(**arguments)` is made once per core, in a process of its own, and called with a block. A block is given out
    again where a process or a node dies, so doing it twice must be harmless. `address` is that of a cluster, or
    `LOCAL`. Raises CrackutilsError where no cluster answers, and that of an actor.
    """
    if not blocks:
        return
    ray, total = import_ray(), sum(len(block) for block in blocks)
    with _cluster(ray, address) as cores:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        # idle actors end, so that one from a lost node finds a core among those that are left
        size = min(cores, len(blocks))
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=size, initial_size=size, max_tasks_in_flight_per_actor=2)
        packed = [{"block": pickle.dumps(block)} for block in blocks]
        rows = ray.data.from_items(packed, override_num_blocks=len(blocks))
        rows = rows.map(_Guard, fn_constructor_args=(actor, arguments), compute=pool, num_cpus=1)
        for _ in progress(_units(ray, rows), what, total, unit):
            pass


class _Guard:
    """Runs an actor, and hands its errors for the user to the driver as text; Ray would wrap them in its own."""

    def __init__(self, actor: type, arguments: dict[str, Any]) -> None:
        self.error = ""
        try:
            self.work = actor(**arguments)
        except CrackutilsError as error:
            self.error = str(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        block, error = pickle.loads(row["block"]), self.error
        try:
            if not error:
                self.work(block)
        except CrackutilsError as raised:
            error = str(raised)
        return {"done": len(block), "error": error}


def _units(ray: Any, rows: Any) -> Iterator[None]:
    """Yield once for each unit that is done; raise what an actor has raised."""
    try:
        for row in rows.iter_rows():
            if row["error"]:
                raise CrackutilsError(row["error"])
            yield from (None for _ in range(row["done"]))
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines()
        why = next((line for line in reversed(lines) if re.match(r"[\w.]*(Error|Exception)\b", line)), lines[0])[:200]
        remedy = "Look after it, then run the same command again; it continues."
        raise CrackutilsError(f"The work on the cluster failed ({why}). {remedy}") from error


@contextlib.contextmanager
def _cluster(ray: Any, address: str) -> Iterator[int]:
    """Join the cluster at an address, or start one, and give its number of cores; leave it afterwards."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    with contextlib.ExitStack() as stack:
        if address == LOCAL:
            temp = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
            mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
            options |= {"num_cpus": mine, "include_dashboard": False, "object_store_memory": _STORE, "_temp_dir": temp}
        try:
            if named := re.fullmatch(r"\[?(.+?)\]?:(\d+)", address):  # Ray itself would try for ten minutes and more
                socket.create_connection((named[1], int(named[2])), 10).close()
            with config.silent_stderr():  # of its C++ start-up lines
                ray.init(address=address, **options)
        except Exception as error:  # it raises many kinds, a plain Exception among them
            why = " ".join(str(error).split())[:200]
            remedy = "Start one with ray start --head, or give --ray without an address"
            if address == LOCAL:
                remedy = "Run the same command again when the machine is less busy"
            raise CrackutilsError(f"No Ray cluster answers at {address} ({why}). {remedy}.") from error
        stack.callback(ray.shutdown)
        yield int(ray.cluster_resources().get("CPU", 0)) or 1
