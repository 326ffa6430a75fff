"""DA-CLIP on open_clip: a CLIP with a controller that classifies the degradation in an image.

Luo et al., "Controlling Vision-Language Models for Multi-Task Image Restoration", ICLR 2024. The parameter
names are those of the released checkpoints, which load as they are.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import open_clip
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from iqa_service.errors import ScorerError
from iqa_service.scorers.views import centre

WORDS = (
    "motion-blurry",
    "hazy",
    "jpeg-compressed",
    "low-light",
    "noisy",
    "raindrop",
    "rainy",
    "shadowed",
    "snowy",
    "uncompleted",
)
"""The degradations of the released checkpoints, in their order. There is no "clean" among them."""

_TEMPERATURE = 100.0
"""Logit scale of the softmax over words, as in the training of the released checkpoints."""
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

Word = Annotated[str, Field(min_length=1, max_length=100)]


class Rule(BaseModel):
    """Which words of a DA-CLIP count as degraded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    words: tuple[Word, ...] = Field(WORDS, max_length=100)
    degraded: tuple[str, ...] = ("rainy",)
    """Words whose probability counts against an image; all others count for it."""
    views: Literal["centre", "tiles"] = "centre"

    @model_validator(mode="after")
    def _both_sides(self) -> Rule:
        if not set(self.degraded) <= set(self.words) or set(self.degraded) in (set(), set(self.words)):
            raise ValueError(f"degraded {self.degraded} must be some of the words {self.words}, not all")
        return self


class _ControlledTransformer(nn.Module):
    """The controller's blocks, each with the projection that feeds the image tower (``zero_modules``).

    The projections have no influence on degradation features; they are there so that released checkpoints
    load whole, and for conformance tests of :meth:`DaCLIP.encode_image`.
    """

    def __init__(self, transformer: nn.Module, zero_modules: bool) -> None:
        super().__init__()
        self.transformer = transformer
        blocks: Any = transformer.resblocks
        width = blocks[0].ln_1.weight.shape[0]
        self.zero_modules: nn.ModuleList | None = None
        if zero_modules:
            self.zero_modules = nn.ModuleList(nn.Linear(width, width) for _ in blocks)
            for parameter in self.zero_modules.parameters():
                nn.init.zeros_(parameter)


class DaCLIP(nn.Module):
    """A DA-CLIP of any transformer shape.

    Args:
        config: ``embed_dim``, ``vision_cfg`` and ``text_cfg`` as open_clip has them.
        image_tower: also hold CLIP's own image tower; scoring needs the controller and the text tower only.
    """

    def __init__(self, config: Mapping[str, Any], *, image_tower: bool = True) -> None:
        super().__init__()
        self.config = copy.deepcopy(dict(config))
        self.clip = open_clip.CLIP(**copy.deepcopy(self.config))
        self.visual: Any = self.clip.visual
        self.visual_control: Any = copy.deepcopy(self.visual)
        self.visual_control.transformer = _ControlledTransformer(self.visual.transformer, image_tower)
        self.visual_control.transformer.transformer = copy.deepcopy(self.visual.transformer)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        if not image_tower:
            self.visual = self.clip.visual = None
        self.image_size = int(self.config["vision_cfg"]["image_size"])
        self._tokenize = open_clip.SimpleTokenizer(context_length=self.clip.context_length)

    def normalise(self, images: Tensor) -> Tensor:
        """Normalised pixels, float32 N,3,S,S, from uint8 N,3,S,S."""
        mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (_MEAN, _STD))
        return (images.float() / 255 - mean) / std

    def encode_degradation(self, pixels: Tensor) -> Tensor:
        """Degradation features N,E, not normalised, of pixels N,3,S,S."""
        return self._control(pixels, steering=False)[0]

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Controlled image features and degradation features, both N,E and not normalised.

        Scoring does not need it: it exists to test conformance with the released model.

        Args:
            pixels: N,3,S,S from :meth:`normalise`.

        Raises:
            ScorerError: the image tower was left out.
        """
        if self.visual is None:
            raise ScorerError("this DA-CLIP holds no image tower: load the full checkpoint to encode images")
        degradation, hidden = self._control(pixels)
        x = self.visual._embeds(pixels)
        # The controller's last hidden state goes to the first block, as the released weights were trained.
        for block in self.visual.transformer.resblocks:
            x = block(x) + hidden.pop()
        return self.visual._pool(x)[0] @ self.visual.proj, degradation

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Text features N,E, not normalised, of int64 tokens N,L."""
        features: Tensor = self.clip.encode_text(tokens)
        return features

    def tokenize(self, words: Sequence[str]) -> Tensor:
        """int64 tokens N,L of the words themselves, without a template."""
        tokens: Tensor = self._tokenize(list(words))
        return tokens

    def text_directions(self, words: Sequence[str]) -> Tensor:
        """Unit text features W,E of words."""
        tokens = self.tokenize(words).to(self.clip.token_embedding.weight.device)
        return nn.functional.normalize(self.encode_text(tokens), dim=-1)

    def degradation_logits(self, features: Tensor, text: Tensor) -> Tensor:
        """Logits N,W of degradation features N,E over unit text features W,E."""
        return _TEMPERATURE * nn.functional.normalize(features, dim=-1) @ text.T

    @torch.inference_mode()
    def degradation_probabilities(self, images: Tensor, words: Sequence[str] = WORDS) -> Tensor:
        """Probabilities N,W of the words, of uint8 images N,3,H,W, resized and cropped as by CLIP."""
        squares = [centre(image.permute(1, 2, 0).cpu().numpy(), self.image_size) for image in images]
        pixels = self.normalise(torch.from_numpy(np.concatenate(squares)).permute(0, 3, 1, 2))
        text = self.text_directions(words)
        return self.degradation_logits(self.encode_degradation(pixels.to(text.device)), text).softmax(dim=-1)

    def scoring_state(self) -> dict[str, Tensor]:
        """The tensors that decide degradation probabilities: controller and text tower."""
        parts = ("clip.visual.", "visual.", "visual_control.transformer.zero_modules.")
        idle = ("logit_scale", "clip.logit_scale")
        return {k: v for k, v in self.state_dict().items() if not k.startswith(parts) and k not in idle}

    def _control(self, pixels: Tensor, *, steering: bool = True) -> tuple[Tensor, list[Tensor]]:
        control = self.visual_control
        x = control._embeds(pixels)
        hidden = []
        for index, block in enumerate(control.transformer.transformer.resblocks):
            x = block(x)
            if steering and control.transformer.zero_modules is not None:
                hidden.append(control.transformer.zero_modules[index](x))
        return control._pool(x)[0] @ control.proj, hidden
