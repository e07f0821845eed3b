"""How fast is `score --ray` beside `score`, how much memory does it take, and what does a million photos cost?

    python -m tools.benchmarks.scale IMAGES MODEL [--count 6000] [--turns 3] [--many 200000] [--ray ADDRESS]

IMAGES is a folder of pictures and MODEL a run's folder. Links to the pictures make folders of any size. Both commands
score the same ones in turns, on the same cores. The rate is that after the first results; what lies before is start-up.
With --ray ADDRESS the cluster is there already. Then
the parts of the work are timed by themselves in one thread: reading, decoding, the network. With `--many`, that many
links are scored, and the memory of the driver and of the actors is read every five seconds. Writes scale.json.

    python -m tools.benchmarks.scale --cost 0.05 [--rate 150]

prints what a million photos cost where a core costs 0.05 per hour, with the measured rate, or another one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from crackutils import config, provenance
from crackutils.files import write_atomically
from crackutils.folders import find_pictures
from crackutils.images import decode_image
from crackutils.scale.sources import BLOCK
from crackutils.scoring import load_scorer

OUT = Path(__file__).with_suffix(".json")
KINDS = 500  # different pictures behind the links, at most
TIMED = 400  # pictures of which the parts of the work are timed


def link(files: list[Path], folder: Path, count: int) -> Path:
    """Make a folder with so many links to files, in folders of 2,000, and return it."""
    for k, file in enumerate(islice(cycle(files), count)):
        place = folder / f"{k // 2000:04d}" / f"{k:07d}{file.suffix}"
        if k % 2000 == 0:
            place.parent.mkdir(parents=True)
        place.symlink_to(file.resolve())
    return folder


def score(folder: Path, model: Path, work: Path, ray: list[str], memory: list[dict[str, float]]) -> tuple[float, float]:
    """Score a folder in a process of its own; return the seconds until the first results and until the end.

    What its processes hold is appended to `memory` every five seconds.
    """
    out, first = work / f"out-{time.time_ns()}", []
    command = [sys.executable, "-m", "crackutils", "score", str(folder), "--out", str(out), "--model", str(model), *ray]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=config.ROOT)

    def listen() -> None:
        told = b""
        while some := os.read(process.stdout.fileno(), 1 << 16):
            told += some
            if not first and re.search(rb"[1-9]\d*/\d+ \[", told):  # the bar is no longer at 0
                first.append(time.perf_counter() - began)

    (listening := threading.Thread(target=listen)).start()
    while process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        done = len(list(out.glob("part-*"))) * BLOCK if out.is_dir() else 0
        memory.append({"seconds": round(time.perf_counter() - began), "done": done} | resident(process.pid))
    listening.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed.")
    return first[0], time.perf_counter() - began


def resident(pid: int) -> dict[str, float]:
    """Return the memory of a driver and the largest of its actors, MB; memory that they share counts in both."""
    found = {"driver_mb": 0.0, "actor_mb": 0.0}
    try:
        driver = psutil.Process(pid)
        found["driver_mb"] = round(driver.memory_info().rss / 1e6)
        for child in driver.children(recursive=True):
            if "MapWorker" in " ".join(child.cmdline()):
                found["actor_mb"] = max(found["actor_mb"], round(child.memory_info().rss / 1e6))
    except psutil.NoSuchProcess:  # ended meanwhile
        pass
    return found


def parts_of_work(files: list[Path], model: Path) -> dict[str, float]:
    """Return milliseconds per picture of reading, of decoding with resizing, and of the network, in one thread."""
    engine, recipe, _ = load_scorer(model, config.ENGINES[0])
    run, files, took = engine.worker(), list(islice(cycle(files), TIMED)), {}
    began = time.perf_counter()
    contents = [file.read_bytes() for file in files]
    took["read"] = time.perf_counter() - began
    images = [decode_image(content, recipe.size).pixels for content in contents]
    took["decode"] = time.perf_counter() - began - took["read"]
    for k in range(0, len(images), engine.batch):
        run(np.stack(images[k : k + engine.batch]).astype(np.float32))
    took["network"] = time.perf_counter() - began - sum(took.values())
    return {name: round(1000 * seconds / TIMED, 2) for name, seconds in took.items()}


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """Return everything that scale.json holds."""
    files = find_pictures(asked.images)[0][:KINDS]
    sizes = [file.stat().st_size for file in files]
    ways, turns = {"plain": [], "ray": ["--ray", *asked.ray]}, {}
    found: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "count": asked.count, "block": BLOCK}
    with tempfile.TemporaryDirectory() as temp:
        work = Path(temp)
        folder = link(files, work / "count", asked.count)
        score(
            link(files, work / "few", BLOCK), asked.model, work, [], []
        )  # converts the network, fills the disk's cache
        for _ in range(asked.turns):
            for name, way in ways.items():
                first, end = score(folder, asked.model, work, way, [])
                # when the first block is done, others are nearly
                rate = (asked.count - found["cores"] * BLOCK * (name == "ray")) / (end - first)
                turns.setdefault(name, []).append({"start": round(first, 1), "rate": round(rate, 1)})
                print(name, turns[name][-1], flush=True)
        ratios = [ray["rate"] / plain["rate"] for plain, ray in zip(turns["plain"], turns["ray"], strict=True)]
        found |= {"turns": turns, "ratio": round(statistics.median(ratios), 3)}
        found["rate_per_core"] = round(statistics.median(turn["rate"] for turn in turns["ray"]) / found["cores"], 1)
        found |= {"ms": parts_of_work(files, asked.model), "bytes": round(statistics.mean(sizes))}
        write_atomically(OUT, json.dumps(found, indent=1) + "\n")  # what follows takes long
        if asked.many:
            memory: list[dict[str, float]] = []
            folder = link(files, work / "many", asked.many)
            took = score(folder, asked.model, work, ["--ray"], memory)[1]
            some = [row for row in memory if row["done"] and row["actor_mb"]]
            found["many"] = {"count": asked.many, "seconds": round(took), "memory": some[:: max(1, len(some) // 10)]}
    return found | {"machine": provenance.machine(), "versions": provenance.versions()}


def cost(price: float, rate: float) -> str:
    """Return what a million photos take and cost, in words, at a price per core and hour and a rate per core, 1/s."""
    hours = 1e6 / rate / 3600
    return f"a million photos: {hours:,.2f} core hours at {rate:g} photos per second and core, {hours * price:,.2f}"


def main() -> None:
    """Measure and write scale.json, or print the cost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("images", type=Path, nargs="?")
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--many", type=int, default=0)
    parser.add_argument("--ray", nargs=1, default=[])
    parser.add_argument("--cost", type=float)
    parser.add_argument("--rate", type=float)
    asked = parser.parse_args()
    if asked.cost is not None:
        print(cost(asked.cost, asked.rate or json.loads(OUT.read_text("utf-8"))["rate_per_core"]))
        return
    if asked.model is None:
        parser.error("IMAGES and MODEL are missing")
    found = measure(asked)
    write_atomically(OUT, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
