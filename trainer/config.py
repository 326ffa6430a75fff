"""The configuration tree. A recipe (recipes/*.yaml) is an instance of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PlainSerializer, PlainValidator, ValidationError, ValidationInfo, model_validator

from rgsud_core.errors import nearest
from rgsud_core.settings import Settings
from trainer.data.catalogue import find
from trainer.errors import TrainerError
from trainer.methods import METHODS, AnyMethodSettings
from trainer.methods.rgsud import RGSUDSettings
from trainer.models.registry import DerainerSettings
from trainer.rain.search import RainSearchSettings
from trainer.recycling.rewards import Combination


class Share(float):
    """A share of the run, by samples or by time, whichever is ahead; written as `50%`."""

    def __str__(self) -> str:
        return f"{self * 100:.10g}%"


def _moment(*words: str) -> PlainValidator:
    def read(value: Any, info: ValidationInfo) -> Any:
        if value in words or (type(value) is int and value >= 0):
            return value
        if isinstance(value, str) and (percent := re.fullmatch(r"(\d+(\.\d+)?)%", value)):
            return Share(float(percent[1]) / 100)
        if isinstance(value, float) and (isinstance(value, Share) or info.context == _AS_WRITTEN):
            return Share(value)
        example = str(Share(value)) if isinstance(value, float) and 0 <= value <= 1 else "50%"
        known = ", ".join(["a number of samples (20000)", f"a share of the run ({example})", *words])
        raise ValueError(f"{value!r} is no moment of the run: write {known}")

    return PlainValidator(read, json_schema_input_type=int | str)


_AS_WRITTEN = "as written"
"""The context in which shares are read as earlier versions wrote them, as fractions."""
_PLAINLY = PlainSerializer(lambda moment: str(moment) if isinstance(moment, Share) else moment)
Moment = Annotated[int | Share, _moment(), _PLAINLY]
"""A moment of the run: after 20000 rainy crops, or after `50%` of the run."""


class DataSettings(Settings):
    """Folders of photographs, nested or not, any size and format."""

    set: str | None = None
    """A data set of the literature by its name, as Rain100L: its folders stand in for those not given."""
    root: Path | None = None
    """Where data sets lie, each in a folder of its name."""
    rainy: Path
    """The rainy domain."""
    clean: Path
    """The clean domain: other scenes, no pairs."""
    validation_rainy: Path | None = None
    """Rainy side of the validation pairs, matched by name."""
    validation_clean: Path | None = None
    """Their clean side."""
    crop: int = Field(256, ge=32)
    """Side of the square training crops, in pixels."""
    batch: int = Field(4, ge=1)
    """Rainy crops in a step; as many clean ones."""
    workers: int = Field(4, ge=0)
    """Processes that load images; 0 loads in the training process."""
    cache_bytes: int = 2 << 30
    """Decoded images kept in memory by the processes that load, together."""
    rain_search: RainSearchSettings = RainSearchSettings()
    """For a method that trains on found rain."""

    @model_validator(mode="before")
    @classmethod
    def _of_the_set(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("set") is None:
            return given
        if given.get("root") is None:
            raise ValueError("data.set goes with data.root, the folder that data sets lie in")
        found = find(str(given["set"]), str(given["root"]))
        folders = {"rainy": found.train_rainy, "clean": found.train_clean}
        if found.test is not None and given.get("validation_rainy") is None:
            folders |= dict(zip(("validation_rainy", "validation_clean"), found.test, strict=True))
        # The folders stand for the set from here on, wherever the configuration is read again.
        said = {
            key: value for key, value in given.items() if key not in ("set", "root") and value is not None
        }
        return {name: folder for name, folder in folders.items() if folder} | said

    @model_validator(mode="after")
    def _both_or_neither(self) -> DataSettings:
        if (self.validation_rainy is None) != (self.validation_clean is None):
            raise ValueError("data.validation_rainy and data.validation_clean go together: give both or none")
        return self


class ScheduleSettings(Settings):
    """How long the run is, and when its parts begin."""

    samples: int = Field(400_000, ge=1)
    """Rainy crops to train on, whatever the batch and the number of machines."""
    seconds: float | None = Field(None, gt=0)
    """Training time after which the run ends early; evaluation is not counted."""
    recycle_from: Moment = 0
    """When recycling starts: candidates are scored and offered to the pool. 20000 is after 20000 rainy crops,
    `50%` is half-way through the run."""
    recycle_until: Moment | None = None
    """When recycling stops and the pool is frozen. Default: never."""
    stage2_from: Annotated[
        int | Share | Literal["plateau", "never"], _moment("plateau", "never"), _PLAINLY
    ] = Share(0.5)
    """When stage 2 begins: after so many rainy crops, after a share of the run as `50%`, `never`, or at the
    `plateau`, when the pool's mean score has stopped rising."""
    plateau_patience: int = Field(3, ge=1)
    """Readings of the pool (one per evaluation) without a rise of 0.02 in log-odds that make a plateau."""
    minimum_rewards: float = Field(0.5, ge=0, le=1)
    """Share of the rainy images that must have a reward before stage 2 may begin."""


class RecyclingSettings(Settings):
    """Where candidates are scored and kept."""

    scorer: str = "daclip-lite"
    """`daclip-lite`, with `?consistency=1` more where O_r less B_r looks like rain;
    `daclip?weights=PATH`, a metric of pyiqa as `musiq`; or a control: `oracle?truth=FOLDER`, `latest`,
    `random`. With `launch: ray` the run deploys it on Ray Serve, one for all workers; inline, and as
    `local:daclip-lite`, it is in the process that trains. Elsewhere: `serve:APP` of this Ray cluster, or
    `http://HOST:PORT`."""
    pool: str = "embedded:{run}/pool"
    """`embedded:PATH`, `redis://HOST:PORT/DB?blobs=PLACE` or `http://HOST:PORT/NAME`; `{run}` is the run
    folder."""
    every: int = Field(4, ge=1)
    """Steps between two candidates; each is one whole rainy image."""
    weights: Literal["current", "averaged"] = "current"
    """Which of the derainer's weights make the candidates."""
    keep: int = Field(1, ge=1, le=64)
    """Candidates kept for each rainy image."""
    reward: Combination = "best"
    """What stage 2 trains against: the best kept candidate, the mean of those kept, or in each pixel their
    minimum, since rain only adds light."""
    tile: int | None = None
    """Side of the tiles in which whole images are derained; none is all at once."""
    queue: int = Field(16, ge=1)
    """Candidates that may wait to be scored; when it is full the oldest is dropped and counted."""
    synchronous: bool = False
    """Score and offer within the step: slower, and reproducible bit for bit."""
    cache_bytes: int = 1 << 30
    """Decoded rewards kept in memory."""
    history: int = Field(8, ge=0, le=64)
    """Replacements that the pool remembers of each image, for its page."""
    sources: bool = True
    """Put each rainy image beside its reward, so that the pool's page can show both."""
    record: Path | None = None
    """Folder that every candidate is written to, for judging scorers; some 300 KB each at 481x321."""


class ReportSettings(Settings):
    """What is written down, and how often, in steps."""

    log_every: int = Field(10, ge=1)
    """Steps between two lines of metrics.jsonl."""
    evaluate_every: int = Field(1000, ge=1)
    """Steps between two evaluations on the validation pairs."""
    sheet_every: int = Field(1000, ge=1)
    """Steps between two sample sheets."""
    checkpoint_every: int = Field(1000, ge=1)
    """Steps between two checkpoints."""
    keep_checkpoints: int = Field(3, ge=1)
    """Checkpoints kept; older ones are deleted."""
    plan: bool = True
    """Measure a few steps before the start, and tell what the run will take."""
    log: Literal["console", "json"] = "console"
    """`json` prints the lines of metrics.jsonl, for what collects the logs of many programs."""


class ServedScorerSettings(Settings):
    """The scorer that a run on Ray deploys for its workers."""

    replicas: int = Field(1, ge=1)
    """Copies; the fewest of them where `max_replicas` lets their number rise."""
    max_replicas: int | None = Field(None, ge=1)
    """Copies under load; none leaves their number fixed."""
    cpus: float | None = Field(None, ge=0)
    """Processor cores set aside for a copy; none is 1 on a cluster, and none on a Ray started for this run,
    where it shares those of the workers."""
    gpus: float = Field(0.0, ge=0)
    """GPUs, or a share of one, for a copy."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Of its image tower."""


_Count = Annotated[int, Field(ge=1)]


class RaySettings(Settings):
    """Of `launch: ray`."""

    address: str | None = None
    """Of a running cluster, `auto` for the one of this machine; none takes that of the environment, or
    one that runs on this machine, or starts Ray for this run."""
    workers: _Count | tuple[_Count, _Count] = 1
    """Workers that train; two numbers are the fewest and the most of an elastic run."""
    cpus: int | None = Field(None, ge=1)
    """Processor cores a worker has; none shares out what is free."""
    max_failures: int = Field(3, ge=-1)
    """Times that the workers start again from the newest checkpoint when one has died; -1 is without end."""
    timeout_seconds: int = Field(600, ge=10)
    """How long workers wait for each other before one counts as dead."""
    scorer: ServedScorerSettings = ServedScorerSettings()
    """Where `recycling.scorer` says no place."""

    @model_validator(mode="after")
    def _fewest_first(self) -> RaySettings:
        if isinstance(self.workers, tuple) and self.workers[0] > self.workers[1]:
            raise ValueError(f"workers {list(self.workers)}: the fewest come first, then the most")
        return self


class Config(Settings):
    """One run."""

    name: str = "run"
    """The run's folder below `runs`."""
    runs: Path = Path("runs")
    """Where runs are kept."""
    copies: str | None = None
    """Object store (`s3://BUCKET/PREFIX`, ...) or folder that checkpoints, model and figures are copied to; a
    run whose folder is gone goes on from there."""
    seed: int = 0
    """Of the initial weights and the order of the crops."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` takes a GPU where there is one."""
    launch: Literal["ray", "inline"] = "ray"
    """Where the run's processes live: workers of Ray Train and a scorer on Ray Serve, or all in this one."""
    ray: RaySettings = RaySettings()
    """Workers of `launch: ray`."""
    data: DataSettings
    """Photographs."""
    derainer: DerainerSettings = "nafnet-32"
    """A published configuration by name, or sizes."""
    identity_start: bool = True
    """Begin with a derainer that returns its input."""
    method: AnyMethodSettings = RGSUDSettings()
    """`name: rgsud`, the paper's GAN, or `found-rain`, rain of the rainy photographs' flat places."""
    schedule: ScheduleSettings = ScheduleSettings()
    """Length and stages."""
    recycling: RecyclingSettings = RecyclingSettings()
    """Scorer and pool."""
    report: ReportSettings = ReportSettings()
    """Logs, evaluations, checkpoints."""

    @model_validator(mode="after")
    def _crop_fits(self) -> Config:
        if (reason := self.method.refuse(self.data.crop)) is not None:
            raise ValueError(reason)
        return self

    @property
    def folder(self) -> Path:
        """Where this run writes."""
        return self.runs / self.name


def load_config(recipe: str | Path, overrides: Mapping[str, Any] | Sequence[str] | None = None) -> Config:
    """Read a recipe by its name or path, and change settings: ``{"key.of.setting": value}``, or
    ``["key.of.setting=value"]`` with values in YAML.

    Raises:
        TrainerError: no such recipe, not YAML, or a setting that is unknown or out of range; the message
            names the setting, and the nearest known one.
    """
    tree = _read(recipe)
    given = overrides.items() if isinstance(overrides, Mapping) else map(_parsed, overrides or ())
    for key, value in given:
        _assign(tree, key.split("."), value, f"{key}={value}")
    return _valid(tree)


def recipe_config(recipe: str | Path | None) -> Config:
    """A recipe, or the defaults, with RAINY and CLEAN for the folders that it leaves open; to be shown.

    Raises:
        TrainerError: see :func:`load_config`.
    """
    tree = {} if recipe is None else _read(recipe)
    tree["data"] = {"rainy": "RAINY", "clean": "CLEAN", **(tree.get("data") or {})}
    return _valid(tree)


def describe_recipe(recipe: str) -> tuple[str, str]:
    """What a recipe is, and what it is for: the first two lines of its comment."""
    what, purpose, *_ = _source(recipe).read_text().splitlines()
    return what.removeprefix("# "), purpose.removeprefix("# ")


def _valid(tree: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as problem:
        raise TrainerError(_explain(problem)) from None


def _parsed(override: str) -> tuple[str, Any]:
    key, separator, value = override.partition("=")
    if not separator:
        raise TrainerError(f"'{override}' is not a setting: write key=value, as in data.crop=64.")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise TrainerError(f"'{override}' is not YAML after the '=': put the value in quotes.") from None


def read_config(folder: Path) -> Config:
    """The configuration that a run's folder holds, also where an earlier version wrote it.

    Raises:
        FileNotFoundError: no run is in the folder.
        OSError, yaml.YAMLError, ValidationError: its configuration cannot be read.
    """
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    return Config.model_validate(tree, context=_AS_WRITTEN)


def recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _shipped().iterdir())


def _shipped() -> Any:
    return files("trainer") / "recipes"


def _source(recipe: str | Path) -> Any:
    path = Path(recipe)
    return path if path.suffix in {".yaml", ".yml"} else _shipped() / f"{recipe}.yaml"


def _read(recipe: str | Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(_source(recipe).read_text())
    except FileNotFoundError:
        raise TrainerError(
            f"there is no recipe '{recipe}': give the path of a .yaml file or one of {', '.join(recipes())}."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as problem:
        raise TrainerError(f"the recipe {recipe} cannot be read: {problem}.") from None
    if not isinstance(tree, dict):
        raise TrainerError(f"the recipe {recipe} is not a tree of settings.")
    return tree


def _assign(tree: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        branch = tree.setdefault(key, {})
        if not isinstance(branch, dict):
            raise TrainerError(f"'{override}' does not fit the recipe: '{key}' is {branch!r} there.")
        tree = branch
    tree[keys[-1]] = value


def _explain(problem: ValidationError) -> str:
    lines = []
    for error in problem.errors():
        place = ".".join(str(part) for part in error["loc"] if part not in METHODS)
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "union_tag_invalid":
            message = f"unknown method '{error['ctx']['tag']}': {nearest(error['ctx']['tag'], METHODS)}"
        lines.append(f"{place}: {message}" if place else message)
    said = "the configuration is not valid: " + "; ".join(lines)
    return said if said.endswith("?") else f"{said}."
