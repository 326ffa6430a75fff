"""The lines of a run's ``metrics.jsonl``, typed; figures have names with a slash in the file."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class _Line(BaseModel):
    # Losses are named by the method, and older runs may hold figures that are no longer written.
    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    time: float
    """Unix time, seconds."""
    run: str
    kind: str
    step: int
    samples: int
    """Rainy crops trained on so far, over all workers."""
    stage: int
    seconds: float
    """Training time so far."""

    def record(self) -> dict[str, Any]:
        """The line by the names of the file."""
        return self.model_dump(by_alias=True)

    def json_text(self) -> str:
        """The line as JSON, without a line end."""
        return json.dumps(self.record())

    def figures(self) -> dict[str, float]:
        """The known figures by the names of the file, ``rate/step_ms`` for example."""
        return {name: value for name, value in self.record().items() if "/" in name and value is not None}


class StepLine(_Line):
    """Means over the steps since the last such line, and the losses of the last step (:meth:`losses`)."""

    kind: Literal["step"] = "step"
    images_per_second: float = Field(alias="rate/images_per_second")
    """Rainy crops, over all workers."""
    step_ms: float = Field(alias="rate/step_ms")
    data_ms: float = Field(alias="rate/data_ms")
    """Part of ``step_ms`` spent waiting for crops."""
    candidates_ms: float | None = Field(None, alias="rate/candidates_ms")
    """Part of ``step_ms`` spent making candidates; None in runs of earlier versions."""
    pool_entries: int | None = Field(None, alias="pool/entries")
    """Images that have a reward; None, as the next two, as long as the pool has not answered."""
    pool_mean_log_odds: float | None = Field(None, alias="pool/mean_log_odds")
    pool_acceptance: float | None = Field(None, alias="pool/acceptance")
    """Share of the offers that were accepted."""
    pool_replacements: int | None = Field(None, alias="pool/replacements")
    """Offers that were accepted, the first of each image among them; None in runs of earlier versions."""
    scored: int = Field(0, alias="recycled/scored")
    """Candidates scored since this process started, over all workers, as the next two."""
    dropped: int = Field(0, alias="recycled/dropped")
    lost: int = Field(0, alias="recycled/lost")

    def losses(self) -> dict[str, float]:
        """Loss terms by the method's names for them."""
        return {n.removeprefix("loss/"): x for n, x in self.figures().items() if n.startswith("loss/")}


class EvaluationLine(_Line):
    """Means over the validation pairs, protocol A, of the averaged weights."""

    kind: Literal["evaluation"] = "evaluation"
    psnr_y: float = Field(alias="validation/psnr_y")
    ssim_y: float = Field(alias="validation/ssim_y")
    psnr_rgb: float = Field(alias="validation/psnr_rgb")
    ssim_rgb: float = Field(alias="validation/ssim_rgb")
    gain_db: float = Field(alias="validation/gain_db")
    """PSNR-Y gained over the rainy images."""


class NoticeLine(_Line):
    """Something that a person should know."""

    kind: Literal["notice"] = "notice"
    text: str


Line = StepLine | EvaluationLine | NoticeLine
_LINES: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="kind")])


def parse(text: str | bytes) -> Line | None:
    """The line that a text holds; None if it is cut off, or of a kind that is not known."""
    try:
        return _LINES.validate_python(json.loads(text))
    except ValueError:
        return None
