"""The command `rgsud`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from iqa_service.cli import score
from iqa_service.serving.cli import app as scorer_commands
from rgsud.pool_commands import app as pool_commands
from rgsud_core.errors import RgsudError
from trainer.errors import TrainerError
from trainer.launch.status import status
from trainer.launch.submit import submit

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Learn to remove rain from photographs without paired data.",
)
app.add_typer(pool_commands, name="pool")
app.add_typer(scorer_commands, name="scorer")
console = Console(stderr=True)
app.command()(score)
app.command()(submit)
app.command()(status)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, or the path of a .yaml file.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Settings to change: key.of.setting=value.")
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on from the run's newest checkpoint; begin where there is none.")
    ] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="Start from this checkpoint.")] = None,
) -> None:
    """Train a derainer by a recipe."""
    from trainer.config import load_config
    from trainer.launch.start import run

    config = load_config(recipe, settings)
    summary = run(config, resume=resume, checkpoint=checkpoint, console=console)
    gain = "" if summary.gain_db is None else f" PSNR-Y {summary.psnr_y:.2f} dB ({summary.gain_db:+.2f})."
    console.print(f"Trained for {summary.training_seconds:.0f} s.{gain} The derainer: {config.folder}/model")


@app.command()
def demo(
    settings: Annotated[
        list[str] | None, typer.Argument(help="Settings to change: key.of.setting=value.")
    ] = None,
) -> None:
    """Train for a few minutes on photographs that come with the packages, and show what was learned."""
    from trainer.config import load_config, read_config
    from trainer.data.demo import write_demo_data
    from trainer.data.folders import PairedFolder
    from trainer.launch.start import run
    from trainer.models.registry import load_derainer
    from trainer.restore.evaluation import compare, contact_sheet, evaluate_pairs
    from trainer.restore.inference import derain_image

    given = dict(setting.partition("=")[::2] for setting in settings or [])
    runs = Path(given.get("runs", "runs"))
    name = given.setdefault("name", "demo")
    data = write_demo_data(runs / "demo-data")
    earlier = runs / name
    if (earlier / "config.yaml").exists():
        if read_config(earlier).data.rainy.resolve() != data.rainy.resolve():
            raise TrainerError(f"{earlier} holds a run on other data: choose another name=...")
        shutil.rmtree(earlier)  # every demonstration starts afresh
    places = {
        "data.rainy": data.rainy,
        "data.clean": data.clean,
        "data.validation_rainy": data.validation_rainy,
        "data.validation_clean": data.validation_clean,
    }
    config = load_config("demo", [f"{key}={value}" for key, value in {**places, **given}.items()])
    summary = run(config, console=console)

    derainer = load_derainer(config.folder)
    pairs = PairedFolder(data.validation_rainy, data.validation_clean)
    measured = evaluate_pairs(lambda image: derain_image(derainer, image), pairs)
    sheet = config.folder / "demo.png"
    contact_sheet(compare(lambda image: derain_image(derainer, image), pairs, pairs.ids), sheet)
    out = Console()
    out.print(measured.table())
    pool = Table(title="Reward pool")
    for heading in ("rainy images with a reward", "offers accepted", "mean log-odds"):
        pool.add_column(heading, justify="right")
    log_odds = "" if summary.pool_mean_log_odds is None else f"{summary.pool_mean_log_odds:.2f}"
    pool.add_row(str(summary.pool_entries), f"{summary.pool_acceptance or 0:.0%}", log_odds)
    out.print(pool)
    out.print(f"{summary.gain_db:+.2f} dB after {summary.training_seconds:.0f} s of training, run '{name}'.")
    out.print(f"Rainy, derained, clean: {sheet}", soft_wrap=True)


@app.command()
def derain(
    model: Annotated[Path, typer.Argument(help="A run's folder, or a .safetensors file.")],
    source: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    target: Annotated[Path, typer.Argument(help="Where the result goes: a file or a folder.")],
    tile: Annotated[
        int | None, typer.Option(help="Side of the tiles in pixels; whole images by default.")
    ] = None,
    overlap: Annotated[int, typer.Option(help="Pixels that neighbouring tiles share.")] = 32,
) -> None:
    """Remove the rain from an image or from a folder of images."""
    from rich.progress import Progress

    from trainer.models.registry import load_derainer
    from trainer.restore.inference import derain_path

    with Progress(console=console) as bar:
        task = bar.add_task("Deraining", total=None)
        count = derain_path(
            load_derainer(model),
            source,
            target,
            tile=tile,
            overlap=overlap,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    console.print(f"{count} derained: {target}")


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A run's folder, or a .safetensors file.")],
    rainy: Annotated[Path, typer.Argument(help="Folder of rainy images; with --set that of data sets.")],
    clean: Annotated[
        Path | None, typer.Argument(help="Folder of their ground truth, by the same names.")
    ] = None,
    known: Annotated[
        str | None, typer.Option("--set", help="A data set of the literature, by its own protocol.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="A: rounded luma, the field's norm; B: DID-Data, DDN-Data.")
    ] = None,
    sheet: Annotated[Path, typer.Option(help="Where the contact sheet goes.")] = Path("evaluation.png"),
) -> None:
    """Measure a derainer on pairs: a table, and a contact sheet."""
    from rgsud_core.files import image_format
    from trainer.data.catalogue import find
    from trainer.data.folders import PairedFolder
    from trainer.models.registry import load_derainer
    from trainer.restore.evaluation import compare, contact_sheet, evaluate_pairs
    from trainer.restore.inference import derain_image

    if known is not None and clean is None:
        found = find(known, rainy)
        if found.test is None:
            raise TrainerError(f"{found.known.name} has no test pairs below {rainy}: give both folders.")
        (rainy, clean), protocol = found.test, protocol or found.known.protocol
    if clean is None:
        raise TrainerError("the ground truth is missing: give its folder too, or a data set's name as --set.")
    image_format(sheet)  # before the work
    protocol = protocol or "A"
    if protocol not in ("A", "B"):
        raise TrainerError(f"there is no protocol '{protocol}': A or B; RGB figures stand beside both.")
    derainer, pairs = load_derainer(model), PairedFolder(rainy, clean)
    results = {
        id: derain_image(derainer, pairs.load(index)[0])
        for index, id in enumerate(track(pairs.ids, "Deraining", console=console))
    }
    remaining = iter(results.values())
    measured = evaluate_pairs(lambda _: next(remaining), pairs, "B" if protocol == "B" else "A")
    Console().print(measured.table())
    shown = pairs.ids[:8]
    again = iter([results[id] for id in shown])
    contact_sheet(compare(lambda _: next(again), pairs, shown), sheet)
    console.print(f"Rainy, derained, clean: {sheet}")


@app.command()
def pretrain_scorer(
    photographs: Annotated[Path, typer.Argument(help="Folder of clean photographs.")],
    output: Annotated[Path, typer.Option(help="Where the weights go.")] = Path("daclip-lite.safetensors"),
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 4000,
    seed: Annotated[int, typer.Option(help="Of weights and degradations.")] = 0,
) -> None:
    """Train the compact scorer daclip-lite on degradations that it renders itself."""
    from rich.progress import Progress

    from iqa_service.pretraining.train import PretrainSettings, pretrain

    settings = PretrainSettings(photographs=photographs, output=output, steps=steps, seed=seed)
    with Progress(console=console) as bar:
        task = bar.add_task("Pretraining", total=steps)

        def show(step: int, losses: dict[str, float]) -> None:
            said = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
            bar.update(task, completed=step, description=said)

        written = pretrain(settings, show)
    console.print(
        f"The scorer: {written}. Use it with recycling.scorer='local:daclip?weights={written.resolve()}'",
        soft_wrap=True,
    )


def main() -> None:
    """Run the command; what is wrong is told in a sentence, with exit code 2 (130 after Ctrl-C)."""
    # On shared cores, OpenMP threads that spin for each other take the time from the one that works.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    try:
        code = app(standalone_mode=False)  # of a typer.Exit; Ctrl-C has become 130 by now
    except RgsudError as problem:
        console.print(f"[red]rgsud:[/red] {problem}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except typer.TyperException as problem:
        console.print(f"[red]rgsud:[/red] {problem.format_message()}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:
        console.print("[yellow]rgsud: interrupted; a training run has been saved, continue it with --resume.")
    if isinstance(code, int):
        sys.exit(code)
