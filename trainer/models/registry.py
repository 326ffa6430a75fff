"""Derainers by name or import path, and the files they are kept in.

A derainer is any module N,3,H,W in [0,1] -> the same, or a sequence whose first element is that. Its
attribute ``multiple`` is what H and W have to divide by, 1 if it has none; its method ``start_as_identity``,
if it has one, makes an untrained net return its input.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, SerializeAsAny
from safetensors.torch import save
from torch import nn

from rgsud_core.errors import nearest
from rgsud_core.weights import WeightsError, check_fit, parse_header, read_metadata, read_safetensors
from trainer.errors import TrainerError
from trainer.kinds import Kind, PartSettings
from trainer.models.nafnet import PUBLISHED

_WEIGHTS = Path(__file__).parents[1] / "weights"
DERAINERS = Kind("derainer", nn.Module, {"nafnet": "trainer.models.nafnet:NAFNet"}, default="nafnet")


def _settings(given: Any) -> Any:
    if isinstance(given, str) and ":" not in given and given not in DERAINERS.known:
        if given not in PUBLISHED:
            raise ValueError(f"unknown derainer '{given}': {nearest(given, [*PUBLISHED, *DERAINERS.known])}")
        return PUBLISHED[given]
    return DERAINERS.settings(given)


DerainerSettings = Annotated[PartSettings, BeforeValidator(_settings), SerializeAsAny()]
"""A published configuration by name; or the name of a derainer, or its import path, with its settings."""


def build_derainer(settings: PartSettings | str, *, identity_start: bool = False) -> nn.Module:
    """A derainer with fresh weights, by its settings or their name.

    Raises:
        TrainerError: its class does not take the settings.
        ValueError: there is no such derainer.
    """
    chosen: PartSettings = _settings(settings)
    try:
        derainer = DERAINERS.build(chosen)
    except TypeError as problem:
        raise TrainerError(
            f"the derainer '{chosen.name}' cannot be built ({problem}): see its settings."
        ) from None
    if identity_start:
        getattr(derainer, "start_as_identity", lambda: None)()
    return derainer


def serialise_derainer(derainer: nn.Module, settings: PartSettings | str) -> bytes:
    """A safetensors file with sizes in its header, for :func:`load_derainer`."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in derainer.state_dict().items()}
    return save(tensors, metadata={"derainer": _settings(settings).model_dump_json()})


def shipped_models() -> list[str]:
    """Names of the trained derainers that come with the package."""
    return sorted(file.stem for file in _WEIGHTS.glob("*.safetensors"))


def model_file(model: Path | str) -> Path:
    """The weights of a run's folder, of a .safetensors file, or of a model that comes with the package.

    A file or folder comes before a model of the same name.

    Raises:
        TrainerError: there is none.
    """
    path = Path(model)
    if path.is_dir():
        path = path / "model" / "derainer.safetensors"
    if path.is_file():
        return path
    if str(model) in shipped_models():
        return _WEIGHTS / f"{model}.safetensors"
    raise TrainerError(
        f"there is no derainer at {path}: give a run's folder, a .safetensors file, or the name of a model "
        f"that comes with rgsud ({', '.join(shipped_models())})."
    )


def begin_from(derainer: nn.Module, model: Path | str) -> None:
    """Give a network the weights of a trained derainer of the same kind and sizes.

    Raises:
        TrainerError: there is no such model, or it has other sizes.
    """
    trained = load_derainer(model, _import_path(derainer))
    if type(trained) is not type(derainer) or _shapes(trained) != _shapes(derainer):
        described = read_metadata(model_file(model)).get("derainer")
        raise TrainerError(f"start: {model} is no derainer of this size; its settings are {described}.")
    derainer.load_state_dict(trained.state_dict())


def _import_path(network: nn.Module) -> str:
    return f"{type(network).__module__}:{type(network).__qualname__}"


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def load_derainer(path: Path | str, derainer: str | None = None) -> nn.Module:
    """Read a trained derainer, in evaluation mode.

    Args:
        path: a run's folder, a .safetensors file, or the name of a model that comes with the package.
        derainer: import path of the class that the file is allowed to name; files name only ours without it.

    Raises:
        TrainerError: missing, not such a file, or not a derainer of ours.
    """
    file = model_file(path)
    try:
        described, tensors = read_metadata(file).get("derainer"), read_safetensors(file)
    except WeightsError as problem:
        raise TrainerError(str(problem)) from None
    if described is None:
        raise TrainerError(f"{file} does not say which derainer it holds: it was not written by rgsud.")
    try:
        tree = parse_header(described)
        name = tree.get("name", DERAINERS.default) if isinstance(tree, dict) else None
        if not isinstance(name, str):
            raise ValueError("it names no derainer")
        if ":" in name and name != derainer:
            raise TrainerError(
                f"{file} names the class {name}, and loading it would run its code: if you trust it, name it "
                f"too (--derainer {name})."
            )
        DERAINERS.find(name)  # a class that is not there is told as such
        settings = DERAINERS.settings(tree)
        if ":" not in name:  # a stranger's class is trusted by now, and need not build without memory
            check_fit(lambda: build_derainer(settings), tensors)
        net = build_derainer(settings)
        net.load_state_dict(tensors)
    except (ValueError, RuntimeError) as problem:
        if isinstance(problem, TrainerError):
            raise
        raise TrainerError(f"{file} holds weights that do not fit the derainer it names.") from None
    return net.to(memory_format=torch.channels_last).eval()
