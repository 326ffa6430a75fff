"""The configuration tree. A recipe (recipes/*.yaml) is an instance of it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from rgsud_core.addresses import path_in_address
from rgsud_core.errors import first_line
from rgsud_core.settings import YAML_CHARACTERS, Percentage, Settings, UserPath, expanded, read_yaml
from trainer.data.catalogue import find
from trainer.errors import TrainerError
from trainer.kinds import PartError
from trainer.methods import AnyMethodSettings
from trainer.methods.rgsud import RGSUDSettings
from trainer.models.nafnet import PUBLISHED
from trainer.models.registry import DerainerSettings
from trainer.moments import AS_WRITTEN, PLAINLY, Moment, moment
from trainer.recycling.rewards import Combination


class DataSettings(Settings):
    """Folders of photographs, nested or not, any size and format."""

    set: str | None = None
    """Name of a data set of the literature, as Rain100L, whose folders are used where none are given."""
    root: UserPath | None = None
    """Folder that holds data sets, each in a folder of its name."""
    rainy: UserPath
    """Folder of rainy images; `FOLDER::left` (or `right`) is a half of pictures side by side, `FOLDER::rain`
    what has rain in its name."""
    clean: UserPath
    """Folder of clean images of other scenes; also `FOLDER::right`, `FOLDER::norain`."""
    validation_rainy: UserPath | None = None
    """Folder of the rainy images of the validation pairs, matched by the names that data sets give them."""
    validation_clean: UserPath | None = None
    """Folder of the clean images of the validation pairs."""
    crop: int = Field(256, ge=32)
    """Side of the square training crops, in pixels."""
    batch: int = Field(4, ge=1)
    """Rainy crops in a step of one worker; the number of clean crops is the same."""
    workers: int = Field(4, ge=0)
    """Processes that load images; 0 loads in the training process."""
    cache_bytes: int = 2 << 30
    """Size of the cache of decoded images, in bytes, over all processes that load."""

    @model_validator(mode="before")
    @classmethod
    def _of_the_set(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("set") is None:
            return given
        if given.get("root") is None:
            raise ValueError("data.set goes with data.root, the folder that data sets lie in")
        found = find(str(given["set"]), expanded(given["root"]))
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
    """Training time, without evaluations, after which the run ends early. Default: no limit."""
    learning_rate: Literal["constant", "cosine"] = "constant"
    """Learning rates over the run: those of the optimizers (`constant`), or from them to 0 (`cosine`)."""
    recycle_from: Moment = 0
    """When recycling starts: candidates are scored and offered to the pool. 20000 is after 20000 rainy crops,
    `50%` is half-way through the run."""
    recycle_until: Moment | None = None
    """When recycling stops and the pool is frozen. Default: never."""
    stage2_from: Annotated[
        int | Percentage | Literal["plateau", "never"], moment("plateau", "never"), PLAINLY
    ] = Percentage(0.5)
    """When stage 2 begins: after so many rainy crops, after a share of the run as `50%`, `never`, or at the
    `plateau`, when the pool's mean score has stopped rising."""
    plateau_patience: int = Field(3, ge=1)
    """Number of evaluations in a row without a rise of the pool's mean score by 0.02 log-odds that make a
    plateau."""
    minimum_rewards: float = Field(0.5, ge=0, le=1)
    """Share of the rainy images, 0 to 1, that must have a reward before stage 2 may begin."""


class RecyclingSettings(Settings):
    """Scoring and keeping of candidates."""

    scorer: str = "daclip-lite"
    """Address of the scorer: `daclip-lite` (with `?consistency=1` it compares with the rainy image too),
    `daclip?weights=PATH`, a metric of pyiqa such as `musiq`, `package.module:Class`, or a baseline:
    `oracle?truth=FOLDER`, `latest`, `random`. With `launch: ray` the run deploys it on Ray Serve, one for all
    workers; inline, and as `local:daclip-lite`, it is in the process that trains. Elsewhere: `serve:APP` of
    this Ray cluster, or `http://HOST:PORT`."""
    pool: str = "embedded:{run}/pool"
    """Address of the reward pool: `embedded:PATH` (a server of the run's own),
    `redis://HOST:PORT/DB?blobs=PLACE` or `http://HOST:PORT/NAME`; `{run}` is the run's folder."""
    every: int = Field(4, ge=1)
    """Steps between two candidates of a worker; a candidate is one whole rainy image, derained."""
    weights: Literal["current", "averaged"] = "current"
    """Weights of the derainer that make the candidates: those of the moment, or their running average."""
    keep: int = Field(1, ge=1, le=64)
    """Number of candidates that the pool keeps for each rainy image."""
    reward: Combination = "best"
    """Target of stage 2: the best of the kept candidates, their mean, or in each pixel their minimum, since
    rain only adds light."""
    tile: int | None = None
    """Side, in pixels, of the tiles in which candidates are derained; 0 derains whole images. Default: 512
    for images of more than 2 megapixels."""
    queue: int = Field(16, ge=1)
    """Largest number of candidates that wait to be scored; beyond it the oldest is dropped and counted."""
    synchronous: bool = False
    """Score and offer candidates within the training step: slower, and reproducible bit for bit."""
    cache_bytes: int = 1 << 30
    """Size of the cache of decoded rewards in a worker, in bytes."""
    history: int = Field(8, ge=0, le=64)
    """Number of replacements of each image that the pool remembers, for its page."""
    sources: bool = True
    """Store each rainy image in the pool, so that its page can show it beside the reward."""
    record: UserPath | None = None
    """Folder that every candidate is written to, to compare scorers afterwards; about 300 KB each at 481x321.
    Default: none is written."""


class ReportSettings(Settings):
    """Logs, evaluations and checkpoints, and their intervals in steps."""

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
    """Measure a few steps before the start, and estimate the time and memory of the run."""
    log: Literal["console", "json"] = "console"
    """Format of the output: for a person, or the lines of metrics.jsonl for log collectors."""


class ServedScorerSettings(Settings):
    """The scorer that a run on Ray deploys for its workers."""

    replicas: int = Field(1, ge=1)
    """Number of replicas; the minimum if `max_replicas` enables autoscaling."""
    max_replicas: int | None = Field(None, ge=1)
    """Largest number of replicas under load. Default: the number is fixed."""
    cpus: float | None = Field(None, ge=0)
    """CPU cores reserved per replica. Default: 1 on an existing cluster, 0 on a Ray started for this run,
    where replica and workers share the cores."""
    gpus: float = Field(0.0, ge=0)
    """GPUs per replica; may be a fraction."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Precision of the scorer's image tower. Default: the scorer's own."""


_Count = Annotated[int, Field(ge=1)]


class RaySettings(Settings):
    """Processes of a run with `launch: ray`."""

    address: str | None = None
    """Address of a running cluster; `auto` is any on this machine. Default: that of the environment
    (RAY_ADDRESS), or the one that serves the scorer, or that of `ray start` on this machine, or else Ray is
    started for this run."""
    workers: _Count | tuple[_Count, _Count] = 1
    """Number of workers that train; two numbers are the minimum and the maximum of an elastic run."""
    cpus: int | None = Field(None, ge=1)
    """CPU cores per worker. Default: an equal share of the free ones."""
    max_failures: int = Field(3, ge=-1)
    """Number of restarts from the newest checkpoint after a worker has died; -1 is no limit."""
    timeout_seconds: int = Field(600, ge=10)
    """Seconds that workers wait for each other before one is considered dead."""
    scorer: ServedScorerSettings = ServedScorerSettings()
    """Scorer that is deployed for the run, if `recycling.scorer` does not say where one runs."""

    @model_validator(mode="after")
    def _fewest_first(self) -> RaySettings:
        if isinstance(self.workers, tuple) and self.workers[0] > self.workers[1]:
            raise ValueError(f"workers {list(self.workers)}: the fewest come first, then the most")
        return self


class Config(Settings):
    """One run."""

    name: str = "run"
    """Name of the run, and of its folder below `runs`."""
    runs: UserPath = Path("runs")
    """Folder of all runs."""
    copies: str | None = None
    """Object store (`s3://BUCKET/PREFIX`, ...) or folder that checkpoints, model and figures are copied to;
    a run whose folder is lost resumes from there."""
    seed: int = 0
    """Seed of the initial weights and the order of the crops."""
    device: str = "auto"
    """Device that trains: `cpu`, `cuda`, `cuda:1`; `auto` is a GPU if there is one."""
    launch: Literal["ray", "inline"] = "ray"
    """Workers of Ray Train with a scorer on Ray Serve, or everything in this process."""
    ray: RaySettings = RaySettings()
    """Processes of a run with `launch: ray`."""
    data: DataSettings
    """Images to train on."""
    derainer: DerainerSettings = PUBLISHED["nafnet-32"]
    """A published configuration by name; or `name` (also `package.module:Class`) and sizes of a derainer."""
    identity_start: bool = True
    """Start with a derainer that returns its input."""
    start: str | None = None
    """Trained derainer to begin from: the name of a model that comes with rgsud (`rgsud-base`), a run's
    folder, or a .safetensors file; of the sizes that `derainer` has."""
    method: AnyMethodSettings = RGSUDSettings()
    """`name: rgsud`, the paper's; `supervised`, the upper bound on pairs; or `package.module:Class`."""
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

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        parts = set(PurePath(name).parts)
        if not parts or parts & {"..", "/"} or "\0" in name:
            raise ValueError(f"{name!r} names no folder below runs: give it letters, digits and signs")
        return name

    @property
    def folder(self) -> Path:
        """Where this run writes."""
        return self.runs / self.name

    def pool_address(self, folder: Path | None = None) -> str:
        """Address of the pool, with the run's folder, or where that is now."""
        return self.recycling.pool.replace("{run}", path_in_address(folder or self.folder))

    def scorer_app(self) -> str:
        """Name of the scorer that a run on Ray deploys on Ray Serve."""
        plain = re.sub(r"[^\w.-]", "-", self.name)
        same = plain == self.name
        return f"iqa-{plain}" if same else f"iqa-{plain}-{zlib.crc32(self.name.encode()):08x}"


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
    if isinstance(data := tree.get("data") or {}, dict):
        tree["data"] = {"rainy": "RAINY", "clean": "CLEAN", **data}
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
    if value not in ("", "null") and value[0] not in "'\"" and _is_text(key):
        return key, value  # YAML would take a name of digits for a number, and brackets for a list
    try:
        return key, read_yaml(value)
    except yaml.YAMLError:
        raise TrainerError(f"'{override}' is not YAML after the '=': put the value in quotes.") from None


def _is_text(key: str) -> bool:
    """Whether a setting is a text or a path."""
    kind: Any = Config
    for part in key.split("."):
        fields = kind.model_fields if isinstance(kind, type) and issubclass(kind, Settings) else {}
        kind = fields[part].annotation if part in fields else None
    choices = {kind, *get_args(kind)}
    return bool(choices & {str, Path}) and all(get_origin(one) is not Literal for one in choices)


def read_config(folder: Path) -> Config:
    """The configuration that a run's folder holds, also where an earlier version wrote it.

    Raises:
        FileNotFoundError: no run is in the folder.
        OSError, yaml.YAMLError, ValueError: its configuration cannot be read.
    """
    with (folder / "config.yaml").open() as file:
        tree = read_yaml(file.read(YAML_CHARACTERS + 1))
    return Config.model_validate(tree, context=AS_WRITTEN)


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
        with _source(recipe).open() as file:
            tree = read_yaml(file.read(YAML_CHARACTERS + 1))
    except FileNotFoundError:
        raise TrainerError(
            f"there is no recipe '{recipe}': give the path of a .yaml file or one of {', '.join(recipes())}."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as problem:
        raise TrainerError(f"the recipe {recipe} cannot be read: {first_line(problem)}.") from None
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
    lines = [f"{place}: {message}" if place else message for place, message in _sentences(problem)]
    said = "the configuration is not valid: " + "; ".join(lines)
    return said if said.endswith("?") else f"{said}."


def _sentences(problem: ValidationError) -> Iterator[tuple[str, str]]:
    """Places in the tree, and what is wrong there."""
    for error in problem.errors():
        place = ".".join(map(str, error["loc"]))
        cause = error.get("ctx", {}).get("error")
        if isinstance(cause, PartError):
            for inner, message in _sentences(cause.problem):
                yield ".".join(filter(None, (place, inner))), message
        else:
            quotes = ": put it in quotes" if error["type"] == "string_type" else ""
            yield place, error["msg"].removeprefix("Value error, ") + quotes
