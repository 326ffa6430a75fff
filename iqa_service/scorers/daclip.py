"""DA-CLIP on open_clip: a CLIP with a controller that classifies the degradation in an image.

Luo et al., "Controlling Vision-Language Models for Multi-Task Image Restoration", ICLR 2024. The parameter
names are those of the released checkpoints, which load as they are.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import numpy as np
import open_clip
import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from torch import Tensor, nn

from iqa_service.errors import ScorerError
from iqa_service.scorers.checkpoint_io import read_state
from iqa_service.scorers.views import centre
from rgsud_core.errors import first_line

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
_HEAD_WIDTH = 64
"""Channels per head in every published CLIP transformer; tensors do not show the number of heads."""


class Rule(BaseModel):
    """Which words of a DA-CLIP count as degraded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    words: tuple[str, ...] = WORDS
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


def find_weights(path: str | Path) -> Path:
    """The file behind a path or ``hf://OWNER/REPOSITORY/FILE``, downloaded into the hub's cache at need."""
    name = str(path)
    if not name.startswith("hf://"):
        if not Path(name).is_file():
            raise ScorerError(f"no DA-CLIP weights at '{name}': give the path of a .pt or .safetensors file")
        return Path(name)
    owner, _, rest = name.removeprefix("hf://").partition("/")
    repository, _, file = rest.partition("/")
    if not file:
        raise ScorerError(f"'{name}' names no file on the hub: write hf://OWNER/REPOSITORY/FILE")
    try:
        return Path(huggingface_hub.hf_hub_download(f"{owner}/{repository}", file))
    except (OSError, ValueError) as error:  # the hub's own errors are OSErrors or ValueErrors
        reason = first_line(error)
        raise ScorerError(f"cannot download '{name}' ({reason}): check name and network") from error


def load_rule(path: str | Path) -> Rule:
    """The rule in the header of a .safetensors file, or that of the released checkpoints."""
    try:
        return Rule.model_validate(_header(find_weights(path)).get("rule", {}))
    except ValidationError as error:
        raise ScorerError(f"the scoring rule in '{path}' is not valid: {error.errors()[0]['msg']}") from error


def load_daclip(path: str | Path, model_config: Mapping[str, Any] | str | None = None) -> DaCLIP:
    """A DA-CLIP from a released file, a training checkpoint, or a compact file without image tower.

    Args:
        path: a .pt or .safetensors file, or ``hf://OWNER/REPOSITORY/FILE``.
        model_config: open_clip's configuration or the name of one (``ViT-B-32``). Left out, it is read from
            the file's header, or else from the tensors' shapes with heads of 64 channels.

    Returns:
        The model in evaluation mode, float32, on the CPU.

    Raises:
        ScorerError: no such file, not a DA-CLIP, or tensors that do not fit the configuration.
    """
    file = find_weights(path)
    state = _read(file)
    given: Any = model_config
    if isinstance(model_config, str):
        given = open_clip.get_model_config(model_config)
        if given is None:
            raise ScorerError(
                f"open_clip knows no model '{model_config}': take a name from open_clip.list_models()"
            )
    config = given or _header(file).get("config") or _config_of(state, path)
    model = DaCLIP(config, image_tower=any(key.startswith(("visual.", "clip.visual.")) for key in state))
    # The release holds the image tower under both of its names, other files under one.
    for key in model.state_dict():
        twin = key.removeprefix("clip.") if key.startswith("clip.visual.") else f"clip.{key}"
        if key not in state and twin in state:
            state[key] = state[twin]
    try:
        model.load_state_dict({key: tensor.float() for key, tensor in state.items()})
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:300]
        raise ScorerError(f"'{path}' does not fit its configuration, give model_config: {problem}") from error
    if not all(tensor.isfinite().all() for tensor in model.parameters()):
        raise ScorerError(f"'{path}' holds NaN or infinite weights: fetch or train it again")
    return model.eval()


def save_daclip(model: DaCLIP, rule: Rule, path: Path) -> None:
    """Write the tensors that scoring needs as float16 .safetensors, configuration and rule in the header."""
    state = model.scoring_state() | {"logit_scale": model.logit_scale, "clip.logit_scale": model.logit_scale}
    halves = {key: tensor.detach().half().cpu().clone() for key, tensor in state.items()}
    # One entry only: safetensors writes several in any order, and equal models must give equal files.
    header = json.dumps({"config": model.config, "rule": rule.model_dump(mode="json")})
    safetensors.torch.save_file(halves, path, metadata={"daclip": header})


def _header(file: Path) -> dict[str, Any]:
    if file.suffix != ".safetensors":
        return {}
    try:
        with safetensors.safe_open(file, "pt") as opened:
            header: dict[str, Any] = json.loads((opened.metadata() or {}).get("daclip", "{}"))
            return header
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise ScorerError(f"'{file}' is not a safetensors file ({error}): fetch it again") from error


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        try:
            state: Any = safetensors.torch.load_file(file)
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise ScorerError(f"cannot read '{file}' as weights ({error}): fetch it again") from error
    else:
        state = read_state(file)
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    return {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}


def _config_of(state: Mapping[str, Tensor], path: str | Path) -> dict[str, Any]:
    """open_clip's configuration of the DA-CLIP that these tensors belong to."""

    def layers(prefix: str) -> int:
        found = (re.match(re.escape(prefix) + r"\.resblocks\.(\d+)\.", key) for key in state)
        return 1 + max(int(match[1]) for match in found if match)

    def tower(prefix: str, width: int) -> dict[str, Any]:
        mlp = state[f"{prefix}.resblocks.0.mlp.c_fc.weight"].shape[0]
        return {"width": width, "layers": layers(prefix), "mlp_ratio": mlp / width}

    try:
        _, _, patch, _ = state["visual_control.conv1.weight"].shape
        positions, width = state["visual_control.positional_embedding"].shape
        length, text_width = state["clip.positional_embedding"].shape
        vision = tower("visual_control.transformer.transformer", width)
        text = tower("clip.transformer", text_width)
        return {
            "embed_dim": state["clip.text_projection"].shape[1],
            "vision_cfg": vision
            | {
                "image_size": math.isqrt(positions - 1) * patch,
                "patch_size": patch,
                "head_width": min(_HEAD_WIDTH, width),
            },
            "text_cfg": text
            | {
                "context_length": length,
                "vocab_size": state["clip.token_embedding.weight"].shape[0],
                "heads": max(1, text_width // _HEAD_WIDTH),
            },
        }
    except KeyError as missing:
        raise ScorerError(f"'{path}' is no DA-CLIP, it has no tensor {missing}: give other weights") from None
