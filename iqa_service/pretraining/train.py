"""Pretraining of daclip-lite, a compact DA-CLIP, on clean photographs and rendered degradations of them.

Two losses. The contrastive one of DA-CLIP ties each image to the word of its degradation ("clean" is an
eleventh word). The ranking one orders several derained versions of one photograph, imitated ones and those of
derainers in training, by their true PSNR: a classifier of clean and rainy does not learn that order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from iqa_service.errors import ScorerError
from iqa_service.pretraining.artefacts import imitate
from iqa_service.pretraining.degradations import DEGRADATIONS, as_taken
from iqa_service.pretraining.practice_derainers import PracticeDerainers
from iqa_service.scorers.daclip import WORDS, DaCLIP, Rule
from iqa_service.scorers.daclip_files import save_daclip
from iqa_service.scorers.daclip_iqa import log_odds
from rgsud_core.degradation.rendered import add_rain, random_look
from rgsud_core.images import Image, list_images, read_image
from rgsud_core.settings import Settings

LITE_RULE = Rule(words=(*WORDS, "clean"), degraded=WORDS, views="tiles")
Progress = Callable[[int, dict[str, float]], None]
"""Called with the step and the mean losses since the last call."""

_IMITATIONS, _DERAINED = 3, 3
_BEST = 50.0
"""dB above which differences are invisible; the PSNR of the clean photograph itself is set to this."""


class PretrainSettings(Settings):
    """Settings of the pretraining of daclip-lite."""

    photographs: Path
    """Folder of clean photographs, searched with its subfolders."""
    output: Path = Path("daclip-lite.safetensors")
    steps: int = Field(4000, ge=1)
    groups: int = Field(8, ge=1)
    """Photographs per step whose derained versions are ordered."""
    labelled: int = Field(22, ge=1)
    """Images per step that are matched with the word of their degradation."""
    learning_rate: float = Field(1e-3, gt=0)
    width: int = Field(96, ge=32, multiple_of=32)
    layers: int = Field(4, ge=1)
    tile: int = Field(64, ge=16, multiple_of=8)
    """Edge of a view, pixels."""
    patch: int = Field(8, ge=4)
    seed: int = 0
    workers: int = Field(1, ge=0)
    """Processes that render the images."""
    report_every: int = Field(50, ge=1)


def split_photographs(folder: Path) -> tuple[list[Path], list[Path]]:
    """The photographs in a folder to train on, and about one in eight, chosen by name, held out.

    Raises:
        FileError: the folder is missing or holds no image.
        ScorerError: all of its images are held out.
    """
    files = list_images(folder)
    held_out = [p for p in files if hashlib.sha256(p.stem.encode()).digest()[0] % 8 == 0]
    train = [p for p in files if p not in held_out]
    if not train:
        raise ScorerError(
            f"no photographs to train on in '{folder}': give a folder of more clean JPEG or PNG files"
        )
    return train, held_out


class _Rendered(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Step ``number``: groups G,K,3,C,C (clean, rainy, imitations), labelled L,3,S,S, their words L."""

    def __init__(self, settings: PretrainSettings) -> None:
        self.photographs = [
            PIL.Image.fromarray(read_image(path)) for path in split_photographs(settings.photographs)[0]
        ]
        self.settings = settings
        self.edge = settings.tile * 3 // 2 // 2 * 2

    def __len__(self) -> int:
        return self.settings.steps

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self.settings.seed, number])
        groups = []
        for _ in range(self.settings.groups):
            clean = self.crop(rng)
            wet = add_rain(clean, random_look(rng, rng.uniform(0.2, 1.5)), rng)
            groups.append(np.stack([clean, wet, *(imitate(clean, wet, rng) for _ in range(_IMITATIONS))]))
        words = (np.arange(self.settings.labelled) + number) % len(LITE_RULE.words)
        tile, margin = self.settings.tile, (self.edge - self.settings.tile) // 2
        middle = slice(margin, margin + tile)
        images = [self._labelled(LITE_RULE.words[word], rng)[middle, middle] for word in words]
        return (
            torch.from_numpy(np.stack(groups)).permute(0, 1, 4, 2, 3),
            torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
            torch.from_numpy(words),
        )

    def _labelled(self, word: str, rng: np.random.Generator) -> Image:
        crop = self.crop(rng)
        return DEGRADATIONS[word](crop, rng) if word in DEGRADATIONS else crop

    def crop(self, rng: np.random.Generator) -> Image:
        """A square of a photograph, shrunk, preferably one with contrast."""
        crop = np.zeros((0,), np.uint8)
        for _ in range(4):
            photograph = self.photographs[int(rng.integers(len(self.photographs)))]
            # Shrunk as far as a photograph of common test sets is: full-size ones are soft at pixel level.
            shrunk = rng.uniform(0.3, 0.9)
            size = min(self.edge / shrunk, *photograph.size)
            left, top = (rng.uniform(0, length - size) for length in photograph.size)
            box = (left, top, left + size, top + size)
            crop = np.asarray(photograph.resize((self.edge, self.edge), PIL.Image.Resampling.BICUBIC, box))
            if crop.std() > 12:
                break
        return as_taken(crop[:, ::-1] if rng.uniform() < 0.5 else crop, rng)


def contrastive_loss(logits: Tensor, words: Tensor) -> Tensor:
    """DA-CLIP's two-sided InfoNCE where several images of a batch may share a word.

    Args:
        logits: N,W of images over words.
        words: int64 N, the word of each image.
    """
    shown = torch.unique(words)
    belongs = (words[:, None] == shown).float()
    to_word = nn.functional.cross_entropy(logits, words)
    to_image = nn.functional.cross_entropy(logits[:, shown].T, (belongs / belongs.sum(dim=0)).T)
    return (to_word + to_image) / 2


def ranking_loss(scores: Tensor, quality: Tensor) -> Tensor:
    """RankNet (Burges et al., ICML 2005) within each group, pairs weighted by their distance up to 3 dB.

    Args:
        scores: G,K log-odds.
        quality: G,K true PSNR, dB.
    """
    gap = quality[:, :, None] - quality[:, None, :]
    weight = gap.clamp(0, 3)
    losses = nn.functional.softplus(scores[:, None, :] - scores[:, :, None])
    return (losses * weight).sum() / weight.sum().clamp(min=1e-6)


def pretrain(settings: PretrainSettings, progress: Progress | None = None) -> Path:
    """Train daclip-lite and write it.

    Returns:
        The file written, for ``local:daclip?weights=``.

    Raises:
        ScorerError: no photographs, or one that cannot be read.
    """
    torch.manual_seed(settings.seed)
    data = _Rendered(settings)
    model = DaCLIP(_config(settings), image_tower=False)
    # Eleven words use some twenty of its rows, for which random embeddings serve as well.
    model.clip.token_embedding.weight.requires_grad_(False)
    model.visual_control.conv1.weight.data = _whitening(data, model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1]
    rest = [p for p in parameters if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
    )
    warm_up = min(100, settings.steps // 5 + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda n: min((n + 1) / warm_up, (1 + math.cos(math.pi * min(1, n / settings.steps))) / 2 + 1e-3),
    )
    derainers = PracticeDerainers(6, max(2, settings.steps // 15), np.random.default_rng(settings.seed))
    degraded = torch.tensor([word in LITE_RULE.degraded for word in LITE_RULE.words])
    tokens = model.tokenize(LITE_RULE.words)
    means: dict[str, list[float]] = {"contrastive": [], "ranking": []}
    # The loader gives each worker one torch thread; scipy and PIL use one anyway.
    loader = DataLoader(data, batch_size=None, num_workers=settings.workers)
    for number, (groups, labelled, words) in enumerate(loader, start=1):
        groups = _with_derained(groups, derainers)
        tiles = _cut(groups, settings.tile)
        error = (tiles.float() - tiles[:, :1].float()).square().mean(dim=(2, 3, 4))
        quality = (10 * torch.log10(255**2 / error.clamp(min=1e-3))).clamp(max=_BEST)
        pixels = model.normalise(torch.cat([tiles.flatten(0, 1), labelled]))
        text = nn.functional.normalize(model.encode_text(tokens), dim=-1)
        logits = model.degradation_logits(model.encode_degradation(pixels), text)
        of_groups, of_labelled = logits[: -len(labelled)], logits[-len(labelled) :]
        ranking = ranking_loss(log_odds(of_groups, degraded).view(tiles.shape[:2]), quality)
        contrastive = contrastive_loss(of_labelled, words)
        optimiser.zero_grad()
        (ranking + contrastive).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        means["contrastive"].append(contrastive.item())
        means["ranking"].append(ranking.item())
        if progress is not None and (number % settings.report_every == 0 or number == settings.steps):
            progress(number, {name: float(np.mean(values)) for name, values in means.items()})
            for values in means.values():
                values.clear()
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    save_daclip(model, LITE_RULE, settings.output)
    return settings.output


def _config(settings: PretrainSettings) -> dict[str, object]:
    vision = {
        "image_size": settings.tile,
        "patch_size": settings.patch,
        "width": settings.width,
        "layers": settings.layers,
        "head_width": 32,
    }
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1}
    return {"embed_dim": 64, "vision_cfg": vision, "text_cfg": text}


def _whitening(data: _Rendered, model: DaCLIP) -> Tensor:
    """Patch embedding W,3,P,P that gives the principal components of clean patches equal variance.

    Rain, blur and noise are small beside the content of a patch; without whitening they are learnt late.
    """
    rng = np.random.default_rng(data.settings.seed)
    crops = np.stack([data.crop(rng) for _ in range(200)])
    pixels = model.normalise(torch.from_numpy(crops).permute(0, 3, 1, 2))
    patch = data.settings.patch
    patches = nn.functional.unfold(pixels, patch, stride=patch).transpose(1, 2).flatten(0, 1)
    variance, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
    kept = directions[:, -data.settings.width :] / (variance[-data.settings.width :] + 1e-4).sqrt()
    filters: Tensor = kept.T.reshape(-1, 3, patch, patch).contiguous()
    return filters


def _with_derained(groups: Tensor, derainers: PracticeDerainers) -> Tensor:
    clean, wet = groups[:, 0].float() / 255, groups[:, 1].float() / 255
    derainers.train(clean, wet)
    derained = [(255 * derainers.derain(wet)).round().byte() for _ in range(_DERAINED)]
    return torch.cat([groups, torch.stack(derained, dim=1)], dim=1)


def _cut(groups: Tensor, tile: int) -> Tensor:
    """The middle tile of each candidate, without the artefacts of a network at the border."""
    margin = (groups.shape[-1] - tile) // 2
    return groups[..., margin : margin + tile, margin : margin + tile]
