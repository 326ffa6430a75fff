"""How scorers order the derained candidates of real runs, whose truth is known.

    python benchmarks/scorer_quality.py DATA --records RUN/record ... [--domain rain100l] [--baselines DIR]
        [--by-tile] [--quick] [--json F]

DATA and the domain are those of `python -m trainer.ablation`; records are what `recycling.record` wrote in
runs on its rainy images (its `--record`). Constructed versions come from the latter. Nothing
here has been trained on. For each scorer, over the candidates that one run made of one image:

spearman      rank correlation with the true PSNR-Y, and with SSIM-Y, mean over images
pairs         share of the pairs at least 0.5 dB apart that are ordered rightly
regret        dB that the highest score lies below the best candidate: what the pool loses by this scorer
mean of 3     the same for the mean of the three highest; below 0 where it is better than the best single one
minimum       the same for the minimum of the three highest and the rainy image, pixel by pixel
by tile       the same for the best of the three highest in each place, by the scores of its tiles, blended;
              and for the minimum of that and the rainy image (--by-tile: takes long)

and over constructed versions of one photograph (blends of rainy and clean, blurred, smoothed, noisy, too
sharp, of another colour, with ghosts of edges) the first two again, and the share of (sharp, smeared) pairs
in which the sharp one wins. "consensus" is how near a candidate is to the mean of all that its run made of
the image. Scores are kept in --out, and not computed anew.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
from pages import fill
from pages import table as markdown
from rich.progress import track
from scipy import ndimage, stats
from scorer_quality_versions import Version, constructed, real, to_uint8

from iqa_service.errors import ScorerError
from iqa_service.heatmap import tile_scores
from iqa_service.registry import open_scorer
from iqa_service.scorers.base import Candidate, ScoreBackend
from rgsud_core.files import writing
from rgsud_core.images import Image
from trainer.ablation.runs import domain
from trainer.data.folders import ImageFolder
from trainer.data.pairing import PairedFolder
from trainer.recycling.rewards import combine
from trainer.restore.evaluation import psnr_y, ssim_y

matplotlib.use("Agg")
import matplotlib.pyplot as plt

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
BLEND = 0.1
"""Log-odds between two candidates' tiles at which the better one has 2.7 times the other's weight."""
CLEAR = 0.5
"""Smallest difference, in dB, of two candidates whose order counts."""
OF_RUNS = ("latest", "consensus")
"""Scorers that can be applied to candidates of runs only, not to constructed versions."""


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


def by_tile(ranked: list[Version], field: Callable[[Version], np.ndarray]) -> Image:
    """The three highest, weighed in each place by the field H,W of log-odds that each has."""
    fields = np.stack([field(version) for version in ranked[:3]])
    weights = np.exp((fields - fields.max(axis=0)) / BLEND)
    images = np.stack([version.image() for version in ranked[:3]])
    return to_uint8((weights[..., None] * images).sum(axis=0) / weights.sum(axis=0)[..., None])


def truth_of_tiles(version: Version) -> np.ndarray:
    """The score of a perfect scorer at each place: its PSNR, dB."""
    error = np.square(version.image().astype(np.float32) - version.truth()).mean(axis=2)
    return -10 * np.log10(ndimage.uniform_filter(error, 64) + 1e-3)


def fields_of(scorer: ScoreBackend) -> Callable[[Version], np.ndarray]:
    """A scorer's log-odds at each place of a version."""
    return lambda version: tile_scores(scorer, Candidate(version.id, version.image(), version.rainy()))


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


def judge(
    name: str,
    candidates: Judged,
    made: Judged,
    contests: list[tuple[Version, Version]],
    field: Callable[[Version], np.ndarray] | None,
) -> dict[str, float]:
    """The figures of one scorer."""
    figures = {
        "spearman_psnr": candidates.spearman(candidates.psnr),
        "spearman_ssim": candidates.spearman(candidates.ssim),
        "pair_accuracy": candidates.pairs(),
        "regret_db": candidates.regret(),
        "regret_mean_of_3_db": candidates.regret(mean_of_3),
        "regret_minimum_of_3_db": candidates.regret(minimum_of_3),
    }
    if field is not None:

        def best(ranked: list[Version]) -> Image:
            return by_tile(ranked, field)

        def darkest(ranked: list[Version]) -> Image:
            return to_uint8(combine([best(ranked), ranked[0].rainy()], "minimum"))

        figures |= {
            "regret_by_tile_db": candidates.regret(best),
            "regret_by_tile_minimum_db": candidates.regret(darkest),
        }
    if name not in OF_RUNS:
        figures |= {
            "constructed_spearman_psnr": made.spearman(made.psnr),
            "constructed_pair_accuracy": made.pairs(),
            "sharp_over_smeared": statistics.fmean(
                made.scores[sharp.key] > made.scores[smear.key] for sharp, smear in contests
            ),
        }
    return figures


COLUMNS = {
    "spearman_psnr": "Spearman, PSNR-Y",
    "spearman_ssim": "Spearman, SSIM-Y",
    "pair_accuracy": "pairs",
    "regret_db": "regret, dB",
    "regret_mean_of_3_db": "mean of 3, dB",
    "regret_minimum_of_3_db": "minimum, dB",
    "regret_by_tile_db": "by tile, dB",
    "regret_by_tile_minimum_db": "by tile, minimum, dB",
    "constructed_spearman_psnr": "constructed: Spearman",
    "constructed_pair_accuracy": "constructed: pairs",
    "sharp_over_smeared": "sharp over smeared",
}


def table(results: dict[str, dict[str, float]]) -> str:
    """Markdown, a line for each scorer."""
    columns = {key: head for key, head in COLUMNS.items() if any(key in one for one in results.values())}
    cells = [
        [name, *(f"{figures[key]:.2f}" if key in figures else "" for key in columns)]
        for name, figures in results.items()
    ]
    return markdown(["scorer", *columns.values()], cells)


def draw(judged: dict[str, Judged], path: Path) -> None:
    """Each scorer's scores against the true PSNR, both less their mean over the candidates of the image."""
    columns = min(4, len(judged))
    rows = math.ceil(len(judged) / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.6 * columns, 3.4 * rows), squeeze=False, constrained_layout=True
    )
    for axis in axes.flat[len(judged) :]:
        axis.set_visible(False)
    for axis, (name, one) in zip(axes.flat, judged.items(), strict=False):
        for run in sorted({group[0].group.partition("|")[0] for group in one.groups}):
            x, y = [], []
            for group in one.groups:
                if group[0].group.startswith(f"{run}|"):
                    psnr = np.array([one.psnr[v.key] for v in group])
                    score = np.array([one.scores[v.key] for v in group])
                    x.extend(psnr - psnr.mean())
                    y.extend(score - score.mean())
            axis.scatter(x, y, s=3, alpha=0.4, label=run, linewidths=0)
        axis.set_title(f"{name}\nSpearman {one.spearman(one.psnr):.2f}", fontsize=9)
        axis.set(xlabel="true PSNR-Y less the image's mean, dB", ylabel="score less the image's mean")
        axis.label_outer()
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=7, markerscale=3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Score, judge, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--records", type=Path, nargs="+", required=True)
    parser.add_argument("--domain", choices=["rain100l", "roadscene"], default="rain100l")
    parser.add_argument("--by-tile", action="store_true", help="what the best by tile would give")
    parser.add_argument("--scorers", nargs="*", choices=list(SCORERS), default=list(SCORERS))
    parser.add_argument(
        "--also", nargs="*", default=[], metavar="SPEC", help="further scorers, by their strings"
    )
    parser.add_argument("--baselines", type=Path, help="folder of weights of published metrics")
    parser.add_argument("--out", type=Path, default=Path("runs/scorer-quality"), help="page, plot and scores")
    parser.add_argument("--images", type=int, default=25, help="photographs of each record, evenly chosen")
    parser.add_argument("--quick", action="store_true", help="4 images, no published metrics")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()

    folders = domain(chosen.domain, chosen.data, chosen.out)
    candidates = list(real(chosen.records, ImageFolder(folders.rainy), ImageFolder(folders.truth)))
    made, contests = constructed(PairedFolder(folders.validation_rainy, folders.validation_clean))
    ids = sorted({version.id for version in candidates})
    count = 4 if chosen.quick else min(chosen.images, len(ids))
    few = {ids[index * len(ids) // count] for index in range(count)}
    candidates = [version for version in candidates if version.id in few]
    if chosen.quick:
        shown = sorted({version.id for version in made})[:4]
        made = [version for version in made if version.id in shown]
        contests = [contest for contest in contests if contest[0].id in shown]
    # A group of one has no order.
    counts = {group: sum(v.group == group for v in candidates) for group in {v.group for v in candidates}}
    candidates = [version for version in candidates if counts[version.group] > 1]
    contestants = {version.key: version for version in [*made, *(v for pair in contests for v in pair)]}
    psnr, ssim = qualities([*candidates, *contestants.values()], chosen.out / "truth.json")

    results, judged = {}, {}
    for name in [*chosen.scorers, *chosen.also]:
        spec = SCORERS.get(name, name)
        if "{baselines}" in spec and (chosen.baselines is None or chosen.quick):
            continue
        spec = spec.format(baselines=chosen.baselines, truth=folders.truth)
        slug = "".join(c if c.isalnum() else "-" for c in name)
        of_made: dict[str, float] = {}
        try:
            scores = (
                consensus(candidates)
                if name == "consensus"
                else scored(spec, candidates, chosen.out / f"{slug}.json")
            )
            if name.startswith("oracle"):
                of_made = {key: psnr[key] for key in contestants}
            elif name not in OF_RUNS:
                of_made = scored(spec, list(contestants.values()), chosen.out / f"{slug}-constructed.json")
        except ScorerError as problem:
            print(f"left out: {name}: {problem}")
            continue
        judged[name] = Judged(candidates, scores, psnr, ssim)
        field: Callable[[Version], np.ndarray] | None = None
        if chosen.by_tile and name not in (*OF_RUNS, "random"):
            field = truth_of_tiles if name.startswith("oracle") else fields_of(open_scorer(spec))
        results[name] = judge(name, judged[name], Judged(made, of_made, psnr, ssim), contests, field)
        print(f"{name:40} " + "  ".join(f"{key} {value:.2f}" for key, value in results[name].items()))

    picture = chosen.out / "scorer_quality.png"
    draw(judged, picture)
    one = next(iter(judged.values()))
    spread = [max(psnr[v.key] for v in group) - min(psnr[v.key] for v in group) for group in one.groups]
    fill(
        "scorer_quality.md",
        chosen.out / "scorer_quality.md",
        count=len(candidates),
        runs=", ".join(f"{path.parent.parent.name}/{path.parent.name}" for path in chosen.records),
        groups=len(one.groups),
        spread=statistics.fmean(spread),
        machine=platform.machine(),
        python=platform.python_version(),
        table=table(results),
        picture=picture.name,
        mean=one.regret(mean_of_all),
    )
    print(table(results))
    if chosen.json:
        flat = {
            f"{''.join(c if c.isalnum() else '_' for c in name)}_{key}": value
            for name, figures in results.items()
            for key, value in figures.items()
        }
        chosen.json.write_text(json.dumps(flat, indent=2) + "\n")


if __name__ == "__main__":
    main()
