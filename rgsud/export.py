"""Derainers as ONNX files, which run without torch.

The module needs the extra `onnx` (`pip install 'rgsud[onnx]'`).
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import onnxscript  # noqa: F401  torch's exporter needs it, and would say so in a longer way
import torch
from torch import Tensor, nn

from rgsud_core.errors import RgsudError, first_line
from rgsud_core.files import check_writable, writing
from rgsud_core.weights import read_metadata
from trainer.models.registry import model_file, shipped_models
from trainer.restore.inference import derain_pixels

TOLERANCE = 1e-4
"""Largest difference that a file may have from torch, of values in [0,1]: a fortieth of a grey level."""
INPUT, OUTPUT = "rainy", "derained"
_CHECKED = ((1, 5, 9), (2, 75, 38), (1, 17, 8000))
"""Images, height and width of what a file is checked on. Where a network does one thing with small images and
another with large ones, a single one of them was traced, and the file does that with all."""
_EXAMPLE = (2, 3, 67, 52)
"""Shape of what is traced: no two axes are equal, none is a multiple of anything."""


class _AnySize(nn.Module):
    """A derainer whose sizes need not be multiples: N,3,H,W in [0,1] -> the same, clamped."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.multiple = multiple_of(network)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        padded = image
        if self.multiple > 1:
            rows, columns = (_reflected(length, self.multiple) for length in (height, width))
            padded = image.index_select(2, rows).index_select(3, columns)
        result: Tensor | list[Tensor] = self.network(padded)
        full = result if isinstance(result, Tensor) else result[0]
        if self.multiple > 1:  # by indices: a slice would be checked against the size, which is not known
            full = full.index_select(2, torch.arange(height)).index_select(3, torch.arange(width))
        return full.clamp(0, 1)


def _reflected(length: int, multiple: int) -> Tensor:
    """Where each pixel of a padded axis comes from: the axis goes back and forth without its last pixel, as
    often as it takes (numpy's `reflect`). A pad operator takes no more than the axis has."""
    positions = torch.arange((length + multiple - 1) // multiple * multiple)
    period = torch.full_like(positions, 2 * length - 2).clamp(min=1)
    positions = positions.remainder(period)
    return torch.minimum(positions, period - positions)


def multiple_of(network: nn.Module) -> int:
    """What a derainer's sizes have to divide by."""
    return int(getattr(network, "multiple", 1))


def notes_of(model: Path | str) -> dict[str, str]:
    """What an ONNX file says about its model: `model`, the name; `derainer`, the settings as JSON; and
    `licence`, of those that come with rgsud. Raises TrainerError where there is no such model."""
    file = model_file(model)
    notes = {"model": Path(model).resolve().name.removesuffix(file.suffix)}
    notes["derainer"] = read_metadata(file).get("derainer", "")
    if str(model) in shipped_models() and not Path(model).exists():
        notes["licence"] = "Apache-2.0"
    return notes


def export_onnx(network: nn.Module, target: Path | str, notes: Mapping[str, str]) -> float:
    """Write a derainer as an ONNX file; return its largest difference from torch, of values in [0,1].

    The file maps `rainy`, float32 N,3,H,W in [0,1], to `derained` of the same shape and range, for any N, H
    and W: images are padded by reflection to the network's multiple, and cut back, inside. onnxruntime runs
    it, on images of three sizes, before it takes its name.

    Args:
        network: N,3,H,W in [0,1] -> the same, or a sequence that begins with it; see
            :mod:`trainer.models.registry`.
        target: the file, whose name ends in .onnx; one that is there is replaced.
        notes: what the file says about itself (ONNX's `metadata_props`), besides `multiple`, `tolerance`.

    Raises:
        RgsudError: the name is no file's that ends in .onnx, the network cannot be exported for all sizes, or
            onnxruntime's results differ from torch's by more than :data:`TOLERANCE`.
        FileError: the file cannot be written.
    """
    target = Path(target)
    if target.is_dir():
        raise RgsudError(f"{target} is a folder: name a file in it, {target / 'derainer.onnx'} for example.")
    if target.suffix.lower() != ".onnx":
        raise RgsudError(
            f"{target} is no name of an ONNX file: end it in .onnx, {target.stem}.onnx for example."
        )
    if any(getattr(module, "surroundings", None) for module in network.modules()):
        raise RgsudError(
            "a derainer with the setting 'surroundings' cannot be exported to ONNX: it does one thing with "
            "images that are larger than those, and another with smaller ones."
        )
    check_writable(target.parent)
    # In ordinary memory order, which exporters know best; the caller's stays where and as it is.
    plain = copy.deepcopy(network).cpu().float().eval().to(memory_format=torch.contiguous_format)
    model = _traced(plain)
    about = dict(notes) | {"multiple": str(multiple_of(plain)), "tolerance": f"{TOLERANCE:g}"}
    onnx.helper.set_model_props(model, about)
    with writing(target) as partial:
        onnx.save(model, partial)
        difference = _difference(plain, partial)
        if not difference <= TOLERANCE:
            raise RgsudError(
                f"{target} is not written: what it makes of an image differs from torch by {difference:.2g}, "
                f"and {TOLERANCE:g} is allowed; its network may do other things at other sizes."
            )
    return difference


def _traced(network: nn.Module) -> onnx.ModelProto:
    axes = {0: "images", 2: "height", 3: "width"}
    free = dict.fromkeys(axes, torch.export.Dim.DYNAMIC)
    logged = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # of all that torch tries
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            # By itself torch.onnx.export takes an axis for fixed where the network does.
            traced = torch.export.export(_AnySize(network), (torch.rand(_EXAMPLE),), dynamic_shapes=(free,))
            program = torch.onnx.export(
                traced,
                dynamic_shapes=(axes,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    except Exception as problem:  # of many kinds, by what the network does
        raise RgsudError(
            f"this derainer cannot be exported to ONNX ({_reason(problem)}): it has to do the same at all "
            "sizes and with all values."
        ) from None
    finally:
        logging.disable(logged)
    assert program is not None
    return program.model_proto


def _reason(problem: BaseException) -> str:
    """What the network did: the exporter's own error is wrapped around it."""
    return first_line(problem.__cause__ or problem)


def _difference(network: nn.Module, file: Path) -> float:
    """The largest difference between onnxruntime's results and torch's; NaN where one is not finite."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        random, differences = np.random.default_rng(0), []
        for count, height, width in _CHECKED:
            rainy = random.random((count, 3, height, width), np.float32)
            (found,) = session.run([OUTPUT], {INPUT: rainy})
            wanted = np.stack([derain_pixels(network, image.transpose(1, 2, 0)) for image in rainy])
            differences.append(np.abs(found - wanted.transpose(0, 3, 1, 2)).max())
    except Exception as problem:  # onnxruntime's own classes are of no one kind
        if isinstance(problem, RgsudError):
            raise
        raise RgsudError(f"onnxruntime does not run this derainer ({first_line(problem)}).") from None
    return float(np.max(differences))
