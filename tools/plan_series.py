"""Plan the series: notebooks to run, their order and parameters."""

from __future__ import annotations

import ast
import hashlib
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crackutils import config, models
from crackutils.recipes import RECIPES, choose_recipe
from tools.notebooks import find_notebooks, read_notebook, read_parameters

_SHARED = ("PROFILE", "SPLIT", "SPLIT_SEED", "SEED", "WEIGHTS", "LABELS")  # also passed to notebooks that others need
_PATHS = ("PHOTO", "PHOTOS", "TILE_LABELS", "MODEL")


@dataclass(frozen=True)
class Job:
    """One notebook with the values it runs with.

    Attributes:
        notebook: path of the notebook.
        needs: numbers of the notebooks that must have run before.
        defaults: its own parameters.
        given: the parameters that are set; a subset of the names in `defaults`.
        force: whether it runs even if it is up to date.
    """

    notebook: Path
    needs: tuple[str, ...]
    defaults: dict[str, Any]
    given: dict[str, Any]
    force: bool = False

    @property
    def values(self) -> dict[str, Any]:
        """All its parameters."""
        return self.defaults | self.given

    @property
    def changed(self) -> dict[str, Any]:
        """The parameters besides PROFILE that differ from the notebook's own, in order of name."""
        names = sorted(n for n in self.given if n != "PROFILE" and self.given[n] != self.defaults[n])
        return {name: self.given[name] for name in names}

    @property
    def name(self) -> str:
        """File name of the executed copy, without its ending."""
        return self.notebook.stem + "".join(f"--{n}-{_for_file_name(v)}" for n, v in self.changed.items())


def _for_file_name(value: Any) -> str:
    text = str(value)
    plain = re.sub(r"[^A-Za-z0-9.+-]+", "_", text)[:40]
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _convert(name: str, value: str, default: Any) -> Any:
    """Convert a user's value to the type of the notebook's default; a path, relative to the project, to a whole one."""
    if name in _PATHS and value:
        path = (config.ROOT / os.path.expanduser(value)).resolve()  # a notebook's kernel has another folder
        if not path.exists():
            raise config.CrackutilsError(
                f"{name}={value} does not exist. Name it by its whole path, or from the project's folder."
            )
        return str(path)
    if isinstance(default, str) or default is None:
        return value
    try:
        if isinstance(default, bool):
            return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
        if isinstance(default, (int, float)):
            number = type(default)(value)
            if not math.isfinite(number):
                raise ValueError
            return number
        literal = ast.literal_eval(value)
        if type(literal) is not type(default):
            raise ValueError
        return literal
    except (KeyError, ValueError, SyntaxError) as error:
        kinds = {bool: "True or False", int: "a whole number", float: "a number"}
        kind = kinds.get(type(default), f"a {type(default).__name__}")
        raise config.CrackutilsError(f"{name}={value} must be {kind}, for example {name}={default}.") from error


def plan(which: list[str], overrides: dict[str, str], force: bool = False) -> list[Job]:
    """Return the notebooks to run with their parameters, in order: notebooks come after those that they need.

    Args:
        which: ["all"], numbers such as "03", or ["recipes"]: every recipe once, then the comparison.
        overrides: values by parameter name, as the user wrote them.
        force: run the notebooks named in `which` even if they are up to date.

    Raises:
        CrackutilsError: an unknown notebook, profile or parameter, or a value of the wrong type.
    """
    notebooks = find_notebooks()
    if not notebooks:
        raise config.CrackutilsError(f"{config.display_path(config.NOTEBOOKS)} holds no notebook. Restore that folder.")
    defaults = {number: read_parameters(path) for number, path in notebooks.items()}
    if "recipes" in which:
        if len(which) > 1:
            raise config.CrackutilsError(
                "run recipes includes notebooks 03 to 05. Give it alone, and others in a second call."
            )
        return _plan_recipes(defaults, overrides, force)
    names = [n.zfill(2) if n.isdigit() else n for n in which]
    chosen = sorted({config.choose("notebook", name, [*notebooks, "all", "recipes"]) for name in names})
    chosen = list(notebooks) if "all" in chosen else chosen
    profile = config.profile(overrides.get("PROFILE", config.DEFAULT_PROFILE))
    overrides = overrides | {"PROFILE": profile.name}
    known = {name for number in chosen for name in defaults[number]} | {"PROFILE"}
    # other labels than those of the notebook itself would leave it without runs to compare
    shared = [n for n in _SHARED[:-1] if n in overrides and any(n in own for own in defaults.values())]
    _refuse_unknown(overrides, known | set(shared))
    if "RECIPE" in overrides and len(chosen) > 1:
        use = " or ".join(f"make run-{number} RECIPE=..." for number in chosen if "RECIPE" in defaults[number])
        raise config.CrackutilsError(
            f"RECIPE={overrides['RECIPE']} applies to a single notebook. Run only that one: {use}."
        )

    jobs: dict[str, Job] = {}

    def add(number: str, trail: tuple[str, ...] = ()) -> None:
        if number in jobs or number in trail:
            return
        path, own = notebooks[number], defaults[number]
        needs = tuple(read_notebook(path).metadata.get("crackutils", {}).get("needs", ()))
        for need in needs:
            add(config.choose(f"{path.stem} needs notebook", need, notebooks), (*trail, number))
        take = [n for n in overrides if n in own and (number in chosen or n in _SHARED)]
        given = {name: _convert(name, overrides[name], own[name]) for name in take}
        if len(chosen) > 1 and own.get("RECIPE") in RECIPES and RECIPES[own["RECIPE"]].linear:
            given.pop("EPOCHS", None)  # a linear head has none, but another notebook may take it
        jobs[number] = Job(path, needs, own, given, force and number in chosen)

    for number in chosen:
        add(number)
    for name in shared:  # one line per parameter
        if not any(name in job.given for job in jobs.values()):
            print(f"note: {name}={overrides[name]} has no effect on {' and '.join(chosen)}.", flush=True)
    for job in jobs.values():
        _check(job, profile)
    return list(jobs.values())


def _refuse_unknown(overrides: dict[str, str], known: set[str]) -> None:
    for name in overrides:
        config.choose("parameter", name, sorted(known))


def _check(job: Job, profile: config.Profile) -> None:
    """Refuse early what the notebook would refuse only after minutes of indexing, or not at all."""
    for name, value in job.given.items():
        if type(value) is int and value < 0:
            raise config.CrackutilsError(f"{name}={value} is negative. Give 0 or more.")
        if name == "THRESHOLD" and not 0 <= value <= 1:
            raise config.CrackutilsError(f"THRESHOLD={value} is no probability. Give a number between 0 and 1.")
    weights = job.values.get("WEIGHTS", "")
    if weights:  # only recipes that train a whole network can use random weights
        config.choose("WEIGHTS", weights, config.WEIGHTS[: None if "RECIPE" in job.defaults else 2])
    if job.defaults.get("RECIPE") in RECIPES:
        family = RECIPES[job.defaults["RECIPE"]].family
        choose_recipe(job.values["RECIPE"], family, profile, job.values.get("EPOCHS", 0), weights)


def _plan_recipes(defaults: dict[str, dict[str, Any]], overrides: dict[str, str], force: bool) -> list[Job]:
    """Return a job for each recipe that the profile's weights allow, and the comparison; print the others."""
    of_family = {
        RECIPES[own["RECIPE"]].family: number for number, own in defaults.items() if own.get("RECIPE") in RECIPES
    }
    numbers = [*of_family.values(), "05"]
    _refuse_unknown(overrides, {name for number in numbers for name in defaults.get(number, {})} - {"RECIPE"})

    def taken(number: str) -> dict[str, str]:
        return {name: value for name, value in overrides.items() if name in defaults[number]}

    weights = overrides.get("WEIGHTS") or config.profile(overrides.get("PROFILE", config.DEFAULT_PROFILE)).weights
    own = models.OWN_BACKBONE
    jobs = []
    for recipe in RECIPES.values():
        if weights == "crackutils" and recipe.backbone not in ("", own):
            print(f"left out: {recipe.name}, because WEIGHTS=crackutils exist for {own} only", flush=True)
        elif weights == "random" and recipe.linear:
            print(f"left out: {recipe.name}, because it needs pretrained weights", flush=True)
        else:
            given = taken(number := of_family[recipe.family]) | {"RECIPE": recipe.name}
            given.pop("EPOCHS" if recipe.linear else "", None)
            jobs += plan([number], given, force)
    return jobs + plan(["05"], taken("05"), force)[-1:]
