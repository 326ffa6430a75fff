"""Two workers on half a batch each learn what one learns on the whole of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.methods.parallel import as_worker_0, average_gradients, mean_over_workers, rank, workers
from trainer.methods.rgsud import RGSUD, RGSUDSettings
from trainer.models.nafnet import NAFNet, NAFNetSettings

SETTINGS: dict[str, Any] = {
    "generator": {"width": 8, "blocks": 1, "explicit_rain": True},
    "dem": {"width": 4, "levels": 1},
    "discriminator": {"width": 4, "layers": 2},
    "self_reconstruction": 1.0,
    "clean_identity": 1.0,
}
CASES: dict[str, tuple[dict[str, Any], list[bool] | None]] = {
    "stage 1": ({}, None),
    "all rewarded": ({}, [True] * 4),
    "some rewarded": ({}, [True, True, True, False]),
    # One worker's step leaves DEM out altogether, the other's does not.
    "DEM out of one": ({"dem_source_stage2": "truth", "clean_identity": 0.0}, [True, True, False, False]),
    "DEM out of both": ({"dem_source_stage2": "truth", "clean_identity": 0.0}, [True] * 4),
}


def _step(changes: dict[str, Any], rewarded: list[bool] | None, part: slice) -> dict[str, Tensor | None]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rgsud = RGSUD(
        RGSUDSettings.model_validate(SETTINGS | changes),
        NAFNet(NAFNetSettings(width=4, encoder=(1,), middle=1, decoder=(1,))),
    )
    with torch.no_grad():
        for network in (rgsud.derainer, rgsud.G, rgsud.DEM):
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
    images = torch.rand(3, 4, 3, 32, 32)[:, part]
    chosen = None if rewarded is None else torch.tensor(rewarded)[part]
    rgsud.step(Batch(images[0], images[1], B_rw=None if chosen is None else images[2], rewarded=chosen))
    networks: dict[str, nn.Module] = {
        "derainer": rgsud.derainer,
        "G": rgsud.G,
        "DEM": rgsud.DEM,
        "D": rgsud.D,
    }
    return {
        f"{name}.{key}": None if parameter.grad is None else parameter.grad.clone()
        for name, network in networks.items()
        for key, parameter in network.named_parameters()
    }


def _worker(number: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    try:
        assert (rank(), workers()) == (number, 2)
        assert as_worker_0(7 + number, 3 * number) == (7, 0)
        assert mean_over_workers(torch.tensor(2.0 * number)).item() == 1.0
        halves = slice(2 * number, 2 * number + 2)
        torch.save(
            {name: _step(*case, halves) for name, case in CASES.items()}, f"{folder}/gradients-{number}.pt"
        )
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor | None]]]:
    from tests.patience import PATIENCE  # here: the workers run this file, and know no tests

    folder = tmp_path_factory.mktemp("workers")
    # Plain processes: pytest's modules cannot be imported by name.
    started = [subprocess.Popen([sys.executable, __file__, str(number), str(folder)]) for number in range(2)]
    assert [process.wait(PATIENCE) for process in started] == [0, 0]
    return [torch.load(folder / f"gradients-{number}.pt") for number in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_whole_batch(
    of_two: list[dict[str, dict[str, Tensor | None]]], case: str
) -> None:
    alone = _step(*CASES[case], slice(0, 4))
    first, second = (worker[case] for worker in of_two)
    assert (case == "DEM out of both") == (alone["DEM.ending.weight"] is None)
    for key, expected in alone.items():
        if expected is None:
            assert first[key] is second[key] is None
            continue
        torch.testing.assert_close(
            first[key], expected, rtol=2e-3, atol=2e-5, msg=lambda text, key=key: f"{key}: {text}"
        )
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)


def test_one_worker_exchanges_nothing(tmp_path: Path) -> None:
    layer = nn.Linear(2, 1)
    average_gradients(layer.parameters())
    assert (rank(), workers(), layer.weight.grad) == (0, 1, None)
    assert as_worker_0(1, 2) == (1, 2)


if __name__ == "__main__":
    _worker(int(sys.argv[1]), sys.argv[2])
