"""What the rewards are worth: runs of equal total time on real data sets, with controls.

    python benchmarks/what_teaches.py DATA [--domain rain100l] [--runs stage1 daclip ...] [--seeds 0 1 2]
        [--page FILE] [--quick] [--json FILE]

DATA holds rain100l/train/{rainy,truth}, rain100l/val/{rainy,clean} and rain800/train/clean, for the second
domain roadscene_night/train/{rainy,clean}. Every run has the same time, evaluation excluded and work for the
pool counted. It is processor time over two, so that two runs side by side, or other work on the machine,
change no figure; start each with OMP_NUM_THREADS=1. The runs of a seed share their first part, stage 1
without a pool. What is done is not done again, and what was cut off goes on from its last checkpoint; the
page is written from whatever is there (`--runs` with nothing after it runs nothing).

Settings are chosen by the averaged weights' PSNR on the rainy images of the training domain, whose truth no
unpaired run sees; the page reports the validation pairs, other scenes.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from what_teaches_page import curves, draw, figures, sheet, summary, table

from pool_store.client import Pool
from pool_store.schemas import Entry
from rgsud_core.files import writing
from rgsud_core.images import Image
from rgsud_core.settings import Percentage
from trainer.config import Config, load_config
from trainer.data.crops import PairedBatches, UnpairedBatches
from trainer.data.folders import ImageFolder
from trainer.data.pairing import PairedFolder
from trainer.launch.assembly import assemble
from trainer.launch.worker import view_of
from trainer.methods.losses import psnr_loss, ssim_loss
from trainer.models.registry import build_derainer
from trainer.recycling.rewards import combine
from trainer.restore.evaluation import evaluate_pairs, psnr_y
from trainer.restore.inference import derain_image
from trainer.run import Callback, Run
from trainer.state.checkpoints import Checkpoints
from trainer.state.schedule import Progress, finished
from trainer.train import train

SHARED = Percentage(0.4)
"""Part of the time that the runs of a seed have in common."""
STAGE2 = Percentage(0.5)
"""When stage 2 begins."""
CHOSEN_BY = 3
"""Every which of the training images an evaluation measures, to choose settings by."""
LITE = "recycling.scorer=local:daclip-lite?consistency=1"
LATEST = "recycling.scorer=local:latest?start={steps}"
MINIMUM = ("recycling.keep=3", "recycling.reward=minimum", "method.rain_brightens=true")


class Row(NamedTuple):
    """A run: what it is called, its settings beside the recipe's, and whose first part it shares."""

    label: str
    settings: tuple[str, ...] = ()
    shared: str = "shared"
    recipe: str = "rain100l-mini"


NO_POOL = ("schedule.stage2_from=never", "schedule.recycle_from=200%")
USES = ("recycling.every=12", "method.lambda2=0.8")
"""Rewards as the paper uses them, beside the rain that they show."""
FROZEN = f"schedule.recycle_until={STAGE2}"
RAIN_ALONE = ("recycling.every=12", "method.lambda2=0")
SCORERS = {
    "daclip": ("both stages, the recipe's scorer", LITE),
    "oracle": ("oracle: true PSNR", "recycling.scorer=local:oracle?truth={truth}"),
    "latest": ("latest always wins", LATEST),
    "random": ("random scorer", "recycling.scorer=local:random"),
}
RUNS: dict[str, Row] = {
    "stage1": Row("found rain: stage 1 alone", NO_POOL),
    **{name: Row(f"found rain: {label}", (scorer, *USES)) for name, (label, scorer) in SCORERS.items()},
    "rain_only": Row("found rain: the rain of rewards without L_re", (LITE, *RAIN_ALONE)),
    "re_only": Row(
        "found rain: L_re without the rain of rewards", (LITE, *USES, "method.reward_rain.detail=0")
    ),
    "frozen": Row("found rain: pool frozen as stage 2 begins", (LITE, *USES, FROZEN)),
    "teacher": Row(
        "found rain: averaged weights as teacher, no pool", (LATEST, *USES, "method.teacher=true")
    ),
    "mean3": Row(
        "found rain: mean of the best 3", (LITE, *USES, "recycling.keep=3", "recycling.reward=mean")
    ),
}
RUNS["recipe"] = Row(
    "found rain: the recipe as it stands, but for the first candidates at 0.4", ("schedule.stage2_from=60%",)
)
BLENDED = "method.radiance=0.7"
RUNS["blended"] = Row("found rain: blended in, stage 1 alone", (*NO_POOL, BLENDED), "blended_shared")
RUNS["blended_rain_only"] = Row(
    "found rain: blended in, the rain of rewards without L_re",
    (LITE, *RAIN_ALONE, BLENDED),
    "blended_shared",
)
RUNS["true_scenes"] = Row(
    "found rain: over the truth of the rainy images, stage 1 alone",
    (*NO_POOL, "data.clean={truth}"),
    "scenes",
)
FEW = "data.rain_search.images=4"
FEW_RAIN = {
    "latest": ("the latest candidates", (LATEST,)),
    "oracle": ("candidates chosen by true PSNR", (SCORERS["oracle"][1],)),
    "random": ("candidates chosen at random", (SCORERS["random"][1],)),
    "frozen": ("rewards frozen as stage 2 begins", (LITE, FROZEN)),
    "teacher": ("what the averaged weights make of each crop", (LATEST, "method.teacher=true")),
}
RUNS |= {
    "few_stage1": Row("found in few places: stage 1 alone", (*NO_POOL, FEW), "few"),
    "few_daclip": Row("found in few places: both stages, the recipe's scorer", (LITE, *USES, FEW), "few"),
    "few_rain_only": Row(
        "found in few places: the rain of rewards without L_re", (LITE, *RAIN_ALONE, FEW), "few"
    ),
    "few_rain_sparse": Row(
        "found in few places: the rain of rewards, a quarter of the candidates",
        (LITE, "recycling.every=48", "method.lambda2=0", FEW),
        "few",
    ),
    "few_teacher": Row(
        "found in few places: the rain of what the averaged weights make, hardly any candidates, no L_re",
        (
            LATEST,
            "recycling.every=480",
            "schedule.minimum_rewards=0",
            "method.teacher=true",
            "method.lambda2=0",
            FEW,
        ),
        "few",
    ),
    **{
        f"few_rain_{name}": Row(
            f"found in few places: the rain of {label}, no L_re", (*settings, *RAIN_ALONE, FEW), "few"
        )
        for name, (label, settings) in FEW_RAIN.items()
    },
}
PAPERS, QUARTER = "method.lambda2=0.8", "method.lambda2=0.2"
"""L_re as the paper weighs it, and as the recipe does."""
GAN = {
    "stage1": ("stage 1 alone", NO_POOL),
    **{name: (label, (scorer,)) for name, (label, scorer) in SCORERS.items()},
    "minimum3": ("minimum of the best 3 and the rainy image", (LITE, *MINIMUM)),
    "frozen": ("pool frozen as stage 2 begins", (LITE, FROZEN)),
    "teacher": ("averaged weights as teacher, no pool", (LATEST, "method.teacher=true")),
    "re_only": ("L_re without DEM's switch", (LITE, "method.dem_switch=false")),
    "re_weak": ("both stages, a quarter of L_re", (LITE, QUARTER)),
    "re_weak_latest": ("a quarter of L_re, latest always wins", (LATEST, QUARTER)),
    "switch_only": ("DEM's switch without L_re", (LITE, "method.lambda2=0")),
}
RUNS |= {
    f"gan_{name}": Row(f"GAN: {label}", (PAPERS, *settings), "gan_shared", "rain100l-gan")
    for name, (label, settings) in GAN.items()
}
RUNS |= {
    f"plain_{name}": Row(
        f"GAN, rain of one strength: {GAN[name][0]}",
        (PAPERS, *GAN[name][1], "method.rain_gain=1"),
        "plain",
        "rain100l-gan",
    )
    for name in ("stage1", "daclip", "oracle", "latest")
}
RUNS["true_rain"] = Row("supervised: true rain over other scenes", shared="")
RUNS["supervised"] = Row("supervised: true pairs", shared="")
FIRST = {
    "shared": "stage1",
    "few": "few_stage1",
    "scenes": "true_scenes",
    "blended_shared": "blended",
    "gan_shared": "gan_stage1",
    "plain": "plain_stage1",
}
"""The run whose settings a shared part is run with."""


class Domain(NamedTuple):
    """Folders below DATA."""

    rainy: Path
    truth: Path
    clean: Path
    validation_rainy: Path
    validation_clean: Path


def domain(name: str, data: Path, out: Path) -> Domain:
    """The folders of a domain. RoadScene comes as pairs of one folder: its first 60 scenes are the rainy
    domain, the clean sides of the next 90 the clean one, the last 24 are to measure with; those between are
    left out, since neighbours look alike."""
    if name == "rain100l":
        train, val = data / "rain100l/train", data / "rain100l/val"
        clean = data / "rain800/train/clean"
        return Domain(train / "rainy", train / "truth", clean, val / "rainy", val / "clean")
    pairs = {side: sorted((data / f"roadscene_night/train/{side}").iterdir()) for side in ("rainy", "clean")}
    parts = {
        "rainy": pairs["rainy"][:60],
        "truth": pairs["clean"][:60],
        "clean": pairs["clean"][64:154],
        "validation_rainy": pairs["rainy"][-24:],
        "validation_clean": pairs["clean"][-24:],
    }
    for part, files in parts.items():
        (out / "data" / part).mkdir(parents=True, exist_ok=True)
        for file in files:
            link = out / "data" / part / file.name
            if not link.exists():
                link.symlink_to(file.resolve())
    return Domain(**{part: out / "data" / part for part in parts})


def clock() -> float:
    """Processor time of all threads, as if spread over two cores, in seconds."""
    return time.process_time() / 2


class Recorder(Callback):
    """Evaluates raw and averaged weights and the pool's true quality into records.jsonl."""

    def __init__(self, config: Config, validation: PairedFolder, training: PairedFolder) -> None:
        folder = config.folder
        self._config = config
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "records.jsonl"
        self._validation = validation
        self._training = training

    def on_evaluate(self, run: Run) -> None:
        """The raw weights, the averaged ones, and the pool where it holds something."""
        pool = run.state.pool if run.state.pool and run.state.pool.stats().entries else None
        self.evaluate(run.method.derainer, run.method.averaged, run.progress, pool)

    def evaluate(self, raw: nn.Module, averaged: nn.Module, progress: Progress, pool: Pool | None) -> None:
        line: dict[str, Any] = {"seconds": progress.seconds, "steps": progress.steps, "stage": progress.stage}
        for name, net in (("raw", raw), ("ema", averaged)):
            derained = (derain_image(net, rainy) for rainy in self._validation.degraded.images())
            measured = evaluate_pairs(derained, self._validation)
            line[name] = measured.output.model_dump()
            line["input"] = measured.input.model_dump()
        line["training_psnr_y"] = statistics.fmean(
            psnr_y(derain_image(averaged, rainy), clean)
            for rainy, clean in map(self._training.load, range(0, len(self._training), CHOSEN_BY))
        )
        if pool is not None:
            served = [
                psnr_y(self._served(pool, entry), self._training.clean.load_id(entry.id))
                for entry in pool.scan()
            ]
            line["pool_psnr_y"] = statistics.fmean(served) if served else None
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _served(self, pool: Pool, entry: Entry) -> Image:
        """What stage 2 trains against."""
        images = [pool.image(candidate.digest) for candidate in entry.candidates]
        reward = combine(images, self._config.recycling.reward)
        if self._config.method.rain_brightens:
            reward = np.minimum(reward, self._training.degraded.load_id(entry.id))
        served: Image = np.rint(reward).astype(np.uint8)
        return served


def configure(
    folders: Domain, out: Path, seed: int, run: str, seconds: float, evaluate_every: int, record: bool = False
) -> Config:
    """The recipe with a run's settings."""
    # A resumed run goes on counting above what its pool holds: one candidate every few steps at most.
    files = Checkpoints(out / f"seed{seed}/{run}/checkpoints", 1).files()
    steps = int(files[-1].stem.removeprefix("step-")) if files else 0
    settings = [setting.format(truth=folders.truth, steps=steps) for setting in RUNS[run].settings]
    if record:
        settings.append(f"recycling.record={out}/seed{seed}/{run}/record")
    return load_config(
        RUNS[run].recipe,
        [
            *(f"data.{key}={folder}" for key, folder in folders._asdict().items() if key != "truth"),
            f"runs={out}/seed{seed}",
            f"seed={seed}",
            f"schedule.samples={10**9}",
            f"schedule.seconds={seconds}",
            f"schedule.recycle_from={SHARED}",
            f"schedule.stage2_from={STAGE2}",
            f"report.evaluate_every={evaluate_every}",
            f"report.checkpoint_every={evaluate_every}",
            f"report.sheet_every={10**9}",
            *settings,
        ],
    )


def unpaired(config: Config, name: str, training: PairedFolder, until: float, start: Path | None) -> Path:
    """Train until a share of the time, from a checkpoint of another run where given; the last checkpoint."""
    config = config.model_copy(update={"name": name})
    checkpoints = Checkpoints(config.folder / "checkpoints", config.report.keep_checkpoints)
    with ExitStack() as stack:
        run = assemble(config, checkpoints, [view_of(config, Console(stderr=True))], stack)
        assert run.validation is not None
        recorder = Recorder(config, run.validation, training)
        run.validation = None  # the recorder measures instead
        run.callbacks.append(recorder)
        run.clock = clock
        if checkpoints.files() or start:
            run.state.load_state_dict(checkpoints.load(None if checkpoints.files() else start))
        assert config.schedule.seconds is not None
        limit = until * config.schedule.seconds
        progress = run.progress
        run.stopping = lambda: progress.seconds >= limit
        if not (finished(config.schedule, progress) or run.stopping()):
            train(run)
        if until == 1 and progress.steps % config.report.evaluate_every:
            recorder.on_evaluate(run)
    return checkpoints.files()[-1]


def as_input(images: Tensor) -> Tensor:
    """uint8 crops as the networks take them."""
    return images.float().div(255).contiguous(memory_format=torch.channels_last)


def supervised(config: Config, name: str, pairs: PairedFolder, evaluate_every: int) -> None:
    """The same derainer, on the rainy images and their ground truth, or (`true_rain`) on the rain of those
    images, laid over clean images of other scenes: what perfect fake rain would give."""
    config = config.model_copy(update={"name": name})
    validation = PairedFolder(config.data.validation_rainy or "", config.data.validation_clean or "")
    recorder = Recorder(config, validation, pairs)
    crops = {"crop": config.data.crop, "batch": config.data.batch, "seed": config.seed}
    batches = PairedBatches(pairs, **crops)
    others = UnpairedBatches(pairs.degraded, ImageFolder(config.data.clean), **crops)
    torch.manual_seed(config.seed)
    net = build_derainer(config.derainer, identity_start=True).to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), lr=config.method.derainer_optimizer.lr)
    progress = Progress()
    checkpoint = config.folder / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(saved["net"])
        averaged.load_state_dict(saved["averaged"])
        optimizer.load_state_dict(saved["optimizer"])
        progress = Progress(**saved["progress"])
    while progress.seconds < (config.schedule.seconds or 0):
        started = clock()
        batch = batches.batch(progress.steps)
        rainy, clean = as_input(batch.O_r), as_input(batch.B_u)
        if name == "true_rain":
            other = as_input(others.batch(progress.steps).clean)
            rainy, clean = (other + rainy - clean).clamp(0, 1), other
        derained = net(rainy)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(psnr_loss(derained, clean) + ssim_loss(derained, clean))
        optimizer.step()
        progress.steps += 1
        decay = min(config.method.ema, progress.steps / (progress.steps + 10))
        with torch.no_grad():
            for average, weight in zip(averaged.parameters(), net.parameters(), strict=True):
                average.lerp_(weight, 1 - decay)
        progress.seconds += clock() - started
        if progress.steps % evaluate_every == 0:
            recorder.evaluate(net, averaged, progress, None)
            state = {
                "net": net.state_dict(),
                "averaged": averaged.state_dict(),
                "optimizer": optimizer.state_dict(),
                "progress": {"steps": progress.steps, "seconds": progress.seconds},
            }
            with writing(checkpoint) as temporary:
                torch.save(state, temporary)


def main() -> None:
    """Run what is asked for, draw the curves, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--domain", choices=["rain100l", "roadscene"], default="rain100l")
    parser.add_argument("--runs", nargs="*", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--out", type=Path, help="runs/what-teaches/DOMAIN where it is not said")
    parser.add_argument("--seconds", type=float, default=720.0, help="of each run")
    parser.add_argument("--evaluate-every", type=int, default=120, help="steps")
    parser.add_argument("--record", action="store_true", help="keep every candidate, for scorer_quality.py")
    parser.add_argument(
        "--quick", action="store_true", help="a few seconds of stage 1 and daclip, for a look"
    )
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    out = chosen.out or Path("runs/what-teaches", chosen.domain)
    if chosen.quick:
        chosen.seconds, chosen.evaluate_every, out = 8.0, 8, out.with_name(f"{out.name}-quick")
        chosen.runs = ["stage1", "daclip"]
    # As many threads as the time is counted for: more would only wait for each other.
    torch.set_num_threads(1)

    folders = domain(chosen.domain, chosen.data, out)
    training = PairedFolder(folders.rainy, folders.truth)
    for seed in chosen.seeds:
        for name in chosen.runs:
            config = configure(folders, out, seed, name, chosen.seconds, chosen.evaluate_every, chosen.record)
            if not RUNS[name].shared:
                supervised(config, name, training, chosen.evaluate_every)
                continue
            common = configure(
                folders, out, seed, FIRST[RUNS[name].shared], chosen.seconds, chosen.evaluate_every
            )
            start = unpaired(common, RUNS[name].shared, training, SHARED, None)
            unpaired(config, name, training, 1.0, start)

    found = curves(out, {name: row.shared for name, row in RUNS.items()})
    labels = {name: row.label for name, row in RUNS.items()}
    draw(found, labels, out / "curves.png")
    sheet(found, labels, PairedFolder(folders.validation_rainy, folders.validation_clean), out)
    print(summary(found, labels), table(found, labels), sep="\n\n")
    if chosen.json:
        chosen.json.write_text(json.dumps(figures(found), indent=2) + "\n")


if __name__ == "__main__":
    main()
