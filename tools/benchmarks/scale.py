"""How fast is `score --ray` beside `score`, how much memory does it take, and what does a million photos cost?

    python -m tools.benchmarks.scale IMAGES MODEL [--count 8000] [--turns 3] [--many 200000]

IMAGES is a folder of pictures and MODEL a run's folder. Links to the pictures make folders of any size. Both commands
score the same ones in turns, on the same cores. The rate is that after the first results; what lies before is start-up.
Processor seconds count too, since other programs do not change them. Then the parts of the work are timed by themselves
in one thread: reading, decoding, the network. At last `--many` links are scored on the cluster alone, and the memory of
the driver and of the actors is read every second. Writes scale.json.

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


def score(folder: Path, model: Path, work: Path, ray: list[str]) -> list[dict[str, float]]:
    """Score a folder in a process of its own; return what `watch` gives at the first results, then every second.

    Each has seconds (since the start) and done (files in finished parts) too; the last has the seconds of all.
    """
    out, found = work / f"out-{time.time_ns()}", []
    command = [sys.executable, "-m", "crackutils", "score", str(folder), "--out", str(out), "--model", str(model), *ray]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=config.ROOT)

    def look() -> None:
        done = len(list(out.glob("part-*"))) * BLOCK if out.is_dir() else 0
        found.append(watch(process.pid) | {"seconds": round(time.perf_counter() - began, 1), "done": done})

    def listen() -> None:
        told = b""
        while some := os.read(process.stdout.fileno(), 1 << 16):
            told = told[-80:] + some
            if not found and re.search(rb"[1-9][\d,]*/\d+ \[", told):  # the bar is no longer at 0
                look()

    (listening := threading.Thread(target=listen)).start()
    while process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        if found and process.poll() is None:
            look()
    listening.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed.")
    return [*found, {"seconds": round(time.perf_counter() - began, 1)}]


def watch(pid: int) -> dict[str, float]:
    """Return the memory of a driver and the largest of its actors, MB, and the processor seconds of all its processes.

    Memory that processes share counts in each.
    """
    found = {"driver_mb": 0.0, "actor_mb": 0.0, "cpu": 0.0}
    with contextlib.suppress(psutil.NoSuchProcess):
        driver = psutil.Process(pid)
        found["driver_mb"] = round(driver.memory_info().rss / 1e6)
        for process in [driver, *driver.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):  # ended meanwhile
                found["cpu"] += sum(process.cpu_times()[:2])
                if "MapWorker" in " ".join(process.cmdline()):
                    found["actor_mb"] = max(found["actor_mb"], round(process.memory_info().rss / 1e6))
    return found | {"cpu": round(found["cpu"], 2)}


def rates(found: list[dict[str, float]], count: int) -> dict[str, float]:
    """Return seconds until the first results, and since then files per second and core milliseconds per file.

    `count` is the number of files that were not done when the first results came.
    """
    busy = [row for row in found[:-1] if row["cpu"] >= found[0]["cpu"]]  # the actors have not ended
    begin, last, end = found[0], max(busy, key=lambda row: row["cpu"]), found[-1]["seconds"]
    whole = (end - begin["seconds"]) / max(last["seconds"] - begin["seconds"], 0.1)  # nobody could watch the end
    ms = 1000 * (last["cpu"] - begin["cpu"]) * whole / count
    return {
        "start": begin["seconds"],
        "rate": round(count / (end - begin["seconds"]), 1),
        "cpu_ms": round(ms, 2),
    }


def parts_of_work(files: list[Path], model: Path) -> dict[str, float]:
    """Return milliseconds per picture of reading, of decoding with resizing, and of the network, in one thread."""
    engine, recipe, _ = load_scorer(model, config.ENGINES[0])
    run, files, took = engine.worker(), list(islice(cycle(files), TIMED)), {}
    began = time.process_time()  # other programs do not count
    contents = [file.read_bytes() for file in files]
    took["read"] = time.process_time() - began
    images = [decode_image(content, recipe.size).pixels for content in contents]
    took["decode"] = time.process_time() - began - took["read"]
    for k in range(0, len(images), engine.batch):
        run(np.stack(images[k : k + engine.batch]).astype(np.float32))
    took["network"] = time.process_time() - began - sum(took.values())
    return {name: round(1000 * seconds / TIMED, 2) for name, seconds in took.items()}


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """Return everything that scale.json holds."""
    files = find_pictures(asked.images)[0][:KINDS]
    sizes = [file.stat().st_size for file in files]
    ways, turns = {"plain": [], "ray": ["--ray"]}, {}
    found: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "count": asked.count, "block": BLOCK}
    with tempfile.TemporaryDirectory() as temp:
        work = Path(temp)
        folder = link(files, work / "count", asked.count)
        score(link(files, work / "few", BLOCK), asked.model, work, [])  # converts the network, reads files
        for _ in range(asked.turns):
            for name, way in ways.items():
                # when the first block is done, others are nearly
                rest = asked.count - found["cores"] * BLOCK * (name == "ray")
                turns.setdefault(name, []).append(rates(score(folder, asked.model, work, way), rest))
                print(name, turns[name][-1], flush=True)
        ratios = [ray["rate"] / plain["rate"] for plain, ray in zip(turns["plain"], turns["ray"], strict=True)]
        found["ratio"] = round(statistics.median(ratios), 2)
        found |= {"turns": turns, "ms": parts_of_work(files, asked.model), "bytes": round(statistics.mean(sizes))}
        found |= {"machine": provenance.machine(), "versions": provenance.versions()}
        *seen, end = score(link(files, work / "many", asked.many), asked.model, work, ["--ray"])
        some = [row for row in seen if row["done"] and row["actor_mb"]]
        ms = 1000 * (some[-1]["cpu"] - some[0]["cpu"]) / (some[-1]["done"] - some[0]["done"])
        found["many"] = {"count": asked.many, "seconds": end["seconds"], "cpu_ms": round(ms, 2)}
        found["many"]["seen"] = some[:: max(1, len(some) // 10)]
    return found


def cost(price: float, rate: float) -> str:
    """Return what a million photos take and cost, in words, at a price per core and hour and a rate per core, 1/s."""
    hours = 1e6 / rate / 3600
    return f"a million photos: {hours:,.2f} core hours at {rate:g} photos per second and core, {hours * price:,.2f}"


def main() -> None:
    """Measure and write scale.json, or print the cost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("images", type=Path, nargs="?")
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--count", type=int, default=8000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--many", type=int, default=200_000)
    parser.add_argument("--cost", type=float)
    parser.add_argument("--rate", type=float)
    asked = parser.parse_args()
    if asked.cost is not None:
        print(cost(asked.cost, asked.rate or round(1000 / json.loads(OUT.read_text("utf-8"))["many"]["cpu_ms"])))
        return
    if asked.model is None:
        parser.error("IMAGES and MODEL are missing")
    found = measure(asked)
    write_atomically(OUT, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
