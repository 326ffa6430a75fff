import numpy as np
import PIL.Image
import pytest
import torch

from iqa_service.pretraining.practice_derainers import PracticeDerainers
from iqa_service.pretraining.train import (
    LITE_RULE,
    PretrainSettings,
    contrastive_loss,
    pretrain,
    ranking_loss,
    split_photographs,
)
from iqa_service.registry import open_scorer
from iqa_service.scorers.base import Candidate
from iqa_service.scorers.daclip_files import load_daclip, load_rule
from rgsud_core.errors import FileError


@pytest.fixture
def photographs(tmp_path, china, flower):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name, image in {"china": china, "flower": flower}.items():
        for part in range(3):
            PIL.Image.fromarray(image[:, part * 80 : part * 80 + 160]).save(folder / f"{name}{part}.png")
    return folder


def test_ranking_loss_asks_for_the_order_of_quality():
    quality = torch.tensor([[40.0, 30.0, 20.0]])
    right, wrong = torch.tensor([[9.0, 0.0, -9.0]]), torch.tensor([[-9.0, 0.0, 9.0]])
    assert ranking_loss(right, quality) < 0.001
    assert ranking_loss(wrong, quality) > 8
    assert ranking_loss(torch.zeros(1, 3), quality) == pytest.approx(np.log(2))
    assert ranking_loss(right, torch.full((1, 3), 30.0)) == 0


def test_contrastive_loss_is_two_sided():
    words = torch.tensor([0, 1, 1])
    told_apart = torch.tensor([[20.0, 0.0], [0.0, 20.0], [0.0, 20.0]])
    # Each image finds its word, or each word its images: at best log 2 is left where two images share a word.
    assert contrastive_loss(told_apart, words) == pytest.approx(np.log(2) / 4, abs=1e-4)
    assert contrastive_loss(-told_apart, words) > 10


def test_a_few_steps_lower_the_losses_and_the_file_opens(photographs, tmp_path):
    settings = PretrainSettings(
        photographs=photographs,
        output=tmp_path / "out/lite.safetensors",
        steps=24,
        groups=3,
        labelled=11,
        width=32,
        layers=1,
        tile=32,
        workers=0,
        report_every=8,
    )
    reports = []
    path = pretrain(settings, lambda step, losses: reports.append((step, losses)))
    assert [step for step, _ in reports] == [8, 16, 24]
    assert sum(reports[-1][1].values()) < sum(reports[0][1].values())
    assert load_rule(path) == LITE_RULE
    assert load_daclip(path).image_size == 32
    train, _ = split_photographs(photographs)
    image = np.asarray(PIL.Image.open(train[0]))
    assert np.isfinite(open_scorer(f"local:daclip?weights={path}").score([Candidate("a", image)])).all()
    again = pretrain(settings.model_copy(update={"output": tmp_path / "again.safetensors"}))
    assert again.read_bytes() == path.read_bytes()


def test_held_out_photographs_are_chosen_by_name(tmp_path):
    for n in range(80):
        (tmp_path / f"{n}.jpg").touch()
    (tmp_path / "notes.txt").touch()
    train, held_out = split_photographs(tmp_path)
    assert 4 <= len(held_out) <= 16
    assert len(train) + len(held_out) == 80
    (tmp_path / f"{train[0].stem}.jpg").unlink()
    assert split_photographs(tmp_path)[1] == held_out


def test_a_folder_without_photographs_and_a_broken_one_are_named(tmp_path):
    with pytest.raises(FileError, match="holds no image"):
        pretrain(PretrainSettings(photographs=tmp_path))
    (tmp_path / "broken.jpg").write_text("no image")
    with pytest.raises(FileError, match=r"broken.jpg is not an image"):
        pretrain(PretrainSettings(photographs=tmp_path))


def test_practice_derainers_learn_and_start_anew():
    torch.manual_seed(0)
    derainers = PracticeDerainers(1, 10_000, np.random.default_rng(0))
    clean = torch.rand(4, 3, 16, 16)
    rainy = (clean + 0.3).clamp(0, 1)
    assert (derainers.derain(rainy) - rainy).abs().mean() < 0.1
    for _ in range(150):
        derainers.train(clean, rainy)
    learnt = torch.stack([(derainers.derain(rainy) - clean).abs().mean() for _ in range(20)])
    assert learnt.min() < 0.5 * (rainy - clean).abs().mean()
    assert len(set(learnt.tolist())) > 5
    short = PracticeDerainers(1, 2, np.random.default_rng(0))
    for _ in range(5):
        short.train(clean, rainy)
    least = min((short.derain(rainy) - rainy).abs().max().item() for _ in range(10))
    assert least < 0.1
