"""The Python interface: a derainer, a scorer, training and evaluation, each in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args, overload

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from iqa_service.registry import open_scorer
from iqa_service.scorers.base import Candidate
from rgsud.pixels import AnyImage, pixels_of, rounded
from rgsud_core.device import find_device
from rgsud_core.errors import RgsudError
from rgsud_core.files import check_writable
from rgsud_core.images import Image, image_format
from trainer.config import load_config
from trainer.data.catalogue import find
from trainer.data.folders import ImageFolder
from trainer.data.pairing import PairedFolder
from trainer.errors import TrainerError
from trainer.launch.start import run
from trainer.launch.worker import Summary
from trainer.models.registry import load_derainer
from trainer.restore.evaluation import Evaluation, Protocol, evaluate_pairs
from trainer.restore.files import Existing, derain_path
from trainer.restore.film import derain_film, derain_frames
from trainer.restore.inference import derain_image, derain_pixels
from trainer.restore.judge import UnpairedEvaluation, UnpairedScores
from trainer.restore.judge import judge as judge_photograph
from trainer.restore.sheets import Panel, compare, contact_sheet

Precision = Literal["float32", "bfloat16"]
_Array = TypeVar("_Array", NDArray[Any], Tensor)

DEFAULT_MODEL = "rgsud-base"
_SHEET_ROWS = 8


class Derainer:
    """Removes rain from images: ``Derainer.load("runs/mine")(image)``.

    Args:
        network: N,3,H,W in [0,1] -> the same, or a sequence that begins with it.
        device: a device of torch's; `auto` is a GPU if there is one.
        tile: side in pixels of the tiles in which images are derained, 0 for whole images; by default images
            of more than 2 megapixels are derained in tiles of 512.
        overlap: pixels that neighbouring tiles share.
        precision: of the forward pass; `bfloat16` is faster on GPUs.

    Raises:
        RgsudError: the device cannot be used, or there is no such precision.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        device: str = "auto",
        tile: int | None = None,
        overlap: int = 32,
        precision: Precision = "float32",
    ) -> None:
        if precision not in get_args(Precision):
            raise RgsudError(f"there is no precision '{precision}': take float32 or bfloat16.")
        self.device = find_device(device)
        self.network = network.to(self.device).eval()
        self.tile, self.overlap = tile, overlap
        self._precision = precision
        self._model: Path | str | None = None

    @classmethod
    def load(
        cls,
        model: Path | str = DEFAULT_MODEL,
        *,
        device: str = "auto",
        tile: int | None = None,
        overlap: int = 32,
        precision: Precision = "float32",
        derainer: str | None = None,
    ) -> Self:
        """A trained derainer: a run's folder, a .safetensors file, or the name of one that comes with rgsud.

        Options are those of the class, and ``derainer``: the import path of the class that the file is of,
        where it is none of rgsud's. Without it no file runs code that it names.

        Raises:
            RgsudError: there is no such model, it cannot be read, or an option is wrong.
        """
        network = load_derainer(model, derainer)
        loaded = cls(network, device=device, tile=tile, overlap=overlap, precision=precision)
        loaded._model = model
        return loaded

    @overload
    def __call__(self, image: Path | str | PIL.Image.Image) -> PIL.Image.Image: ...
    @overload
    def __call__(self, image: _Array) -> _Array: ...
    def __call__(self, image: AnyImage) -> AnyImage:
        """The image without its rain, of the same kind, size, type and range; a file gives a PIL image.

        Args:
            image: numpy H,W,3; a tensor C,H,W or N,C,H,W on any device; PIL; or the path of a file. Arrays
                and tensors are uint8, or floating-point in [0,1], whose results are not rounded.

        Raises:
            RgsudError: it is none of these, or the file cannot be read.
        """
        if isinstance(image, Tensor):
            if image.ndim == 4:
                return torch.stack([self(one) for one in image]) if len(image) else image
            derained = torch.from_numpy(self._derain(pixels_of(image)))
            return derained.permute(2, 0, 1).to(image.device, image.dtype)
        if isinstance(image, np.ndarray):
            return self._derain(pixels_of(image)).astype(image.dtype)
        return PIL.Image.fromarray(self._derain(pixels_of(image)))

    def _derain(self, pixels: NDArray[Any]) -> NDArray[Any]:
        derain = derain_image if pixels.dtype == np.uint8 else derain_pixels
        with self._autocast():
            return derain(self.network, pixels, tile=self.tile, overlap=self.overlap)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == "bfloat16")

    def write(
        self,
        source: Path | str,
        target: Path | str,
        progress: Callable[[int, int], None] | None = None,
        *,
        existing: Existing = "refuse",
        suffix: str | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> int:
        """Derain an image file, or all images below a folder, into files; return how many were written.

        See :func:`trainer.restore.files.derain_path`; ``progress(done, total)`` is called after each, and
        ``notice(sentence)`` for whatever the results lack.
        """
        with self._autocast():
            return derain_path(
                self.network,
                source,
                target,
                tile=self.tile,
                overlap=self.overlap,
                existing=existing,
                suffix=suffix,
                on_progress=progress,
                on_notice=notice,
            )

    def frames(self, frames: Iterable[Image], *, frame_by_frame: bool = False) -> Iterator[Image]:
        """The frames of a film without rain, in their order; each comes when the next one has been read.

        Args:
            frames: uint8 H,W,3 RGB, all of one size.
            frame_by_frame: each frame by itself, as an image; by default what its neighbours show of it
                steadies it.
        """
        derained = derain_frames(
            self.network, frames, frame_by_frame=frame_by_frame, tile=self.tile, overlap=self.overlap
        )
        while True:
            with self._autocast():
                frame = next(derained, None)
            if frame is None:
                return
            yield frame

    def write_film(
        self,
        source: Path | str,
        target: Path | str,
        progress: Callable[[int, int | None], None] | None = None,
        *,
        frame_by_frame: bool = False,
        notice: Callable[[str], None] | None = None,
    ) -> int:
        """Derain a film into a file with its sound and all else that it holds; return the number of frames.

        See :func:`trainer.restore.film.derain_film`; ``progress(done, total)`` is called after each frame,
        and ``notice(sentence)`` for whatever the result lacks.
        """
        with self._autocast():
            return derain_film(
                self.network,
                source,
                target,
                frame_by_frame=frame_by_frame,
                tile=self.tile,
                overlap=self.overlap,
                on_progress=progress,
                on_notice=notice,
            )

    def export(self, target: Path | str) -> float:
        """Write the network as an ONNX file, for any size and number of images, and run it once; return its
        largest difference from torch, of values in [0,1]. Needs the extra `onnx`.

        See :func:`rgsud.export.export_onnx`. Tiles and precision are those of whoever runs the file.

        Raises:
            RgsudError: the target is none, or the network cannot be exported for all sizes.
            ModuleNotFoundError: the extra is not installed.
        """
        from rgsud.export import export_onnx, notes_of

        notes = {"model": type(self.network).__name__} if self._model is None else notes_of(self._model)
        return export_onnx(self.network, target, notes)


class Scorer:
    """Scores how far images are from showing rain: ``Scorer.open("local:daclip-lite")(image)``.

    A context manager, since a scorer may hold a model or a connection. Scores of scorers with different
    fingerprints must not be compared.
    """

    def __init__(self, address: str = "local:daclip-lite") -> None:
        self._backend = open_scorer(address)
        self.name, self.fingerprint = self._backend.name, self._backend.fingerprint

    @classmethod
    def open(cls, address: str = "local:daclip-lite") -> Self:
        """The scorer at an address, as in `recycling.scorer`: ``local:NAME``, ``serve:APP``, ``http://HOST``.

        Raises:
            ScorerError: there is no such scorer, or it cannot be opened or reached.
        """
        return cls(address)

    def __call__(self, image: AnyImage, rainy: AnyImage | None = None) -> float:
        """Log-odds that the image is not degraded, higher is better; see :meth:`batch`."""
        return self.batch([image], None if rainy is None else [rainy])[0]

    def batch(self, images: Iterable[AnyImage], rainy: Iterable[AnyImage] | None = None) -> list[float]:
        """Log-odds that each image is not degraded, higher is better.

        Args:
            images: as :class:`Derainer` takes them, but for batches in one tensor.
            rainy: the rainy image that each was made from, for scorers that compare.

        Raises:
            RgsudError: an image cannot be read, or the scorer cannot score it.
        """
        shown = [rounded(pixels_of(image)) for image in images]
        beside: list[Image | None] = [None] * len(shown)
        if rainy is not None:
            beside = [rounded(pixels_of(image)) for image in rainy]
        if len(beside) != len(shown):
            raise RgsudError(f"{len(shown)} images and {len(beside)} rainy images: give one for each.")
        candidates = [Candidate(str(n), *pair) for n, pair in enumerate(zip(shown, beside, strict=True))]
        return [float(odds) for odds in self._backend.score(candidates)] if candidates else []

    def close(self) -> None:
        """Release the model or the connection."""
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def train(
    recipe: str | Path,
    settings: Mapping[str, Any] | Sequence[str] = (),
    *,
    resume: bool = False,
    checkpoint: Path | None = None,
    console: Console | None = None,
) -> Summary:
    """Train a derainer by a recipe; ``Derainer.load(RUNS / NAME)`` loads the result.

    Args:
        recipe: the name of a recipe, or the path of a .yaml file.
        settings: what to change of it, ``{"data.rainy": folder}`` or ``["data.rainy=FOLDER"]``.
        resume: go on from the run's newest checkpoint, or begin where there is none.
        checkpoint: start from this one.
        console: where progress is shown; standard error by default.

    Raises:
        RgsudError: a setting, the data, or a service is at fault.
        KeyboardInterrupt: the run was interrupted; it has been saved.
    """
    return run(load_config(recipe, settings), resume=resume, checkpoint=checkpoint, console=console)


def _begin(model: Derainer | Path | str, sheet: Path | None) -> Derainer:
    """The derainer; where the sheet cannot be written, that is said before the work."""
    if sheet is not None:
        image_format(sheet)
        check_writable(sheet.parent)
    return model if isinstance(model, Derainer) else Derainer.load(model)


def evaluate(
    model: Derainer | Path | str,
    rainy: Path | str,
    clean: Path | str | None = None,
    *,
    data_set: str | None = None,
    protocol: Protocol | None = None,
    sheet: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """PSNR and SSIM of a derainer on pairs of images.

    Args:
        model: a derainer, or what :meth:`Derainer.load` takes.
        rainy: folder of rainy images; with `data_set` the folder that data sets are in.
        clean: folder of their ground truth, by the same names.
        data_set: a data set of the literature, measured by its own protocol.
        protocol: `A` measures rounded luma, the field's norm; `B` is that of DID-Data and DDN-Data.
        sheet: image file for a contact sheet of the first eight pairs: rainy, derained, clean.
        progress: ``progress(done, total)`` is called after each image.

    Raises:
        RgsudError: the model or an image cannot be read, or images have no partner.
    """
    if data_set is not None and clean is None:
        found = find(data_set, rainy)
        if found.test is None:
            raise TrainerError(f"{found.known.name} has no test pairs below {rainy}: give both folders.")
        (rainy, clean), protocol = found.test, protocol or found.known.protocol
    if clean is None:
        raise TrainerError(
            "the ground truth is missing: give its folder too, or a data set's name; judge() does without."
        )
    if protocol not in (None, *get_args(Protocol)):
        raise TrainerError(f"there is no protocol '{protocol}': A or B; RGB figures stand beside both.")
    derainer = _begin(model, sheet)
    pairs = PairedFolder(rainy, clean)
    shown: list[Image] = []

    def derained() -> Iterator[Image]:
        for done, rainy_image in enumerate(pairs.degraded.images(), 1):
            image = derainer(rainy_image)
            if len(shown) < _SHEET_ROWS:
                shown.append(image)
            yield image
            if progress is not None:
                progress(done, len(pairs))

    measured = evaluate_pairs(derained(), pairs, protocol or "A")
    if sheet is not None:
        contact_sheet(compare(shown, pairs), sheet)
    return measured


def judge(
    model: Derainer | Path | str,
    rainy: Path | str,
    *,
    sheet: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> UnpairedEvaluation:
    """What a derainer leaves and what it takes on photographs without ground truth.

    Args:
        model: a derainer, or what :meth:`Derainer.load` takes.
        rainy: folder of rainy photographs.
        sheet: image file for a contact sheet of the first eight: rainy, derained.
        progress: ``progress(done, total)`` is called after each photograph.

    Raises:
        RgsudError: the model or a photograph cannot be read.
    """
    derainer = _begin(model, sheet)
    folder = ImageFolder(rainy)
    rows: list[UnpairedScores] = []
    panels: list[list[Panel]] = []
    for identity, image in zip(folder.ids, folder.images(), strict=True):
        derained = derainer(image)
        rows.append(judge_photograph(identity, image, derained, derainer(image[:, ::-1])))
        if len(panels) < _SHEET_ROWS:
            panels.append([Panel(image, f"rainy  {identity}"), Panel(derained, "derained")])
        if progress is not None:
            progress(len(rows), len(folder))
    if sheet is not None:
        contact_sheet(panels, sheet)
    return UnpairedEvaluation(rows=rows)
