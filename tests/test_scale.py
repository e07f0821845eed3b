"""Scale-out: blocks of files on a Ray cluster, rows as `score` writes them, and nothing lost where something dies."""

import contextlib
import csv
import json
import os
import pickle
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import requests
from PIL import Image
from test_inspection import save
from test_scoring import finished

from crackutils import config, scoring
from crackutils.cli import main
from crackutils.inspection import folder, photo
from crackutils.inspection.photo import inspect_photo
from crackutils.scale import inspecting, sources
from crackutils.scale import scoring as scale
from crackutils.synthetic.photo import make_photo
from crackutils.synthetic.scene import USUAL

Capture, Patch = pytest.CaptureFixture[str], pytest.MonkeyPatch
FOLDER, MODEL, PLAIN, OUT = Path("photos"), Path("finished"), Path("plain.csv"), Path("parts")
FIRST = 40  # files directly in FOLDER; as many lie in each of two folders below it
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "BLOCK", 16)
    finished(MODEL)
    rng = np.random.default_rng(0)
    for k in range(3 * FIRST):
        place = FOLDER / ("", "b", "B a")[k // FIRST]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8) // (k % 5 + 1)).save(place / f"{k:03d}.png")
    (FOLDER / "b" / "041.png").write_bytes(b"broken")
    (FOLDER / "raw.nef").write_bytes(b"raw")
    (FOLDER / "notes.txt").write_text("no image")
    (FOLDER / ".hidden.png").write_bytes(b"")


@pytest.fixture
def inline(monkeypatch: Patch) -> list[int]:
    """Do the blocks here, without a cluster, and return their numbers."""
    pytest.importorskip("pyarrow", reason="the extra ray is not installed")
    done: list[int] = []

    def deal(address: str, actor: type, arguments: dict[str, Any], blocks: list[Any], what: str, unit: str) -> None:
        worker = actor(**arguments)
        for block in reversed(blocks):
            worker(pickle.loads(pickle.dumps(block)))
            done.append(getattr(block, "number", -1))

    for module in (scale, inspecting):
        monkeypatch.setattr(module, "deal", deal)
        monkeypatch.setattr(module, "import_ray", lambda: None)
    monkeypatch.setenv("CRACKUTILS_CORES", "1")  # the actor sets it; here it is put back
    return done


def rows_of(out: str | Path = OUT) -> list[tuple[str, str, str]]:
    dataset = pytest.importorskip("pyarrow.dataset", reason="the extra ray is not installed")
    files, path = sources.open_place(str(out))
    rows = dataset.dataset(path, filesystem=files).to_table().to_pylist()
    p = ["" if row["p_crack"] is None else str(np.float32(row["p_crack"])) for row in rows]
    return [(row["file"], chance, row["problem"]) for row, chance in zip(rows, p, strict=True)]


def plain_rows() -> list[tuple[str, str, str]]:
    scoring.score(FOLDER, PLAIN, MODEL)
    return [tuple(row.values()) for row in csv.DictReader(PLAIN.open(newline="", encoding="utf-8-sig"))]


def refused(*arguments: Any, **options: Any) -> str:
    with pytest.raises(config.CrackutilsError) as told:
        scale.score(*arguments, **options)
    return str(told.value)


def test_blocks_hold_each_file_once_in_order_and_their_keys_change_with_what_is_in_them() -> None:
    photos = sources.find_photos(str(FOLDER), str(OUT))
    blocks = sources.cut_blocks(photos, "model")
    assert [name for block in blocks for name, _ in block.places] == photos.names and len(photos.names) == 121
    assert [len(block) for block in blocks] == [16] * 7 + [9] and blocks == sources.cut_blocks(photos, "model")
    assert all(Path(place).is_file() for block in blocks for _, place in block.places)
    keys = [block.key for block in blocks]
    assert len({*keys, *(block.key for block in sources.cut_blocks(photos, "other"))}) == 16
    os.utime(FOLDER / photos.names[20], (1, 1))
    changed = [block.key for block in sources.cut_blocks(sources.find_photos(str(FOLDER), str(OUT)), "model")]
    assert [old != new for old, new in zip(keys, changed, strict=True)] == [k == 1 for k in range(8)]


def test_a_list_names_files_beside_it_and_elsewhere_and_may_name_one_twice() -> None:
    pytest.importorskip("fsspec", reason="the extra ray is not installed")
    absolute = str((FOLDER / "001.png").resolve())
    Path("list.txt").write_text(f"photos/000.png\n\n{absolute}\nphotos/000.png\r\nhttps://host/x.png\n", "utf-8-sig")
    photos = sources.find_photos("list.txt", str(OUT))
    assert photos.names == ["photos/000.png", absolute, "photos/000.png", "https://host/x.png"]
    places = [place for _, place in sources.cut_blocks(photos, "")[0].places]
    assert places == [str(Path("photos/000.png").resolve()), absolute, places[0], "https://host/x.png"]
    assert photos.states[0] == scoring.file_state(FOLDER / "000.png") and photos.states[3] == ""
    for source, says in (
        ("none.txt", "none.txt cannot be read"),
        ("none", "none is not a folder"),
        ("odd://x/y", "odd"),
    ):
        with pytest.raises(config.CrackutilsError, match=says):
            sources.find_photos(source, str(OUT))


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["score", str(FOLDER), "--out", str(OUT), "--model", str(MODEL), "--ray"]) == 2
    told = capsys.readouterr().err
    assert "which is not installed. Run" in told and "crackutils[ray]" in told and told.count("\n") == 1


def test_rows_are_those_of_the_plain_command_and_a_second_call_does_only_what_is_missing(
    inline: list[int], capsys: Capture
) -> None:
    expected = plain_rows()
    said = capsys.readouterr().out.splitlines()
    scale.score(FOLDER, OUT, MODEL)
    told = capsys.readouterr().out.splitlines()
    assert rows_of() == expected and [row[0] for row in expected if not row[1]] == ["raw.nef", "b/041.png"]
    assert told[0] == said[0] and told[-1].split(" -> ")[0] == said[-1].split(" -> ")[0]
    assert sorted(inline) == list(range(8))
    parts = sorted(OUT.iterdir())
    before = [part.read_bytes() for part in parts]
    parts[3].unlink()
    (OUT / ".part-000003-x.parquet.1234.part").write_text("cut short")  # of a killed actor
    inline.clear()
    scale.score(FOLDER, OUT, MODEL)
    assert inline == [3] and sorted(OUT.iterdir()) == parts and [part.read_bytes() for part in parts] == before
    assert "105 of 121 files were scored before" in capsys.readouterr().out


def test_results_of_other_files_and_what_is_the_users_stay_unless_force(inline: list[int]) -> None:
    scale.score(FOLDER, OUT, MODEL)
    (FOLDER / "b" / "041.png").unlink()
    assert "parts holds results of other files or of another model (8 parts)" in refused(FOLDER / "b", OUT, MODEL)
    assert "(6 parts)" not in refused(FOLDER, OUT, MODEL) and len(rows_of()) == 121
    inline.clear()
    scale.score(FOLDER, OUT, MODEL, force=True)
    assert len(rows_of()) == 120 and 0 < len(inline) < 8  # blocks before the change are the same
    (OUT / "mine.csv").write_text("notes")
    assert "not written by this command (mine.csv)" in refused(FOLDER, OUT, MODEL)
    assert "is a file. Give a folder" in refused(FOLDER, MODEL / "run.json", MODEL)
    scale.score(FOLDER, OUT, MODEL, force=True)
    assert (OUT / "mine.csv").read_text() == "notes"


def test_a_folder_that_goes_away_stops_the_work(inline: list[int], monkeypatch: Patch) -> None:
    write = scale._write_part

    def write_once(*arguments: Any) -> None:
        write(*arguments)
        if (FOLDER / "b").exists():
            (FOLDER / "b").rename("away")

    monkeypatch.setattr(scale, "_write_part", write_once)
    assert "b is gone; perhaps its drive or network share was removed" in refused(FOLDER, OUT, MODEL)
    Path("away").rename(FOLDER / "b")
    monkeypatch.undo()


def test_a_folder_that_is_away_for_a_moment_stops_the_work(inline: list[int], monkeypatch: Patch) -> None:
    score, name = scale.score_rows, "b/045.png"

    def interrupted(running: Any, size: int, files: Any) -> Any:
        for row in score(running, size, files):
            (FOLDER / "b").rename("away") if row[0] == name else None
            yield (name, "", "does not exist") if row[0] == name else row
            Path("away").rename(FOLDER / "b") if row[0] == name else None

    monkeypatch.setattr(scale, "score_rows", interrupted)
    assert "b is gone; perhaps its drive or network share was removed" in refused(FOLDER, OUT, MODEL)
    Path("away").rename(FOLDER / "b")


def test_photos_are_inspected_as_by_the_plain_command(inline: list[int], bucket: Any) -> None:
    walls = Path("walls")
    for k in range(5):
        save(make_photo(909, k, 640, 480, USUAL).image, walls / f"{k}.jpg")
    (walls / "broken.jpg").write_bytes(b"broken")
    expected = folder.inspect([walls], "plain")
    with Patch.context() as patch:
        seen: list[str] = []
        patch.setattr(photo, "inspect_photo", lambda file, *rest: seen.append(file.name) or inspect_photo(file, *rest))
        pd.testing.assert_frame_equal(inspecting.inspect([str(walls)], OUT), expected)
        # the driver tries those again that cannot be used
        assert sorted(seen) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "broken.jpg", "broken.jpg"]
    assert len(inline) == 2
    for name in ("photos.csv", "cracks.csv", "tiles.csv", "cracks.geojson", "coco.json"):
        assert (OUT / name).read_bytes() == (Path("plain") / name).read_bytes()
    tables = [pd.read_parquet(OUT / "cracks.parquet"), pd.read_csv(OUT / "cracks.csv", encoding="utf-8-sig")]
    pd.testing.assert_frame_equal(*tables, check_dtype=False)
    assert len(tables[0]) > 0
    bucket.put(str(walls), "bucket/walls", recursive=True)
    copied = inspecting.inspect(["s3://bucket/walls"], "remote")
    assert copied["file"].tolist() == expected["file"].tolist() and copied["cracks"].equals(expected["cracks"])
    bucket.pipe("bucket/list.txt", b"walls/1.jpg\nwalls/none.jpg\n")
    Path("outside.txt").write_text("s3://bucket/../../x.jpg")
    with pytest.raises(config.CrackutilsError, match="leads outside its folder"):
        inspecting.inspect(["outside.txt"], "listed")
    with pytest.raises(config.CrackutilsError, match=r"walls/none.jpg does not exist. Take it out of the list"):
        inspecting.inspect(["s3://bucket/list.txt"], "listed")


def test_the_page_has_the_measured_numbers() -> None:
    found = json.loads((config.ROOT / "tools" / "benchmarks" / "scale.json").read_text("utf-8"))
    text = " ".join((config.ROOT / "docs" / "scale.md").read_text("utf-8").split())
    many, turns = found["many"], found["turns"]
    rates = [", ".join(f"{turn['rate']:.0f}" for turn in turns[name]) for name in ("plain", "ray")]
    assert f"{found['count']:,} photos each | {rates[0]} | {rates[1]} |" in text
    times = [turn["cpu_ms"] for turn in turns["plain"]]
    assert f"all processes | {', '.join(map(str, times))} ms | {many['cpu_ms']} ms |" in text
    assert f"{found['ratio']} times as fast" in text
    assert f"`--ray` has {statistics.median(times) / many['cpu_ms']:.2f} of the speed" in text
    parts = found["ms"]
    assert f"reading {parts['read']}, decoding {parts['decode']}, the network {parts['network']}." in text
    first, last = many["seen"][0], many["seen"][-1]
    memory = f"the command {first['driver_mb']} to {last['driver_mb']} MB, an actor {first['actor_mb']} to"
    assert f"{many['count']:,} photos took {many['seconds']:.0f} seconds" in text
    assert f"{memory} {last['actor_mb']} MB" in text
    assert f"{1000 / many['cpu_ms']:.0f} photos per second and core" in text


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.fixture
def bucket(monkeypatch: Patch) -> Iterator[Any]:
    """A bucket of a local S3 server, through fsspec, with the photos in it."""
    for name in ("moto.server", "s3fs"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port := free_port())
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    files.mkdir("bucket")
    files.put(str(FOLDER), "bucket/photos", recursive=True)
    yield files
    requests.post(f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset", timeout=60)  # it is of the whole process
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_pictures_and_parts_may_lie_on_s3(inline: list[int], bucket: Any, capsys: Capture) -> None:
    expected = plain_rows()
    scale.score("s3://bucket/photos", "s3://bucket/out", MODEL)
    assert rows_of("s3://bucket/out") == expected
    assert "left out: hidden: 1 (.hidden.png); not a picture by name: 1 (notes.txt)" in capsys.readouterr().out
    inline.clear()
    bucket.pipe("bucket/photos/b/042.png", (FOLDER / "001.png").read_bytes())  # a changed picture
    assert "results of other files" in refused("s3://bucket/photos", "s3://bucket/out", MODEL)
    scale.score("s3://bucket/photos", "s3://bucket/out", MODEL, force=True)
    assert len(inline) == 1
    names = [row[0] for row in expected if row[0] != "b/042.png"] + ["lost.png", "lost.nef"]
    pd.DataFrame({"n": 1, "URL": [f"photos/{name}" for name in names]}).to_parquet("s3://bucket/list.parquet")
    scale.score("s3://bucket/list.parquet", OUT, MODEL)
    rows = rows_of()
    assert [row[0] for row in rows] == [f"photos/{name}" for name in names] and rows[-2][1:] == ("", "does not exist")
    assert [row[1:] for row in rows[:-2]] == [row[1:] for row in expected if row[0] != "b/042.png"]
    with pytest.raises(config.CrackutilsError, match="Look after the network"):
        sources.read_place(f"http://127.0.0.1:{free_port()}/x.png")


def ray_command(*arguments: str) -> None:
    command = [sys.executable, "-m", "ray.scripts.scripts", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def nodes(monkeypatch: Patch) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a cluster of two nodes with a core each, as processes of this machine, and the second's raylet."""
    pytest.importorskip("ray.data", reason="the extra ray is not installed")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(config.ROOT), *filter(None, sys.path)]))
    temp = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # its sockets need a short path
    address, usual = f"127.0.0.1:{(port := free_port())}", ["--node-ip-address=127.0.0.1", "--num-cpus=1"]
    usual += [f"--object-store-memory={10**8}"]

    def ours() -> list[psutil.Process]:
        return [p for p in psutil.process_iter() if p.is_running() and str(temp) in " ".join(command_of(p))]

    try:
        ray_command("start", "--head", f"--port={port}", f"--temp-dir={temp}", "--include-dashboard=false", *usual)
        first = {process.pid for process in ours()}
        ray_command("start", f"--address={address}", *usual)
        yield address, next(p for p in ours() if p.pid not in first and Path(command_of(p)[0]).name == "raylet")
    finally:
        for process in ours():
            kill_all(process)
        shutil.rmtree(temp, ignore_errors=True)


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() or [""]
    except psutil.Error:
        return [""]


def kill_all(process: psutil.Process) -> None:
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def wait_for(parts: int, driver: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while len(list(OUT.glob("part-*"))) < parts:
        assert driver.poll() is None and time.monotonic() < deadline, "the driver has ended, or nothing goes on"
        time.sleep(0.1)


@slow
def test_nothing_is_lost_and_nothing_twice_where_a_worker_a_node_and_the_driver_are_killed(
    nodes: tuple[str, psutil.Process],
) -> None:
    address, raylet = nodes
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8)
    Image.fromarray(noise).save("large.jpg")
    for k in range(12 * 256 - 130):  # of the usual blocks, whose work takes seconds
        (FOLDER / f"x{k:04d}.jpg").symlink_to(Path("large.jpg").resolve())
    expected = plain_rows()
    command = ["-m", "crackutils", "score", str(FOLDER), "--out", str(OUT), "--model", str(MODEL), "--ray", address]
    driver = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    try:
        wait_for(2, driver)
        worker = next(p for p in psutil.process_iter() if command_of(p)[0].startswith("ray::MapWorker"))
        worker.kill()
        wait_for(5, driver)
        kill_all(raylet)
        wait_for(8, driver)
    finally:
        driver.kill()
        driver.wait()
    kept = {part: part.read_bytes() for part in OUT.glob("part-*")}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert f"{len(kept) * 256:,} of {len(expected):,} files were scored before" in done.stdout
    assert rows_of() == expected and all(part.read_bytes() == content for part, content in kept.items())


@slow
def test_without_an_address_a_cluster_of_this_machine_scores_and_goes(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray.data", reason="the extra ray is not installed")
    expected = plain_rows()
    command = ["-m", "crackutils", "score", str(FOLDER), "--out", str(OUT), "--model", str(MODEL), "--ray"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(config.ROOT), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300, env=env)
    assert (done.returncode, done.stderr) == (0, "") and rows_of() == expected
    save(make_photo(909, 0, 640, 480, USUAL).image, Path("walls/a.jpg"))
    command[2:] = ["inspect", "walls", "--out", "out", "--ray"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300, env=env)
    assert (done.returncode, done.stderr) == (0, "") and "of 1 photos examined show possible cracks" in done.stdout
    assert "inspecting on the cluster: 100%" in done.stdout and Path("out/report.html").is_file()
    pytest.importorskip("aiohttp", reason="aiohttp, which reads web addresses, is not installed")
    port = free_port()
    Path("list.txt").write_text(address := f"http://127.0.0.1:{port}/x.png")
    command[2:] = ["score", "list.txt", "--out", "listed", "--model", str(MODEL), "--ray"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {address} cannot be read")
    assert "Look after the network" in done.stderr and done.stderr.count("\n") == 1
    with pytest.raises(config.CrackutilsError, match=f"No Ray cluster answers at 127.0.0.1:{port}"):
        scale.score(FOLDER, Path("other"), MODEL, ray=f"127.0.0.1:{port}")
