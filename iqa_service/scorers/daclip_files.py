"""Files of DA-CLIP weights: on this machine or on the hub, released, from a training, or compact.

A compact file is .safetensors with configuration and scoring rule in its header. What a header says is held
against the file's own tensors before a network is built from it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import huggingface_hub
import open_clip
import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from iqa_service.errors import ScorerError
from iqa_service.scorers.daclip import DaCLIP, Rule
from rgsud_core.errors import first_line
from rgsud_core.weights import (
    WeightsError,
    check_fit,
    parse_header,
    read_metadata,
    read_safetensors,
    read_torch,
)

_VOCABULARY = 49408
"""Tokens of CLIP's tokenizer."""
_HEAD_WIDTH = 64
"""Channels per head in every published CLIP transformer; tensors do not show the number of heads."""


Size = Annotated[int, Field(ge=1, le=65536, strict=True)]
Side = Annotated[int, Field(ge=1, le=1024, strict=True)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Vision(_Strict):
    image_size: Side
    patch_size: Side
    width: Size
    layers: Side
    head_width: Size = _HEAD_WIDTH
    mlp_ratio: float = Field(4.0, gt=0, le=64)

    @model_validator(mode="after")
    def _whole(self) -> _Vision:
        if self.image_size % self.patch_size or self.width % self.head_width:
            raise ValueError("image_size divides by patch_size, and width by head_width")
        return self


class _Text(_Strict):
    context_length: Annotated[int, Field(ge=2, le=1024, strict=True)] = 77
    vocab_size: Annotated[int, Field(ge=_VOCABULARY, le=1 << 20, strict=True)] = _VOCABULARY
    width: Size = 512
    heads: Size = 8
    layers: Side = 12
    mlp_ratio: float = Field(4.0, gt=0, le=64)

    @model_validator(mode="after")
    def _whole(self) -> _Text:
        if self.width % self.heads:
            raise ValueError("width divides by heads")
        return self


class _Config(_Strict):
    """What a file may set of open_clip's configuration, which has keys that fetch models."""

    embed_dim: Size
    vision_cfg: _Vision
    text_cfg: _Text


def find_weights(path: str | Path) -> Path:
    """The file behind a path or an address of the hub, downloaded into the hub's cache at need.

    An address is ``hf://OWNER/REPOSITORY[@REVISION]/FILE[#SHA256]``: a commit of the repository, and the
    digest of the file in 64 hexadecimal digits. With these nobody else's file comes in its place.

    Raises:
        ScorerError: there is no such file, it cannot be downloaded, or it has another digest.
    """
    name = str(path)
    if not name.startswith("hf://"):
        if not Path(name).is_file():
            raise ScorerError(f"no DA-CLIP weights at '{name}': give the path of a .pt or .safetensors file")
        return Path(name)
    owner, _, rest = name.removeprefix("hf://").partition("/")
    repository, _, file = rest.partition("/")
    repository, _, revision = repository.partition("@")
    file, _, digest = file.partition("#")
    if not file:
        raise ScorerError(f"'{name}' names no file on the hub: write hf://OWNER/REPOSITORY/FILE")
    try:
        found = Path(
            huggingface_hub.hf_hub_download(f"{owner}/{repository}", file, revision=revision or None)
        )
        if digest:
            with found.open("rb") as opened:
                fetched = hashlib.file_digest(opened, "sha256").hexdigest()
    except (OSError, ValueError) as error:  # the hub's own errors are OSErrors or ValueErrors
        reason = first_line(error)
        raise ScorerError(f"cannot download '{name}' ({reason}): check name and network") from error
    if digest and fetched != digest.lower():
        raise ScorerError(
            f"the file fetched for '{name}' has the digest {fetched}: it is another, do not use it"
        )
    return found


def load_rule(path: str | Path) -> Rule:
    """The rule in the header of a .safetensors file, or that of the released checkpoints."""
    try:
        return Rule.model_validate(_header(find_weights(path)).get("rule", {}))
    except ValidationError as error:
        raise ScorerError(f"the scoring rule in '{path}' is not valid: {error.errors()[0]['msg']}") from error


def load_daclip(path: str | Path, model_config: Mapping[str, Any] | str | None = None) -> DaCLIP:
    """A DA-CLIP from a released file, a training checkpoint, or a compact file without image tower.

    Args:
        path: a .pt or .safetensors file, or an address of the hub, see :func:`find_weights`.
        model_config: open_clip's configuration or the name of one (``ViT-B-32``). Left out, it is read from
            the file's header, or else from the tensors' shapes with heads of 64 channels.

    Returns:
        The model in evaluation mode, float32, on the CPU.

    Raises:
        ScorerError: no such file, not a DA-CLIP, or tensors that do not fit the configuration.
    """
    file = find_weights(path)
    state, header = _read(file), _header(file)
    given: Any = model_config
    if isinstance(model_config, str):
        given = open_clip.get_model_config(model_config)
        if given is None:
            raise ScorerError(
                f"open_clip knows no model '{model_config}': take a name from open_clip.list_models()"
            )
    config = given or _checked(header.get("config") or _config_of(state, path), path)
    full = any(key.startswith(("visual.", "clip.visual.")) for key in state)
    build = partial(DaCLIP, config, image_tower=full)
    # The release holds the image tower under both of its names, other files under one.
    for key in [*state]:
        bare = key.removeprefix("clip.")
        if bare.startswith(("visual.", "logit_scale")):
            state.setdefault(bare, state[key])
            state.setdefault(f"clip.{bare}", state[key])
    try:
        check_fit(build, state)
        model = build()
        model.load_state_dict({key: tensor.float() for key, tensor in state.items()})
    except (ValueError, RuntimeError) as error:
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
    """Configuration and rule of a compact file; none in others."""
    if file.suffix != ".safetensors":
        return {}
    try:
        header = parse_header(read_metadata(file).get("daclip", "{}"))
    except WeightsError as error:
        raise ScorerError(str(error)) from error
    except ValueError as error:
        raise ScorerError(f"the header of '{file}' is not valid ({error}): fetch it again") from error
    if not isinstance(header, dict):
        raise ScorerError(f"the header of '{file}' holds no settings: fetch it again")
    return header


def _read(file: Path) -> dict[str, Tensor]:
    try:
        state: Any = read_safetensors(file) if file.suffix == ".safetensors" else read_torch(file)
    except WeightsError as error:
        raise ScorerError(str(error)) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    if not isinstance(state, dict):
        raise ScorerError(f"'{file}' is no DA-CLIP, it holds no tensors by name: give other weights")
    return {str(k).removeprefix("module."): value for k, value in state.items() if isinstance(value, Tensor)}


def _checked(config: Any, path: str | Path) -> dict[str, Any]:
    """A file's configuration, if it sets sizes alone, and sizes in bounds."""
    try:
        return _Config.model_validate(config).model_dump(exclude_unset=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "its configuration"
        raise ScorerError(
            f"the configuration of '{path}' is not that of a DA-CLIP, {place}: {first['msg']}; fetch it again"
        ) from error


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
    except (ValueError, IndexError, ZeroDivisionError):
        raise ScorerError(
            f"'{path}' is no DA-CLIP, its tensors have other shapes: give other weights"
        ) from None
