"""The page of the site that runs the detector in the visitor's browser: its scripts, the network and the runtime."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
from pathlib import Path

import requests

from crackutils import config
from crackutils.deployment.export import export_model
from crackutils.detector.runs import SHIPPED, read_detector_run
from crackutils.files import sha256, write_atomically


class Unreachable(config.CrackutilsError):
    """npm's registry does not answer."""


SCRIPTS = Path(__file__).with_name("templates") / "browser"
_VERSION = "2.5.3"  # of LiteRT.js, by the makers of LiteRT: it runs the .tflite files that `crackutils export` writes
_WASM = [f"wasm/litert_wasm_{kind}internal.{end}" for kind in ("", "compat_") for end in ("js", "wasm")]
_PACKAGES = {  # their SHA-512 as npm states it, and which of their files go where
    "core": (
        "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
        {"dist/index.js": "core.js"} | {name: name for name in _WASM},
    ),
    "wasm-utils": (
        "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
        {"dist/index.js": "wasm-utils.js"},
    ),
}


def write_browser_files(folder: Path) -> None:
    """Write what the page loads into a folder of the site: scripts, detector.tflite and LiteRT.js.

    Network and runtime are made or fetched once, and kept in `data/cache/browser`.

    Raises:
        Unreachable: LiteRT.js could not be fetched from npm.
        CrackutilsError: it is not the file that is expected, or the network differs from Keras.
    """
    kept = config.data_dir() / "cache" / "browser"
    network = kept / sha256(read_detector_run(SHIPPED)[2])[:12] / "detector.tflite"
    if not network.is_file():
        network.parent.mkdir(parents=True, exist_ok=True)
        export_model("detector", "litert", network, force=True)
    files = {"detector.tflite": network.read_bytes()}
    files |= {script.name: script.read_bytes() for script in SCRIPTS.glob("*.js")}
    files |= fetch_runtime()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, content)


def fetch_runtime() -> dict[str, bytes]:
    """Return the files of LiteRT.js by their names in the site; CrackutilsError as `write_browser_files` raises it."""
    files = {}
    for package, (digest, names) in _PACKAGES.items():
        with tarfile.open(fileobj=io.BytesIO(_fetch(package, base64.b64decode(digest))), mode="r:gz") as archive:
            for name, target in names.items():
                part = archive.extractfile(f"package/{name}")
                assert part is not None, name
                files[f"litert/{target}"] = part.read()
    return files


def _fetch(package: str, sha512: bytes) -> bytes:
    """Return the archive of a package of LiteRT.js from npm's registry, or what was kept of it."""
    kept = config.data_dir() / "cache" / "browser"
    file = kept / f"{package}-{_VERSION}.tgz"
    registry = os.environ.get("NPM_CONFIG_REGISTRY", "https://registry.npmjs.org").rstrip("/")
    if not file.is_file():
        try:
            answer = requests.get(f"{registry}/@litertjs/{package}/-/{package}-{_VERSION}.tgz", timeout=60)
            answer.raise_for_status()
        except requests.RequestException as error:
            why = f"LiteRT.js {_VERSION} could not be fetched from npm ({type(error).__name__})"
            raise Unreachable(f"{why}. Try again with a network.") from error
        kept.mkdir(parents=True, exist_ok=True)
        write_atomically(file, answer.content)
    content = file.read_bytes()
    if hashlib.sha512(content).digest() != sha512:
        file.unlink()
        raise config.CrackutilsError(
            f"{package} {_VERSION} of LiteRT.js has a wrong SHA-512, so it was removed. Try again."
        )
    return content
