"""Photographs come back as they were: colours, depth, transparency, notes, quality."""

import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.JpegImagePlugin
import pytest
import tifffile

from rgsud_core.colours import eight_bits, to_srgb
from rgsud_core.errors import FileError
from rgsud_core.images import MEGAPIXELS_VARIABLE, SUFFIXES, image_format, read_image
from rgsud_core.photographs import Photograph, read_photograph

HEIGHT, WIDTH = 24, 32


def scene(channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    planes = np.stack([x * 5 + 30, y * 6 + 40, x + y + 90, 255 - x * 3], -1)[..., :channels].astype(np.uint8)
    return planes if dtype == np.uint8 else planes.astype(np.uint16) * 257 - 5


def wide_gamut(space: bytes = b"RGB ") -> bytes:
    """A profile whose red is green and whose green is red, so that it cannot be mistaken for none."""
    data = bytearray(PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack_from(">I", data, 128)[0]
    for tag in range(132, 132 + 12 * count, 12):
        name = bytes(data[tag : tag + 4])
        data[tag : tag + 4] = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}.get(name, name)
    data = bytearray(bytes(data).replace("sRGB".encode("utf-16-be"), "wide".encode("utf-16-be")))
    data[16:20] = space
    return bytes(data)


def back(path: Path, to: str | None = None) -> Path:
    """The file that the photograph gives with its own pixels."""
    photograph = read_photograph(path)
    result = path.with_name(f"back-{path.stem}{to or path.suffix}")
    assert photograph.write(photograph.pixels, result) == []
    return result


EXIF = PIL.Image.Exif()
EXIF.update({0x010F: "maker", 0x8298: "somebody", 0x9286: "a note"})
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF/></x:xmpmeta>'


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_what_a_file_says_comes_back(suffix, tmp_path):
    path, profile = tmp_path / f"a{suffix}", wide_gamut()
    PIL.Image.fromarray(scene()).save(path, exif=EXIF, icc_profile=profile, xmp=XMP, quality=95)
    if suffix in (".png", ".tif"):
        texts = PIL.PngImagePlugin.PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
        tags = PIL.Image.Exif()
        tags.update({0x010F: "maker", 0x8298: "somebody", 700: XMP})
        more = {"pnginfo": texts, "exif": EXIF} if suffix == ".png" else {"exif": tags}
        PIL.Image.fromarray(scene()).save(path, icc_profile=profile, **more)
    with PIL.Image.open(back(path)) as image:
        assert image.format == PIL.Image.open(path).format
        assert image.info["icc_profile"] == profile
        assert (image.getexif()[0x010F], image.getexif()[0x8298]) == ("maker", "somebody")
        assert b"xmpmeta" in image.info["xmp"]
        assert np.abs(np.asarray(image).astype(int) - scene()).max() < 12


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_once(suffix, orientation, tmp_path):
    path = tmp_path / f"a{suffix}"
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(scene()).save(path, exif=exif, quality=98)
    result = back(path)
    assert np.abs(read_image(result).astype(int) - read_image(path)).max() < 20
    if suffix == ".jpg":  # OpenCV turns what EXIF says itself
        seen, wanted = (cv2.imread(str(file))[..., ::-1].astype(int) for file in (result, path))
        assert np.abs(seen - wanted).max() < 20
    with PIL.Image.open(result) as image:
        assert image.size == read_image(path).shape[1::-1]
        assert image.getexif().get(0x0112, 1) == 1


def test_what_a_camera_wrote_stays_byte_for_byte_without_the_preview(tmp_path):
    preview = struct.pack("<H", 0) + b"\0\0\0\0"
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", 2)
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHI", 0x927C, 7, 4) + b"\xff\0\xfe\1"
    exif = head + entries + struct.pack("<I", len(head + entries) + 4) + preview
    PIL.Image.fromarray(scene()).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + exif)
    with PIL.Image.open(back(tmp_path / "a.jpg")) as image:
        kept = image.info["exif"].removeprefix(b"Exif\0\0")
    upright = entries.replace(struct.pack("<HHII", 0x0112, 3, 1, 6), struct.pack("<HHII", 0x0112, 3, 1, 1))
    assert kept == head + upright + b"\0\0\0\0" + preview


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_and_transparency_come_back(suffix, channels, tmp_path):
    pixels = scene(channels, np.uint16)
    path = tmp_path / f"a{suffix}"
    swapped = pixels[..., [2, 1, 0, 3][:channels]] if channels > 1 else pixels
    cv2.imwrite(str(path), swapped, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    read = cv2.imread(str(back(path)), cv2.IMREAD_UNCHANGED)
    assert read.dtype == np.uint16
    assert np.array_equal(read.reshape(swapped.shape), swapped)


@pytest.mark.parametrize(
    ("mode", "suffix", "same"),
    [
        *[(mode, ".png", True) for mode in ("L", "LA", "RGB", "RGBA")],
        *[("1", ".png", False), ("P", ".png", False)],
        *[(mode, ".tif", True) for mode in ("L", "LA", "RGB", "RGBA")],
        *[("RGBA", ".webp", True), ("RGB", ".gif", False), ("L", ".bmp", True), ("RGB", ".ppm", True)],
        *[("RGBA", ".tga", True), ("RGB", ".pcx", True), ("RGBA", ".qoi", True), ("L", ".jp2", True)],
    ],
)
def test_modes_come_back(mode, suffix, same, tmp_path):
    image = PIL.Image.fromarray(scene(4), "RGBA").convert(mode)
    image.save(tmp_path / f"a{suffix}", **({"lossless": True, "exact": True} if suffix == ".webp" else {}))
    with (
        PIL.Image.open(tmp_path / f"a{suffix}") as before,
        PIL.Image.open(back(tmp_path / f"a{suffix}")) as after,
    ):
        assert after.format == before.format
        if same:
            assert after.mode == before.mode
        assert (
            np.abs(np.asarray(after.convert("RGBA")).astype(int) - np.asarray(before.convert("RGBA"))).max()
            <= 2
        )


@pytest.mark.parametrize(("quality", "subsampling"), [(30, 2), (75, 1), (96, 0)])
def test_jpeg_keeps_its_quality(quality, subsampling, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    PIL.Image.fromarray(noise).save(
        tmp_path / "a.jpg", quality=quality, subsampling=subsampling, progressive=True, comment=b"hello"
    )
    with PIL.Image.open(tmp_path / "a.jpg") as before, PIL.Image.open(back(tmp_path / "a.jpg")) as after:
        assert after.quantization == before.quantization
        assert PIL.JpegImagePlugin.get_sampling(after) == PIL.JpegImagePlugin.get_sampling(before)
        assert "progressive" in after.info
        assert after.info["comment"] == b"hello"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".ppm", ".gif", ".tif"])
def test_colours_look_the_same_in_every_format(suffix, tmp_path):
    PIL.Image.fromarray(scene()).save(tmp_path / "a.png", icc_profile=wide_gamut())
    wanted = read_image(tmp_path / "a.png").astype(int)
    assert np.abs(wanted - scene()).max() > 50  # the profile says something
    result = tmp_path / f"b{suffix}"
    photograph = read_photograph(tmp_path / "a.png")
    photograph.write(photograph.pixels, result)
    assert np.abs(read_image(result) - wanted).mean() < 5


def test_colours_of_printers_and_laboratories_are_converted(tmp_path):
    rgb = PIL.Image.fromarray(scene())
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=98)
    lab = PIL.ImageCms.profileToProfile(
        rgb, PIL.ImageCms.createProfile("sRGB"), PIL.ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    lab.save(tmp_path / "lab.tif")
    for name in ("cmyk.jpg", "lab.tif"):
        assert np.abs(read_image(tmp_path / name).astype(int) - scene()).mean() < 8
        assert np.abs(read_image(back(tmp_path / name)).astype(int) - scene()).mean() < 8


DEPTHS = {
    "unsigned": lambda: scene(1)[..., 0].astype(np.uint32) * 16843009,
    "sixteen in 32": lambda: scene(1)[..., 0].astype(np.uint32) * 257,
    "eight in 32": lambda: scene(1)[..., 0].astype(np.uint32),
    "signed": lambda: scene(1)[..., 0].astype(np.int32) * 8421504,
    "float": lambda: scene(1)[..., 0].astype(np.float32) / 255,
    "three floats": lambda: scene().astype(np.float32) / 255,
    "three doubles": lambda: scene().astype(np.float64) / 255,
    "three planes": lambda: np.moveaxis(scene().astype(np.float32) / 255, 2, 0),
    "three of 32": lambda: scene().astype(np.uint32) * 16843009,
}


@pytest.mark.parametrize("kind", DEPTHS)
def test_every_depth_has_its_range(kind, tmp_path):
    pixels = DEPTHS[kind]()
    three = {"photometric": "rgb"} if pixels.ndim == 3 else {}
    tifffile.imwrite(tmp_path / "a.tif", pixels, **three)
    wanted = scene() if pixels.ndim == 3 else np.repeat(scene(1), 3, axis=2)
    assert np.abs(read_image(tmp_path / "a.tif").astype(int) - wanted).max() <= 1
    assert np.abs(read_image(back(tmp_path / "a.tif")).astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(
    "pixels",
    [
        *(np.full((4, 4), value, np.float32) for value in (1.5, np.nan)),
        np.full((4, 4), -1, np.int32),
        np.full((4, 4, 3), 255, np.float32),
    ],
)
def test_numbers_without_a_range_are_refused(pixels, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", pixels, **({"photometric": "rgb"} if pixels.ndim == 3 else {}))
    with pytest.raises(FileError, match=r"a\.tif cannot be read \(.* no known range\)"):
        read_image(tmp_path / "a.tif")


def test_what_a_format_cannot_hold_is_said(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), scene(4, np.uint16))
    photograph = read_photograph(tmp_path / "a.png")
    assert photograph.write(photograph.pixels, tmp_path / "a.jpg") == ["16 bits a channel", "transparency"]
    wide = np.zeros((1, 20000, 3), np.uint8)
    PIL.Image.fromarray(wide).save(tmp_path / "wide.png")
    with pytest.raises(
        FileError, match=r"wide\.webp cannot be written, since WEBP does not take it .* \.png"
    ):
        read_photograph(tmp_path / "wide.png").write(wide, tmp_path / "wide.webp")
    assert not (tmp_path / "wide.webp").exists()


def test_the_owner_of_a_large_image_may_raise_the_limit(tmp_path, monkeypatch):
    PIL.Image.new("L", (2000, 1500)).save(tmp_path / "large.png")
    monkeypatch.setenv(MEGAPIXELS_VARIABLE, "2.5")
    with pytest.raises(FileError, match=rf"3 megapixels, more than 2\.5: .* {MEGAPIXELS_VARIABLE}"):
        read_image(tmp_path / "large.png")
    monkeypatch.setenv(MEGAPIXELS_VARIABLE, "3")
    assert read_image(tmp_path / "large.png").shape == (1500, 2000, 3)
    # Where Pillow alone would take it for an attack, and warn or refuse.
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    assert read_image(tmp_path / "large.png").shape == (1500, 2000, 3)
    monkeypatch.setenv(MEGAPIXELS_VARIABLE, "many")
    with pytest.raises(FileError, match="many is no number"):
        read_image(tmp_path / "large.png")


def test_a_file_with_two_sizes_is_refused(tmp_path):
    PIL.Image.fromarray(scene()).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    header = bytearray(data[8:33])
    header[11] = 200
    header[21:] = struct.pack(">I", zlib.crc32(header[4:21]))
    (tmp_path / "a.png").write_bytes(data[:33] + bytes(header) + data[33:])
    with pytest.raises(FileError, match=r"a\.png cannot be read"):
        read_image(tmp_path / "a.png")


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png"):
        with pytest.raises(FileError, match=f"{name} is a folder or a device"):
            read_image(tmp_path / name)


def _seed(suffix: str) -> bytes:
    file = io.BytesIO()
    options = (
        {"exif": EXIF, "icc_profile": wide_gamut()} if suffix in (".jpg", ".png", ".webp", ".tif") else {}
    )
    format = {".mpo": "MPO"}.get(suffix) or image_format(Path(f"a{suffix}"))
    PIL.Image.fromarray(scene()[:9, :11]).save(file, format, **options)
    return file.getvalue()


FUZZED = (
    ".jpg",
    ".png",
    ".webp",
    ".tif",
    ".avif",
    ".gif",
    ".bmp",
    ".ppm",
    ".tga",
    ".pcx",
    ".qoi",
    ".sgi",
    ".jp2",
)


@pytest.mark.parametrize("suffix", FUZZED)
def test_damage_is_a_sentence_or_an_image_and_nothing_else(suffix, tmp_path, monkeypatch):
    monkeypatch.setenv(MEGAPIXELS_VARIABLE, "1")
    monkeypatch.setattr("rgsud_core.files.sync", lambda path: None)  # of thousands of files
    whole, rng = _seed(suffix), np.random.default_rng(0)
    path, result = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    places = [*range(min(len(whole), 120)), *rng.integers(0, len(whole), 80)]
    cases = [whole[:end] for end in rng.integers(0, len(whole), 40)]
    for place in places:
        for flip in (0xFF, 1 << int(rng.integers(8))):
            damaged = bytearray(whole)
            damaged[place] ^= flip
            cases.append(bytes(damaged))
    sentences = []
    for case in cases:
        path.write_bytes(case)
        try:
            assert read_image(path).dtype == np.uint8
            photograph = read_photograph(path)
            photograph.write(photograph.pixels, result)
        except FileError as problem:
            sentences.append(str(problem))
    assert 0 < len(sentences) < len(cases)
    assert all("\n" not in said and (path.name in said or result.name in said) for said in sentences)


def test_the_formats_of_photographs_are_listed():
    assert {".png", ".jpg", ".jpeg", ".jfif", ".tif", ".webp", ".avif", ".gif", ".bmp", ".jp2"} <= set(
        SUFFIXES
    )
    # Decoders of these start other programs, or draw what is no photograph.
    assert not {".eps", ".ps", ".wmf", ".pdf", ".mpg"} & set(SUFFIXES)


@pytest.mark.parametrize("suffix", [*FUZZED, ".dib", ".pgm", ".jfif", ".tiff", ".apng"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("profile", [None, wide_gamut()])
def test_every_photograph_goes_into_every_format(suffix, channels, dtype, profile, tmp_path):
    """Nothing but what a format cannot hold is lost, and the colours stay."""
    colours = scene(3 if channels > 2 else 1, dtype)
    photograph = Photograph(
        pixels=colours if channels > 2 else np.repeat(colours, 3, axis=2),
        alpha=None if channels % 2 else np.full((HEIGHT, WIDTH), np.iinfo(dtype).max // 2, dtype),
        grey=channels < 3,
        format="PNG",
        profile=profile if channels > 2 else None,
        exif=EXIF.tobytes().removeprefix(b"Exif\0\0"),
        xmp=XMP,
        dpi=(300.0, 300.0),
        notes={"Author": "somebody"},
    )
    path = tmp_path / f"a{suffix}"
    lost = photograph.write(photograph.pixels, path)
    assert set(lost) <= {"16 bits a channel", "transparency"}
    wanted = PIL.Image.fromarray(photograph.pixels if dtype == np.uint8 else eight_bits(photograph.pixels))
    seen = read_image(path).astype(int)
    assert np.abs(seen - np.asarray(to_srgb(wanted, photograph.profile))).mean() < 6
    again = read_photograph(path)
    assert (again.alpha is None) == (photograph.alpha is None or "transparency" in lost or suffix == ".gif")
    assert (again.pixels.dtype == np.uint16) == (dtype == np.uint16 and "16 bits a channel" not in lost)
