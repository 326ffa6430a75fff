"""Metrics of pyiqa by name: random weights or files written here, never the network."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
import scipy.io
import torch

from iqa_service.errors import ScorerError
from iqa_service.registry import open_scorer
from iqa_service.scorers.base import Candidate
from iqa_service.scorers.pyiqa_metrics import Scale, from_log_odds, to_log_odds
from rgsud_core.images import Image

pyiqa = pytest.importorskip("pyiqa", reason="the extra rgsud[metrics] is not installed")


@pytest.fixture(scope="module")
def cnniqa_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    return dict(pyiqa.create_metric("cnniqa", device="cpu", pretrained=None).net.state_dict())


@pytest.fixture(scope="module")
def pristine() -> dict[str, np.ndarray]:
    draws = np.random.default_rng(0).normal(1, 0.3, (500, 36))
    return {"mu_pris_param": draws.mean(0)[None], "cov_pris_param": np.cov(draws.T)}


@pytest.mark.parametrize("lower_better", [False, True])
@pytest.mark.parametrize("bounds", [(0, 1), (1, 5), (-2, 2), (0, None), (None, None)])
def test_log_odds_rise_with_quality_and_stay_finite(
    bounds: tuple[float | None, float | None], lower_better: bool
) -> None:
    scale = Scale(*bounds, lower_better)
    scores = np.linspace(-7, 7, 1401)
    odds = np.array([to_log_odds(score, scale) for score in scores], np.float32)
    assert np.isfinite(odds).all()
    assert [from_log_odds(float(one), scale) for one in odds] == pytest.approx(scores, abs=1e-4)
    assert (np.diff(odds) * (-1 if lower_better else 1) > 0).all()


def test_log_odds_are_those_of_the_share_of_the_range() -> None:
    assert to_log_odds(75, Scale(0, 100, False)) == pytest.approx(math.log(3))
    assert to_log_odds(75, Scale(0, 100, True)) == pytest.approx(-math.log(3))
    assert to_log_odds(2, Scale(1, 5, False)) == pytest.approx(math.log(1 / 3))
    joint = [to_log_odds(0.99 + step, Scale(0, 1, False)) for step in (-1e-6, 0, 1e-6)]
    assert joint[1] - joint[0] == pytest.approx(joint[2] - joint[1], rel=1e-3)


def test_a_local_file_gives_the_scores_of_the_metric_itself(
    cnniqa_state: dict[str, torch.Tensor], tmp_path, china: Image, flower: Image
) -> None:
    torch.save({"params": {f"module.{k}": v for k, v in cnniqa_state.items()}}, tmp_path / "w.pth")
    backend = open_scorer(f"local:cnniqa?weights={tmp_path / 'w.pth'}&device=cpu")
    metric = pyiqa.create_metric("cnniqa", device="cpu", pretrained=None)
    metric.net.load_state_dict(cnniqa_state)
    frozen = china.copy()
    frozen.setflags(write=False)
    scores = backend.score([Candidate("a", frozen), Candidate("b", flower[:90])])
    assert scores.dtype == np.float32
    for image, score in zip((china, flower[:90]), scores, strict=True):
        raw = float(metric(torch.from_numpy(image / np.float32(255)).permute(2, 0, 1)[None]))
        assert score == pytest.approx(to_log_odds(raw, Scale(0, 1, lower_better=False)), rel=1e-3)


def test_a_metric_where_lower_is_better_is_turned_round(
    pristine: dict[str, np.ndarray], tmp_path, china: Image
) -> None:
    np.savez(tmp_path / "p.npz", **pristine)
    scipy.io.savemat(
        tmp_path / "p.mat",
        {"mu_prisparam": pristine["mu_pris_param"], "cov_prisparam": pristine["cov_pris_param"]},
    )
    npz, mat = (open_scorer(f"local:niqe?weights={tmp_path / name}") for name in ("p.npz", "p.mat"))
    assert npz.fingerprint == mat.fingerprint
    candidates = [Candidate("a", china)]
    assert npz.score(candidates) == pytest.approx(mat.score(candidates))
    metric = pyiqa.create_metric("niqe", device="cpu", pretrained_model_path=str(tmp_path / "p.mat"))
    raw = float(metric(torch.from_numpy(china / np.float32(255)).permute(2, 0, 1)[None]))
    assert npz.score(candidates)[0] == pytest.approx(math.log((100 - raw) / raw), rel=1e-3)
    assert npz.in_unit(float(npz.score(candidates)[0])) == pytest.approx(raw, rel=1e-3)
    assert (npz.unit, npz.lower_better) == ("niqe", True)


def test_the_fingerprint_is_of_the_weights(
    cnniqa_state: dict[str, torch.Tensor], pristine: dict[str, np.ndarray], tmp_path
) -> None:
    def prints(spec: str, name: str) -> str:
        return open_scorer(f"local:{spec}?weights={tmp_path / name}").fingerprint

    torch.save(cnniqa_state, tmp_path / "a.pth")
    torch.save({"state_dict": cnniqa_state}, tmp_path / "same.pth")
    torch.save(cnniqa_state | {"fc3.bias": cnniqa_state["fc3.bias"] + 1e-3}, tmp_path / "b.pth")
    assert prints("cnniqa", "a.pth") == prints("cnniqa", "same.pth") != prints("cnniqa", "b.pth")
    np.savez(tmp_path / "a.npz", **pristine)
    np.savez(tmp_path / "b.npz", **(pristine | {"mu_pris_param": pristine["mu_pris_param"] + 1e-3}))
    assert prints("niqe", "a.npz") != prints("niqe", "b.npz")


def test_random_weights_are_the_same_ones_and_leave_the_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second = (open_scorer("local:cnniqa?pretrained=null") for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("local:niqee", "unknown scorer 'local:niqee': did you mean 'local:niqe'?"),
        ("local:psnr", "'psnr' needs more than the one image"),
        ("local:fid", "'fid' needs more than the one image"),
        ("local:cnniqa?weights=absent.pth", "no weights at 'absent.pth'"),
        ("local:cnniqa?pretrained=null&pretraind=1", "cannot open 'local:cnniqa'.*'pretraind'"),
        ("local:cnniqa?pretrained=[", "the options of 'local:cnniqa' are not valid"),
    ],
)
def test_what_cannot_be_opened_is_named(spec: str, message: str) -> None:
    with pytest.raises(ScorerError, match=message):
        open_scorer(spec)


def test_weights_that_do_not_fit_or_would_run_code_are_refused(
    cnniqa_state: dict[str, torch.Tensor], tmp_path
) -> None:
    torch.save({"fc1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save({"params": print}, tmp_path / "code.pth")
    with pytest.raises(ScorerError, match="cannot open 'local:cnniqa'"):
        open_scorer(f"local:cnniqa?weights={tmp_path / 'other.pth'}")
    with pytest.raises(ScorerError, match="is no plain tensor"):
        open_scorer(f"local:cnniqa?weights={tmp_path / 'code.pth'}")


def test_nan_and_images_that_are_too_small_are_named(
    cnniqa_state: dict[str, torch.Tensor], tmp_path, china: Image
) -> None:
    torch.save(cnniqa_state | {"fc3.bias": torch.tensor([math.nan])}, tmp_path / "nan.pth")
    backend = open_scorer(f"local:cnniqa?weights={tmp_path / 'nan.pth'}")
    with pytest.raises(ScorerError, match="cnniqa gave nan for candidate 'pagoda'"):
        backend.score([Candidate("pagoda", china)])
    with pytest.raises(ScorerError, match="cannot score candidate 'dot', 4 x 4 pixels"):
        backend.score([Candidate("dot", china[:4, :4])])


def test_without_pyiqa_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ScorerError, match=r"pip install 'rgsud\[metrics\]'"):
        open_scorer("local:musiq")
    with pytest.raises(ScorerError, match="did you mean 'local:daclip-lite'"):
        open_scorer("local:daclip-ligt")
