"""How a derainer plugs in.

A derainer is any module N,3,H,W in [0,1] -> the same, or a sequence whose first element is that; its
attribute ``multiple`` says what H and W it wants to divide. To add one: write its module and settings
in a file beside this one, and name it in :func:`build_derainer`.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from rgsud_core.errors import nearest
from trainer.errors import TrainerError
from trainer.models.nafnet import PUBLISHED, NAFNet, NAFNetSettings

DerainerSettings = str | NAFNetSettings
"""A published configuration by name, or sizes."""


def resolve(settings: DerainerSettings) -> NAFNetSettings:
    """The sizes behind a name.

    Raises:
        TrainerError: an unknown name; the message gives the nearest known one.
    """
    if isinstance(settings, NAFNetSettings):
        return settings
    if settings not in PUBLISHED:
        raise TrainerError(f"there is no derainer '{settings}': {nearest(settings, PUBLISHED)}")
    return PUBLISHED[settings]


def build_derainer(settings: DerainerSettings, *, identity_start: bool = False) -> nn.Module:
    """A derainer with fresh weights."""
    return NAFNet(resolve(settings), identity_start=identity_start)


def serialise_derainer(derainer: nn.Module, settings: DerainerSettings) -> bytes:
    """A safetensors file that :func:`load_derainer` reads without being told the sizes."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in derainer.state_dict().items()}
    return save(tensors, metadata={"derainer": resolve(settings).model_dump_json()})


def load_derainer(path: Path) -> nn.Module:
    """Read a trained derainer, in evaluation mode: a .safetensors file, or a run's folder.

    Raises:
        TrainerError: missing, not such a file, or not a derainer of ours.
    """
    file = path / "model" / "derainer.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise TrainerError(f"there is no derainer at {file}: give a run's folder or a .safetensors file.")
    try:
        with safe_open(str(file), framework="pt") as opened:
            described = (opened.metadata() or {}).get("derainer")
            tensors: dict[str, torch.Tensor] = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as problem:
        raise TrainerError(f"{file} is no whole safetensors file ({problem}): copy it again.") from None
    if described is None:
        raise TrainerError(f"{file} does not say which derainer it holds: it was not written by rgsud.")
    try:
        settings = TypeAdapter(NAFNetSettings).validate_python(json.loads(described))
        derainer = build_derainer(settings)
        derainer.load_state_dict(tensors)
    except (ValueError, RuntimeError):
        raise TrainerError(f"{file} holds weights that do not fit the derainer it names.") from None
    return derainer.to(memory_format=torch.channels_last).eval()
