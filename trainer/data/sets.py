"""The data sets of the deraining literature: what they are, how they are measured, where they come from.

Counts are those of the literature, layouts and licences those of the authors' pages and repositories, or of
loaders that others have published; where none was found, that is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class KnownSet:
    """A data set of the literature."""

    name: str
    protocol: Literal["A", "B"]
    """How its figures are measured; see evaluation.py."""
    paper: str
    aliases: tuple[str, ...] = ()
    paired: bool = True
    """Whether there is a ground truth."""
    beside: bool = False
    """Whether it is published as pictures of both, side by side."""
    mixed: bool = False
    """Whether rainy images and truths lie in the same folders, told apart by their names."""
    tested: bool = True
    """Whether it has test pairs of its own."""
    inside: tuple[str, str] | None = None
    """The folder that it is in, and its own folder there, where it is a part of another set."""
    numbers: tuple[int, int] | None = None
    """First and last number of the test images, where they are in one folder with those for training."""
    train: int | None = None
    """Rainy images for training; None where it is not known."""
    test: int | None = None
    """Rainy images for testing."""
    layout: str = ""
    """Folders and names as downloaded: rainy images, their truths."""
    pairing: str = "the same name"
    """Which truth a rainy image has."""
    licence: str = "none found"
    source: str = "not found"
    """Where it can be had."""


_YANG = "Yang et al., Deep Joint Rain Detection and Removal from a Single Image, CVPR 2017"
_ZHANG = "Zhang et al., Image De-raining Using a Conditional GAN, TCSVT 2019"
_JIANG = "Jiang et al., Multi-Scale Progressive Fusion Network for Single Image Deraining, CVPR 2020"
_REALRAIN = (
    "Li et al., Toward Real-world Single Image Deraining: A New Benchmark and Beyond, arXiv 2206.05514"
)
_NIGHT = (
    "Zhang et al., GTAV-NightRain: Photometric Realistic Large-scale Dataset for Night-time Rain Streak "
    "Removal, arXiv 2210.04708"
)
_YANGS_PAGE = "http://www.icst.pku.edu.cn/struct/Projects/joint_rain_removal.html"
_RESTORMER = "https://github.com/swz30/Restormer"
_REALRAINS = "https://github.com/hiker-lw/RealRain-1k"
_USUAL = "SPLIT/input/NAME, SPLIT/target/NAME"
_RAIN100 = "rain-001 and norain-001"
_RAIN200 = "norain-1x2 and norain-1"

KNOWN_SETS: tuple[KnownSet, ...] = (
    KnownSet(
        "Rain100L",
        "A",
        _YANG,
        ("RainTrainL",),
        train=200,
        test=100,
        layout="rainy/rain-001.png, norain-001.png; RainTrainL/rain-1.png, norain-1.png",
        pairing=_RAIN100,
        source=_YANGS_PAGE,
    ),
    KnownSet(
        "Rain100H",
        "A",
        _YANG,
        ("RainTrainH",),
        train=1800,
        test=100,
        layout="rainy/rain-001.png, norain-001.png; RainTrainH/rain-1.png, norain-1.png",
        pairing=_RAIN100,
        source=_YANGS_PAGE,
    ),
    KnownSet(
        "Rain200L",
        "A",
        _YANG,
        train=1800,
        test=200,
        layout="SPLIT/rain/X2/norain-1x2.png, SPLIT/norain/norain-1.png",
        pairing=_RAIN200,
        source=_YANGS_PAGE,
    ),
    KnownSet(
        "Rain200H",
        "A",
        _YANG,
        train=1800,
        test=200,
        layout="SPLIT/rain/X2/norain-1x2.png, SPLIT/norain/norain-1.png",
        pairing=_RAIN200,
        source=_YANGS_PAGE,
    ),
    KnownSet(
        "Rain12",
        "A",
        "Li et al., Rain Streak Removal Using Layer Priors, CVPR 2016",
        train=0,
        test=12,
        layout="001_in.png, 001_GT.png",
        pairing="001_in and 001_GT",
        source="http://yu-li.github.io/paper/li_cvpr16_rain.zip",
    ),
    KnownSet(
        "Rain800",
        "A",
        _ZHANG,
        beside=True,
        train=700,
        test=100,
        layout="training/1.jpg, test_syn/1.jpg: both sides in one picture",
        pairing="halves of one picture",
        source="https://github.com/hezhangsprinter/ID-CGAN",
    ),
    KnownSet("Rain13K", "A", _JIANG, tested=False, train=13712, test=0, layout=_USUAL, source=_RESTORMER),
    KnownSet("Test100", "A", _ZHANG, train=0, test=100, layout=_USUAL, source=_RESTORMER),
    KnownSet(
        "Test1200",
        "A",
        "Zhang and Patel, CVPR 2018, as in Rain13K",
        train=0,
        test=1200,
        layout=_USUAL,
        source=_RESTORMER,
    ),
    KnownSet(
        "Test2800",
        "A",
        "Fu et al., CVPR 2017, as in Rain13K",
        ("Rain2800",),
        train=0,
        test=2800,
        layout=_USUAL,
        pairing="901_1 and 901_1, or 901",
        source=_RESTORMER,
    ),
    KnownSet(
        "DDN-Data",
        "B",
        "Fu et al., Removing Rain from Single Images via a Deep Detail Network, CVPR 2017",
        ("DDN", "Rain1400"),
        train=12600,
        test=1400,
        layout="training/rainy_image/1_1.jpg, ground_truth/1.jpg; testing/ the same",
        pairing="901_1 to 901_14 have the truth 901",
        source="https://xueyangfu.github.io/projects/cvpr2017.html",
    ),
    KnownSet(
        "DID-Data",
        "B",
        "Zhang and Patel, Density-aware Single Image De-raining using a Multi-stream Dense "
        "Network, CVPR 2018",
        ("DID", "DID-MDN", "Rain1200"),
        beside=True,
        train=12000,
        test=1200,
        layout="DID-MDN-training/Rain_Heavy/train2018new/1.jpg and so on: both sides in one picture",
        pairing="halves of one picture",
        source="https://github.com/hezhangsprinter/DID-MDN",
    ),
    KnownSet(
        "SPA-Data",
        "A",
        "Wang et al., Spatial Attentive Single-Image Deraining with a High Quality "
        "Real Rain Dataset, CVPR 2019",
        ("SPA", "SPA-Dataset", "SPANet", "real_test_1000"),
        train=28500,
        test=1000,
        layout="real_world/000/000-F/000-F_X_Y.png, real_world_gt/; real_test_1000/rain/000.png, "
        "real_test_1000/gt/000gt.png",
        pairing="000 and 000gt; frames 000-1_0_0, 000-2_0_0 and so on have the truth 000",
        licence="redistribution with the authors' notice (License.txt)",
        source="https://stevewongv.github.io/derain-project.html",
    ),
    KnownSet("RealRain-1k-L", "A", _REALRAIN, layout=f"{_USUAL}; 1120 pairs in all", source=_REALRAINS),
    KnownSet("RealRain-1k-H", "A", _REALRAIN, layout=f"{_USUAL}; 1120 pairs in all", source=_REALRAINS),
    KnownSet(
        "HQ-RAIN",
        "A",
        "Chen et al., Towards Unified Deep Image Deraining: A Survey and A New Benchmark, arXiv 2310.03535",
        train=4500,
        test=500,
        layout="not found; the usual folders are looked for",
        licence="for research only",
        source="https://github.com/cschenxiang/HQ-RAIN",
    ),
    KnownSet(
        "GT-RAIN",
        "A",
        "Ba et al., Not Just Streaks: Towards Ground Truth for Single Image Deraining, ECCV 2022",
        mixed=True,
        train=26124,
        test=2100,
        layout="GT-RAIN_train/SCENE/NAME-R-000.png, NAME-C-000.png; GT-RAIN_val/, GT-RAIN_test/ the same",
        pairing="NAME-R-001 and NAME-C-001, or NAME-C-000 where a scene has one truth",
        licence="for research only",
        source="https://github.com/UCLA-VMG/GT-RAIN",
    ),
    KnownSet(
        "GTAV-NightRain",
        "A",
        "Zhang et al., Learning Rain Location Prior for Nighttime Deraining, ICCV 2023",
        train=5000,
        test=500,
        layout="train/rainy/0000_00.png, train/gt/0000.png; test/ the same",
        pairing="0000_00 to 0000_09 have the truth 0000",
        source="https://www.kaggle.com/datasets/zkawfanx/gtav-nightrain-rerendered-version",
    ),
    *(
        KnownSet(
            f"GTAV-NightRain-{part}",
            "A",
            _NIGHT,
            inside=("GTAV-NightRain", part),
            train=train,
            test=test,
            layout=f"GTAV-NightRain/{part}/{folders}/0000_00.png, GT/0000.png; the same in Test/",
            pairing="0000_00 to 0000_09 have the truth 0000",
            licence="CC BY-NC-SA 4.0",
            source="https://zenodo.org/record/6638011",
        )
        for part, folders, train, test in (
            ("set1", "Train/Rainy", 5000, 500),
            ("set2", "Train/Rainy", 5000, 500),
            ("set3", "Test/Rainy", 0, 186),  # the other images of set3 are of the same scenes
        )
    ),
    KnownSet(
        "Night-Rain",
        "A",
        "so named in arXiv 2605.00719, which does not say what it is here; GTAV-NightRain may be meant",
        layout="not found; the usual folders are looked for",
    ),
    KnownSet(
        "SIRR",
        "A",
        "Wei et al., Semi-supervised Transfer Learning for Image Rain Removal, CVPR 2019",
        ("Real147",),
        paired=False,
        train=147,
        test=0,
        layout="rainy/NAME, or images alone",
        pairing="no ground truth",
        source="https://github.com/wwzjer/Semi-supervised-IRR",
    ),
    KnownSet(
        "Real3000",
        "A",
        "Liu et al., Unpaired Learning for Deep Image Deraining with Rain Direction Regularizer, ICCV 2021",
        paired=False,
        numbers=(1705, 2004),
        train=2700,
        test=300,
        layout="real3000/1.png to 3000.png",
        pairing="no ground truth; 1705 to 2004 are for testing",
        source="https://github.com/Yueziyu/RainDirection-and-Real3000-Dataset",
    ),
)
