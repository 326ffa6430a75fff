"""How scorers order the derained candidates of real runs, whose truth is known.

    python benchmarks/scorer_quality.py DATA --records RUN/record ... [--domain rain100l] [--baselines DIR]
        [--quick] [--json F]

DATA and the domain are those of `python -m trainer.ablation`; records are what `recycling.record` wrote in
runs on its rainy images (its `--record`). For each scorer, over the candidates that one run made of one
image:

spearman      rank correlation with the true PSNR-Y, and with SSIM-Y, mean over images
pairs         share of the pairs at least 0.5 dB apart that are ordered rightly
regret        dB that the highest score lies below the best candidate: what the pool loses by this scorer
mean of 3     the same for the mean of the three highest; below 0 where it is better than the best single one
minimum       the same for the minimum of the three highest and the rainy image, pixel by pixel

"consensus" is how near a candidate is to the mean of all that its run made of the image. Scores are kept in
--out, and not computed anew.
"""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
from pages import fill, parser, report
from pages import table as markdown
from rich.progress import track
from scipy import stats

from iqa_service.errors import ScorerError
from iqa_service.registry import open_scorer
from iqa_service.scorers.base import Candidate
from rgsud_core.files import writing
from rgsud_core.images import Image
from trainer.ablation.runs import domain
from trainer.data.folders import ImageFolder
from trainer.recycling.candidate_log import read_candidates
from trainer.recycling.rewards import combine
from trainer.restore.evaluation import psnr_y, ssim_y

SCORERS = {
    "daclip-lite, tiles": "local:daclip-lite",
    "daclip-lite, tiles, consistency 1": "local:daclip-lite?consistency=1",
    "consistency alone": "local:random?consistency=1000",
    "daclip-lite, centre": "local:daclip-lite?views=centre",
    "daclip-lite, P('rainy') alone": "local:daclip-lite?words=rainy",
    "daclip-lite, rain-like words": "local:daclip-lite?words=rain-like",
    "NIQE": "local:niqe?weights={baselines}/niqe_pris_params.npz",
    "random": "local:random",
    "latest": "local:latest",
    "consensus": "",
    "oracle (true PSNR)": "local:oracle?truth={truth}",
}
CLEAR = 0.5
"""Smallest difference, in dB, of two candidates whose order counts."""


@dataclass(frozen=True)
class Version:
    """One candidate: a derained version of a photograph."""

    group: str
    """Versions of one group are ordered among each other."""
    id: str
    name: str
    rainy: Callable[[], Image]
    truth: Callable[[], Image]
    image: Callable[[], Image]

    @property
    def key(self) -> str:
        return f"{self.group}|{self.name}"


def real(records: list[Path], rainy: ImageFolder, truth: ImageFolder) -> Iterator[Version]:
    """Every candidate of the runs."""
    for folder in records:
        run = folder.parent.parent.name + "/" + folder.parent.name
        for item in read_candidates(folder):
            yield Version(
                group=f"{run}|{item.id}",
                id=item.id,
                name=f"{item.lineage.step:09d}",
                rainy=lambda id=item.id: rainy.load_id(id),  # type: ignore[misc]
                truth=lambda id=item.id: truth.load_id(id),  # type: ignore[misc]
                image=item.image,
            )


def to_uint8(pixels: np.ndarray) -> Image:
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)


def groups(versions: list[Version]) -> list[list[Version]]:
    """Versions that are ordered among each other."""
    found: dict[str, list[Version]] = {}
    for version in versions:
        found.setdefault(version.group, []).append(version)
    return list(found.values())


@dataclass(frozen=True)
class Judged:
    """The scores of one scorer, beside the truth."""

    versions: list[Version]
    scores: dict[str, float]
    psnr: dict[str, float]
    ssim: dict[str, float]

    @cached_property
    def groups(self) -> list[list[Version]]:
        return groups(self.versions)

    def spearman(self, truth: dict[str, float]) -> float:
        each = [
            stats.spearmanr([self.scores[v.key] for v in group], [truth[v.key] for v in group]).statistic
            for group in self.groups
        ]
        return float(np.nanmean(each))

    def pairs(self) -> float:
        right = [
            (self.scores[a.key] > self.scores[b.key]) == (self.psnr[a.key] > self.psnr[b.key])
            for group in self.groups
            for a, b in combinations(group, 2)
            if abs(self.psnr[a.key] - self.psnr[b.key]) >= CLEAR
        ]
        return statistics.fmean(right)

    def ranked(self, group: list[Version]) -> list[Version]:
        return sorted(group, key=lambda version: -self.scores[version.key])

    def regret(self, serve: Callable[[list[Version]], Image] | None = None) -> float:
        """dB below the best version: of the highest score's, or of what is served for the ranked versions."""
        lost = []
        for group in self.groups:
            best = max(self.psnr[version.key] for version in group)
            ranked = self.ranked(group)
            served = psnr_y(serve(ranked), ranked[0].truth()) if serve else self.psnr[ranked[0].key]
            lost.append(best - served)
        return statistics.fmean(lost)


def mean_of_all(versions: list[Version]) -> Image:
    return to_uint8(combine([version.image() for version in versions], "mean"))


def mean_of_3(ranked: list[Version]) -> Image:
    return mean_of_all(ranked[:3])


def minimum_of_3(ranked: list[Version]) -> Image:
    return to_uint8(combine([*(version.image() for version in ranked[:3]), ranked[0].rainy()], "minimum"))


def scored(spec: str, versions: list[Version], cache: Path) -> dict[str, float]:
    """Scores in the order of the versions, from the cache where the fingerprint is the same."""
    scorer = open_scorer(spec)
    known: dict[str, float] = {}
    if cache.exists():
        kept = json.loads(cache.read_text())
        known = kept["scores"] if kept["fingerprint"] == scorer.fingerprint else {}
    missing = [version for version in versions if version.key not in known]
    for start in track(range(0, len(missing), 8), spec, disable=not missing):
        some = missing[start : start + 8]
        candidates = [Candidate(v.id, v.image(), v.rainy()) for v in some]
        values = scorer.score(candidates)
        known |= {v.key: float(value) for v, value in zip(some, values, strict=True)}
    scorer.close()
    with writing(cache) as partial:
        partial.write_text(json.dumps({"fingerprint": scorer.fingerprint, "scores": known}))
    return known


def consensus(versions: list[Version]) -> dict[str, float]:
    """How near each version is to the mean of its group, PSNR-Y in dB; no scorer."""
    scores: dict[str, float] = {}
    for group in track(groups(versions), "consensus"):
        mean = mean_of_all(group)
        scores |= {version.key: psnr_y(version.image(), mean) for version in group}
    return scores


def qualities(versions: list[Version], cache: Path) -> tuple[dict[str, float], dict[str, float]]:
    """True PSNR-Y (at most 100 dB) and SSIM-Y."""
    known: dict[str, list[float]] = json.loads(cache.read_text()) if cache.exists() else {}
    for version in track([v for v in versions if v.key not in known], "truth"):
        image, truth = version.image(), version.truth()
        known[version.key] = [min(psnr_y(image, truth), 100.0), ssim_y(image, truth)]
    with writing(cache) as partial:
        partial.write_text(json.dumps(known))
    return {key: value[0] for key, value in known.items()}, {key: value[1] for key, value in known.items()}


def judge(candidates: Judged) -> dict[str, float]:
    """The figures of one scorer."""
    return {
        "spearman_psnr": candidates.spearman(candidates.psnr),
        "spearman_ssim": candidates.spearman(candidates.ssim),
        "pair_accuracy": candidates.pairs(),
        "regret_db": candidates.regret(),
        "regret_mean_of_3_db": candidates.regret(mean_of_3),
        "regret_minimum_of_3_db": candidates.regret(minimum_of_3),
    }


COLUMNS = {
    "spearman_psnr": "Spearman, PSNR-Y",
    "spearman_ssim": "Spearman, SSIM-Y",
    "pair_accuracy": "pairs",
    "regret_db": "regret, dB",
    "regret_mean_of_3_db": "mean of 3, dB",
    "regret_minimum_of_3_db": "minimum, dB",
}


def table(results: dict[str, dict[str, float]]) -> str:
    """Markdown, a line for each scorer."""
    cells = [[name, *(f"{figures[key]:.2f}" for key in COLUMNS)] for name, figures in results.items()]
    return markdown(["scorer", *COLUMNS.values()], cells)


def main() -> None:
    """Score, judge, write the page."""
    options = parser(__doc__)
    options.add_argument("data", type=Path)
    options.add_argument("--records", type=Path, nargs="+", required=True)
    options.add_argument("--domain", choices=["rain100l", "roadscene"], default="rain100l")
    options.add_argument("--scorers", nargs="*", choices=list(SCORERS), default=list(SCORERS))
    options.add_argument(
        "--also", nargs="*", default=[], metavar="SPEC", help="further scorers, by their strings"
    )
    options.add_argument("--baselines", type=Path, help="folder of weights of published metrics")
    options.add_argument("--out", type=Path, default=Path("runs/scorer-quality"), help="page and scores")
    options.add_argument("--images", type=int, default=25, help="photographs of each record, evenly chosen")
    chosen = options.parse_args()

    folders = domain(chosen.domain, chosen.data, chosen.out)
    candidates = list(real(chosen.records, ImageFolder(folders.rainy), ImageFolder(folders.truth)))
    ids = sorted({version.id for version in candidates})
    count = 4 if chosen.quick else min(chosen.images, len(ids))
    few = {ids[index * len(ids) // count] for index in range(count)}
    candidates = [version for version in candidates if version.id in few]
    # A group of one has no order.
    counts = {group: sum(v.group == group for v in candidates) for group in {v.group for v in candidates}}
    candidates = [version for version in candidates if counts[version.group] > 1]
    psnr, ssim = qualities(candidates, chosen.out / "truth.json")

    results = {}
    for name in [*chosen.scorers, *chosen.also]:
        spec = SCORERS.get(name, name)
        if "{baselines}" in spec and (chosen.baselines is None or chosen.quick):
            continue
        spec = spec.format(baselines=chosen.baselines, truth=folders.truth)
        slug = "".join(c if c.isalnum() else "-" for c in name)
        try:
            scores = (
                consensus(candidates)
                if name == "consensus"
                else scored(spec, candidates, chosen.out / f"{slug}.json")
            )
        except ScorerError as problem:
            print(f"left out: {name}: {problem}")
            continue
        results[name] = judge(Judged(candidates, scores, psnr, ssim))
        print(f"{name:40} " + "  ".join(f"{key} {value:.2f}" for key, value in results[name].items()))

    truth = Judged(candidates, psnr, psnr, ssim)
    spread = [max(psnr[v.key] for v in group) - min(psnr[v.key] for v in group) for group in truth.groups]
    fill(
        "scorer_quality.md",
        chosen.out / "scorer_quality.md",
        count=len(candidates),
        runs=", ".join(f"{path.parent.parent.name}/{path.parent.name}" for path in chosen.records),
        groups=len(truth.groups),
        spread=statistics.fmean(spread),
        machine=platform.machine(),
        python=platform.python_version(),
        table=table(results),
        mean=truth.regret(mean_of_all),
    )
    print(table(results))
    flat = {
        f"{''.join(c if c.isalnum() else '_' for c in name)}_{key}": value
        for name, figures in results.items()
        for key, value in figures.items()
    }
    report(flat, chosen.json)


if __name__ == "__main__":
    main()
