"""Create .venv with the exact versions of the lock. Needs only the standard library."""

import sys

# old Pythons must be able to read the lines up to here
if not (3, 11) <= sys.version_info < (3, 14):
    print(
        "error: crackutils needs Python 3.11, 3.12 or 3.13, this is %s." % sys.version.split()[0]  # noqa: UP031
        + " Name another with make ... PYTHON=python3.12.",
        file=sys.stderr,
    )
    sys.exit(2)

import hashlib
import os
import subprocess

from crackutils import config

VENV = config.ROOT / ".venv"
VENV_PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "crackutils-stamp"  # the Makefile looks for it


def call(command: list[str], **variables: str) -> int:
    """Run a program in the project's folder and return its exit status; it does not inherit make's variables."""
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    return subprocess.call(command, cwd=config.ROOT, env=env | variables)


def _state() -> str:
    """Return a text that changes if the environment must be created again; an editable install contains our path."""
    lock = hashlib.sha256(config.LOCK.read_bytes()).hexdigest()
    return f"lock {lock}\npython {sys.version_info[0]}.{sys.version_info[1]}\nproject {config.ROOT}\n"


def set_up() -> None:
    """Create .venv, unless it is up to date.

    Raises:
        CrackutilsError: .venv is a link, or a step failed; its own output is above.
    """
    if STAMP.is_file() and VENV_PYTHON.exists() and STAMP.read_text("utf-8") == _state():
        return
    where = config.display_path(VENV)
    if VENV.is_symlink():
        raise config.CrackutilsError(
            f"{where} is a link, and set-up would empty the folder behind it. Remove the link."
        )
    print(f"Setting up {where} with the exact versions of {config.LOCK.name}: a few minutes.", flush=True)
    STAMP.unlink(missing_ok=True)  # from here on, a killed set-up is repeated
    # the base interpreter, because this one may be in the environment to replace
    base = getattr(sys, "_base_executable", None) or sys.executable
    pip = [str(VENV_PYTHON), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    again = "See the lines above, then run the same command again."
    steps = (
        ("make .venv", "On Debian and Ubuntu install python3-venv.", [base, "-m", "venv", "--clear", str(VENV)]),
        (f"install {config.LOCK.name}", again, [*pip, "--require-hashes", "-r", str(config.LOCK)]),
        ("install the project", again, [*pip, "--no-deps", "--no-build-isolation", "-e", str(config.ROOT)]),
    )
    for what, remedy, command in steps:
        if call(command):
            raise config.CrackutilsError(f"Set-up could not {what}. {remedy}")
    STAMP.write_text(_state(), "utf-8")


def main() -> int:
    """Run `python -m tools setup` and return its exit status."""
    try:
        if sys.argv[2:]:
            raise config.CrackutilsError(f"setup takes no arguments, but {sys.argv[2]} is given. Leave it out.")
        set_up()
    except config.CrackutilsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues where it stopped.", file=sys.stderr)
        return 130
    return 0
