import itertools
import pickle

import numpy as np
import PIL.Image
import pytest
import torch

from rgsud_core.errors import FileError
from trainer.batch import Batch, Crop
from trainer.data.crops import PairedBatches, UnpairedBatches
from trainer.data.folders import ImageFolder
from trainer.data.pairing import PairedFolder
from trainer.errors import TrainerError


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for domain, count in (("rainy", 6), ("clean", 4)):
        (tmp_path / domain).mkdir()
        for number in range(count):
            image = rng.integers(0, 256, (30 + number, 40, 3), dtype=np.uint8)
            PIL.Image.fromarray(image).save(tmp_path / domain / f"{number}.png")
    return ImageFolder(tmp_path / "rainy"), ImageFolder(tmp_path / "clean")


def batches(folders, **changed) -> UnpairedBatches:
    return UnpairedBatches(*folders, **{"crop": 24, "batch": 2, "seed": 5, **changed})


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.O_r, b.O_r) and torch.equal(a.B_u, b.B_u) and a.crops == b.crops


def test_a_batch_holds_the_crops_it_names(folders):
    batch = batches(folders).batch(3)
    assert batch.O_r.shape == batch.B_u.shape == (2, 3, 24, 24)
    assert batch.O_r.dtype == torch.uint8
    assert batch.O_r.is_contiguous()
    for crop, pixels in zip(batch.crops, batch.O_r, strict=True):
        image = folders[0].load_id(crop.id)
        box = image[crop.top : crop.top + 24, crop.left : crop.left + 24]
        expected = box[:, ::-1] if crop.flip else box
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), expected)
        assert np.array_equal(crop.cut(image), expected)


def test_a_batch_depends_on_its_number_and_the_seed_alone(folders):
    ahead = batches(folders)
    forward = [ahead.batch(number) for number in range(8)]
    fresh = pickle.loads(pickle.dumps(batches(folders, cache_bytes=0)))
    for number in (7, 0, 5, 5):
        assert same(fresh.batch(number), forward[number])
    assert not same(batches(folders, seed=6).batch(0), forward[0])
    assert len({(crop.top, crop.left, crop.flip) for batch in forward for crop in batch.crops}) > 10


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_goes_through_the_batches_in_order(folders, workers):
    made = batches(folders)
    loaded = list(itertools.islice(made.loader(start=3, workers=workers), 5))
    assert all(same(batch, made.batch(3 + i)) for i, batch in enumerate(loaded))


def test_the_loader_draws_nothing_from_the_random_state_of_the_run(folders):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(batches(folders).loader())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_lost_meanwhile_is_told_in_one_sentence(folders, workers):
    lost = folders[1].files["2"]
    lost.unlink()
    with pytest.raises(FileError) as caught:
        list(itertools.islice(batches(folders).loader(workers=workers), 4))
    assert str(caught.value) == f"{lost} does not exist."


def test_ranks_share_out_every_epoch_in_a_new_order(folders):
    ranks = [batches(folders, batch=1, rank=rank, world=3) for rank in range(3)]
    orders = []
    for epoch in range(3):
        numbers = (2 * epoch, 2 * epoch + 1)
        orders.append([rank.batch(number).crops[0].id for number in numbers for rank in ranks])
        assert sorted(orders[-1]) == folders[0].ids
    assert orders[0] != orders[1] != orders[2]


def test_the_two_domains_do_not_move_together(folders):
    made = UnpairedBatches(folders[0], folders[0], crop=24, batch=6, seed=0)
    assert not torch.equal(made.batch(0).O_r, made.batch(0).B_u)


def test_images_are_decoded_once_within_the_byte_limit(folders, monkeypatch):
    loads = []
    load = ImageFolder.load
    monkeypatch.setattr(ImageFolder, "load", lambda self, index: (loads.append(index), load(self, index))[1])
    made = batches(folders)
    for number in range(12):
        made.batch(number)
    assert len(loads) == 10
    loads.clear()
    made = batches(folders, cache_bytes=2 * 3 * 40 * 40 * 3)
    for number in range(12):
        made.batch(number)
    assert 10 < len(loads) < 48
    assert made.rainy.cached <= 3 * 40 * 40 * 3


def test_an_image_smaller_than_the_crop_is_named(folders):
    with pytest.raises(TrainerError, match=r"'\d' is 40x3\d, too small for a crop of 39x39"):
        batches(folders, crop=39).batch(0)
    with pytest.raises(TrainerError, match="too small"):
        Crop("x", 10, 0, 24, False).cut(np.zeros((30, 40, 3), np.uint8))


def test_paired_batches_cut_both_sides_alike(folders, tmp_path):
    (tmp_path / "truth").mkdir()
    for path in folders[0].files.values():
        PIL.Image.fromarray(255 - np.asarray(PIL.Image.open(path))).save(tmp_path / "truth" / path.name)
    made = PairedBatches(PairedFolder(folders[0].root, tmp_path / "truth"), crop=24, batch=4, seed=1)
    batch = made.batch(2)
    assert torch.equal(batch.O_r, 255 - batch.B_u)
    assert torch.equal(next(made.loader(start=2)).O_r, batch.O_r)
