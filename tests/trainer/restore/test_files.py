"""Files and folders: each image comes back as it was, where it belongs; one odd file never ends the rest."""

import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from torch import nn

from rgsud_core.errors import FileError
from rgsud_core.images import read_image
from trainer.errors import TrainerError
from trainer.restore.files import derain_path, result_names, suffix_of


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class Identity(nn.Module):
    def __init__(self, multiple: int = 1) -> None:
        super().__init__()
        self.multiple = multiple

    def forward(self, x):
        return x


@pytest.fixture
def source(tmp_path):
    for name in ("a.png", "deep/er/b.jpg", "deep/c.bmp"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(photograph(20, 30)).save(path)
    return tmp_path / "in"


def test_a_folder_keeps_its_structure(source, tmp_path):
    calls = []
    count = derain_path(Identity(8), source, tmp_path / "out", on_progress=lambda *n: calls.append(n))
    assert count == 3
    assert calls == [(1, 3), (2, 3), (3, 3)]
    written = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*"))
    assert written == ["a.png", "deep/c.bmp", "deep/er/b.jpg"]
    assert np.array_equal(read_image(tmp_path / "out/a.png"), photograph(20, 30))
    assert PIL.Image.open(tmp_path / "out/deep/er/b.jpg").format == "JPEG"


def test_a_single_file_goes_where_it_is_told(source, tmp_path):
    (tmp_path / "results.2024").mkdir()
    for folder in ("results.2024", "new.2025/"):
        derain_path(Identity(), source / "a.png", f"{tmp_path}/{folder}")
        assert (tmp_path / folder / "a.png").is_file()
    assert derain_path(Identity(), source / "a.png", tmp_path / "x" / "result.tif") == 1
    assert PIL.Image.open(tmp_path / "x" / "result.tif").format == "TIFF"
    derain_path(Identity(), source / "a.png", tmp_path / "x")
    derain_path(Identity(), source / "a.png", tmp_path / "new")
    assert np.array_equal(read_image(tmp_path / "x" / "a.png"), read_image(tmp_path / "new" / "a.png"))
    with pytest.raises(TrainerError, match=r"names no known image format: .* in / where"):
        derain_path(Identity(), source / "a.png", tmp_path / "x.doc")


def test_unreadable_files_are_told_after_the_others_are_done(source, tmp_path):
    (source / "b.jpg").write_text("hello")
    (source / "deep" / "d.png").write_bytes((source / "a.png").read_bytes()[:300])
    with pytest.raises(TrainerError) as caught:
        derain_path(Identity(), source, tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("2 of 5 images failed, 3 are done")
    assert "b.jpg is not an image" in lines[1]
    assert "d.png cannot be read" in lines[2]
    assert len(lines) == 3
    assert len(list((tmp_path / "out").rglob("*.*"))) == 3


def test_results_that_cannot_be_written_are_told(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "deep").write_text("in the way")
    with pytest.raises(TrainerError, match=r"2 of 3 images failed, 1 are done:\n.*c\.bmp cannot be written"):
        derain_path(Identity(), source, tmp_path / "out")


def test_sources_are_never_overwritten(source, tmp_path):
    with pytest.raises(TrainerError, match=r"would overwrite .*a\.png"):
        derain_path(Identity(), source / "a.png", source)
    with pytest.raises(TrainerError, match="lies within"):
        derain_path(Identity(), source, source / "out")
    with pytest.raises(TrainerError, match="is a file name"):
        derain_path(Identity(), source, tmp_path / "out.png")
    with pytest.raises(TrainerError, match="does not exist"):
        derain_path(Identity(), tmp_path / "none.png", tmp_path / "out")


def test_nothing_that_lies_where_results_go_is_replaced_unasked(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").write_bytes(b"another photograph")
    with pytest.raises(TrainerError, match=r"1 results would take the place of files: .*a\.png; --skip"):
        derain_path(Identity(), source, out)
    with pytest.raises(TrainerError, match="take the place"):
        derain_path(Identity(), source / "a.png", out)
    assert [path.name for path in out.iterdir()] == ["a.png"]

    said: list[str] = []
    assert derain_path(Identity(), source, out, existing="skip", on_notice=said.append) == 2
    assert said == ["1 of 3 images are left out, since their results are there."]
    assert (out / "a.png").read_bytes() == b"another photograph"
    assert derain_path(Identity(), source, out, existing="skip") == 0
    assert derain_path(Identity(), source, out, existing="replace") == 3
    assert np.array_equal(read_image(out / "a.png"), photograph(20, 30))
    # A file that was named is meant.
    assert derain_path(Identity(), source / "a.png", out / "a.png") == 1


@pytest.mark.parametrize("way", ["file", "folder", "link", "hard link"])
def test_no_way_leads_to_a_source(way, source, tmp_path):
    before = (source / "a.png").read_bytes()
    (tmp_path / "linked").symlink_to(source)
    os.link(source / "a.png", tmp_path / "hard.png")
    target = {
        "file": source / "a.png",
        "folder": source,
        "link": tmp_path / "linked" / "a.png",
        "hard link": tmp_path / "hard.png",
    }[way]
    with pytest.raises(TrainerError, match="would overwrite"):
        derain_path(Identity(), source / "a.png", target, existing="replace")
    assert (source / "a.png").read_bytes() == before


def test_names_that_differ_in_the_suffix_alone_have_a_result_each(tmp_path):
    for name in ("a.png", "a.jpg", "A.PNG", "a.tif.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(photograph(8, 9)).save(path)
    assert derain_path(Identity(), tmp_path / "in", tmp_path / "out") == 4
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.png", "a.jpg", "A.PNG", "a.tif.png"}


def test_a_format_that_is_only_read_has_a_result_of_its_own(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.psd", "a.psd.png"):  # Pillow goes by the content
        PIL.Image.fromarray(photograph(8, 9)).save(tmp_path / "in" / name, "PNG")
    assert derain_path(Identity(), tmp_path / "in", tmp_path / "out") == 2
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.psd.png.png", "a.psd.png"}


def test_what_is_left_out_is_said(source, tmp_path):
    (source / "notes.txt").write_text("none")
    (source / "clip.heic").write_bytes(b"no format of ours")
    (source / "linked").symlink_to(tmp_path)
    frames = [PIL.Image.fromarray(photograph(8, 9, seed)) for seed in range(3)]
    frames[0].save(source / "moving.gif", save_all=True, append_images=frames[1:])
    said: list[str] = []
    assert derain_path(Identity(), source, tmp_path / "out", on_notice=said.append) == 4
    assert len(said) == 2
    assert "3 entries of" in said[0]
    assert all(name in said[0] for name in ("notes.txt", "clip.heic", "linked"))
    assert "without 2 more frames, pages or previews" in said[1]
    assert "moving.gif" in said[1]


def test_a_target_that_cannot_be_written_is_refused_before_the_work(source):
    class Never(nn.Module):
        def forward(self, x):
            raise AssertionError("the work has begun")

    for target in ("/proc/none/out", "/proc/none.png"):
        with pytest.raises(FileError, match=r"/proc.* cannot be written"):
            derain_path(Never(), source / "a.png", target)


def _long_name(folder: Path, picture: PIL.Image.Image) -> Path:
    path = folder / f"{'x' * 246}.png"
    picture.save(path)
    return path


def _odd_exif(folder: Path, picture: PIL.Image.Image) -> Path:
    """An entry that Pillow reads and cannot write: a rational that is text."""
    entries = [(0x0112, 3, 1, b"\6\0\0\0"), (0x010F, 12, 4, b"\xff\xff\xff\xff"), (0x9999, 77, 3, b"????")]
    data = b"II*\0\x08\0\0\0" + len(entries).to_bytes(2, "little")
    for tag, kind, count, value in entries:
        data += tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + count.to_bytes(4, "little") + value
    picture.save(folder / "exif.jpg", exif=b"Exif\0\0" + data + b"\0\0\0\0")
    return folder / "exif.jpg"


def _bad_profile(folder: Path, picture: PIL.Image.Image) -> Path:
    picture.save(folder / "icc.png", icc_profile=b"no profile at all" * 9)
    return folder / "icc.png"


def _odd_size(folder: Path, picture: PIL.Image.Image) -> Path:
    picture.resize((1, 2000)).save(folder / "strip.webp")
    return folder / "strip.webp"


def _undecodable(folder: Path, picture: PIL.Image.Image) -> Path:
    path = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png"))
    picture.save(path)
    return path


@pytest.mark.parametrize("make", [_long_name, _odd_exif, _bad_profile, _odd_size, _undecodable])
def test_odd_files_are_derained(make, tmp_path):
    (tmp_path / "in").mkdir()
    path = make(tmp_path / "in", PIL.Image.fromarray(photograph(20, 30)))
    assert derain_path(Identity(), tmp_path / "in", tmp_path / "out") == 1
    assert read_image(tmp_path / "out" / path.name).shape == read_image(path).shape


@pytest.mark.parametrize(
    "fault",
    [
        ValueError("odd"),
        KeyError("EXIF"),
        MemoryError(),
        AssertionError(),
        RuntimeError("can't allocate memory"),
    ],
)
def test_whatever_is_raised_for_one_file_the_others_are_derained(fault, source, tmp_path, monkeypatch):
    from trainer.restore import files

    real = files.read_photograph

    def read(path):
        if path.name == "a.png":
            raise fault
        return real(path)

    monkeypatch.setattr(files, "read_photograph", read)
    with pytest.raises(TrainerError, match=r"1 of 3 images failed, 2 are done:\n.*a\.png") as caught:
        derain_path(Identity(), source, tmp_path / "out")
    assert ("--tile" in str(caught.value)) == ("emory" in repr(fault))
    assert len(list((tmp_path / "out").rglob("*.*"))) == 2


def test_another_format_changes_names_and_files(source, tmp_path):
    assert derain_path(Identity(), source, tmp_path / "out", suffix=".jpg") == 3
    written = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert written == {"a.jpg", "deep/c.jpg", "deep/er/b.jpg"}
    assert {PIL.Image.open(tmp_path / "out" / name).format for name in written} == {"JPEG"}
    derain_path(Identity(), source / "a.png", tmp_path / "one", suffix=".tif")
    assert PIL.Image.open(tmp_path / "one" / "a.tif").format == "TIFF"
    with pytest.raises(TrainerError, match=r"x\.png is of another format than \.tif"):
        derain_path(Identity(), source / "a.png", tmp_path / "x.png", suffix=".tif")
    derain_path(Identity(), source / "a.png", tmp_path / "x.tiff", suffix=".tif")


@pytest.mark.parametrize(("format", "suffix"), [("png", ".png"), (".JPG", ".jpg"), ("TIFF", ".tiff")])
def test_formats_are_called_as_suffixes_are(format, suffix):
    assert suffix_of(format) == suffix


@pytest.mark.parametrize("format", ["", ".", "psd", "mp4", "pdf", "jp/g", "heic"])
def test_what_is_no_format_is_said(format):
    with pytest.raises(TrainerError, match=r"is no image format: give one of .*\.jpg, .*\.png"):
        suffix_of(format)


@pytest.mark.parametrize(
    ("suffix", "names", "results"),
    [
        (None, "a.png a.jpg", "a.png a.jpg"),
        (None, "a.psd a.psd.png", "a.psd.png.png a.psd.png"),
        (".jpg", "a.png b.jpeg c.psd", "a.jpg b.jpeg c.jpg"),
        (".jpg", "a.bmp a.jpg a.png d/a.png", "a.bmp.jpg a.jpg a.png.jpg d/a.jpg"),
        (".jpg", "a.png a.png.jpg a.tif", "a.png.jpg.jpg a.png.jpg a.tif.jpg"),
        (".jpg", "a.png a.png.tif a.tif", "a.png.jpg.jpg a.png.jpg a.tif.jpg"),
    ],
)
def test_results_have_names_of_their_own(suffix, names, results):
    paths = [Path(name) for name in names.split()]
    assert [name.as_posix() for name in result_names(paths, suffix)] == results.split()


def test_no_two_results_have_one_name_whatever_their_sources_are_called():
    rng = np.random.default_rng(0)
    for _ in range(300):
        endings = rng.choice([".png", ".jpg", ".psd", ".tif", ".jpeg"], (12, 3))
        paths = sorted({Path("ab"[n % 2] + "".join(ends[: 1 + n % 3])) for n, ends in enumerate(endings)})
        for suffix in (None, ".jpg", ".png"):
            names = result_names(paths, suffix)
            assert len(set(names)) == len(paths) == len(names)
            assert suffix is None or all(name.suffix in (suffix, ".jpeg") for name in names)
