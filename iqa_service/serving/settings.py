"""The settings of the scorer's service."""

from __future__ import annotations

import os
import re
from typing import Annotated

from pydantic import Field, SecretStr, field_validator, model_validator

from iqa_service.errors import ScorerError
from rgsud_core.errors import ServiceError
from rgsud_core.http.security import Tokens
from rgsud_core.settings import Settings

SCORER = "Scorer"
"""The name of the deployment that scores, within its application."""
TOKEN_VARIABLE = "RGSUD_SCORER_TOKEN"
"""The environment variable that service and clients take the token from."""
_TOKEN = re.compile(r"[!-~]+")
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def token_of_environment() -> SecretStr | None:
    """The token of RGSUD_SCORER_TOKEN, without the line break that secret files often end with.

    Raises:
        ScorerError: it cannot be part of a header; the message does not show it.
    """
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if token and not _TOKEN.fullmatch(token):
        raise ScorerError(f"{TOKEN_VARIABLE} must be printable ASCII without spaces: give another token")
    return SecretStr(token) if token else None


class ServiceSettings(Settings):
    """Settings of the scorer's service."""

    scorer: str = "local:daclip-lite"
    """Address of the scorer, as :func:`iqa_service.registry.open_scorer` takes it."""
    device: str | None = None
    """`cpu` or `cuda`, unless the scorer's address has it."""
    precision: str | None = None
    """`float32` or `bfloat16`, unless the scorer's address has it."""
    replicas: int = Field(1, ge=1)
    """Number of replicas; the minimum if `max_replicas` enables autoscaling."""
    max_replicas: int | None = Field(None, ge=1)
    """Largest number of replicas under load. Default: no autoscaling."""
    target_ongoing_requests: float = Field(4.0, gt=0)
    """Calls in progress in a replica above which another one is started; about two batches' worth."""
    cpus: float = Field(1.0, ge=0)
    """CPU cores that Ray reserves for each replica."""
    threads: int | None = Field(None, ge=1)
    """Threads of each replica. Default: as many as its cores."""
    gpus: float = Field(0.0, ge=0)
    """GPUs, or a fraction of one, for each replica."""
    batch_views: int = Field(64, ge=1)
    """Largest batch, in views, over all callers."""
    batch_wait_seconds: float = Field(0.004, ge=0)
    """Longest wait of a batch's first call for others to join it."""
    max_ongoing_requests: int = Field(32, ge=1)
    """Largest number of calls in progress in a replica; others wait with the caller."""
    max_queued_requests: int = Field(64, ge=1)
    """Calls that may wait with each caller; others are refused with a Retry-After."""
    retry_after_seconds: float = Field(1.0, gt=0)
    """Retry-After of a refusal."""
    timeout_seconds: float = Field(60.0, gt=0)
    """Time limit of an HTTP request."""
    http: bool = True
    """Whether to serve HTTP too; callers in the same Ray cluster do not need it."""
    max_body_bytes: int = Field(32 << 20, ge=1)
    """Largest body of a request, bytes."""
    max_pixels: int = Field(40_000_000, ge=1)
    """Largest number of pixels of an image, read from its header before it is decoded."""
    max_images: int = Field(64, ge=1)
    """Largest number of images in a request."""
    token: SecretStr | None = None
    """Bearer token of HTTP callers. Default: that of RGSUD_SCORER_TOKEN, or none is required."""

    @field_validator("token")
    @classmethod
    def _fits_a_header(cls, token: SecretStr | None) -> SecretStr | None:
        try:
            Tokens([("write", token.get_secret_value())] if token is not None else ())
        except ServiceError as problem:
            raise ValueError(str(problem)) from None
        return token

    @model_validator(mode="after")
    def _bounds_in_order(self) -> ServiceSettings:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is below replicas {self.replicas}: raise it")
        return self

    @property
    def views_at_once(self) -> int:
        """Largest number of views in a call: its body, with views of 224 pixels, must be within the limit."""
        return max(1, min(self.batch_views, self.max_body_bytes // (3 * 224 * 224)))

    @property
    def spec(self) -> str:
        """The scorer's address with device and precision."""
        extra = [f"{key}={value}" for key in ("device", "precision") if (value := getattr(self, key))]
        return self.scorer + ("&" if "?" in self.scorer else "?") * bool(extra) + "&".join(extra)
