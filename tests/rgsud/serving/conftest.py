"""The service over networks whose work is known."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from torch import Tensor, nn

from rgsud.api import Derainer
from rgsud.serving.app import create_app
from rgsud.serving.work import Deraining, WorkSettings
from tests.patience import PATIENCE


class Dimmed(nn.Module):
    """Half as bright; waits where it is held, once it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.going = threading.Semaphore(0), threading.Event()
        self.going.set()

    def forward(self, x: Tensor) -> Tensor:
        self.entered.release()
        assert self.going.wait(PATIENCE)
        return x / 2


class Broken(nn.Module):
    """Fine on nothing, and no number on anything else."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, torch.nan, x)


@pytest.fixture
def network() -> Dimmed:
    return Dimmed()


@pytest.fixture
def served(network: Dimmed) -> Iterator[Callable[..., TestClient]]:
    """Makes the service: a client of it, on this machine."""
    opened: list[Deraining] = []

    def make(tokens: Any = None, limits: Any = None, net: nn.Module = network, **settings: Any) -> TestClient:
        opened.append(Deraining(Derainer(net, device="cpu"), WorkSettings(**settings)))
        return TestClient(create_app(opened[-1], "tiny", tokens, limits), "http://localhost")

    yield make
    network.going.set()
    for work in opened:
        work.close()
