"""Photographs as files hold them, with transparency and notes, so that results come back as sources were."""

from __future__ import annotations

import contextlib
import io
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.JpegImagePlugin
import PIL.PngImagePlugin
from numpy.typing import NDArray

from rgsud_core.colours import (
    colour_profile,
    deep_grey,
    eight_bits,
    is_deep,
    orientation,
    to_srgb,
    turned,
    upright,
    without_alpha,
)
from rgsud_core.errors import FileError
from rgsud_core.images import encoded, image_format, opened, write_encoded

Pixels = NDArray[Any]
"""uint8 or uint16 H,W,3 RGB, or H,W."""

_ALPHA = ("AVIF", "JPEG2000", "GIF", "PNG", "QOI", "SGI", "TGA", "TIFF", "WEBP")
_GREY = ("BMP", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "SGI", "TGA", "TIFF")
_GREY_ALPHA = ("JPEG2000", "PNG", "TGA", "TIFF")
_DEEP = ("PNG", "TIFF")
_TOLD = ("AVIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Formats that hold a colour profile, EXIF and XMP."""
_TIFF_TAGS = (269, 270, 271, 272, 285, 305, 306, 315, 316, 33432, 33723, 34377)
"""Tags of TIFF that describe the picture, and not how its pixels are stored."""
_TIFF_COMPRESSIONS = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate")
_XMP_KEY = "XML:com.adobe.xmp"
_XMP_TURN = re.compile(rb'tiff:Orientation="[0-9]"|<tiff:Orientation>[0-9]</tiff:Orientation>')


@dataclass(frozen=True)
class Photograph:
    """A photograph with what its file says about it.

    Pixels are upright, and in the file's own colour profile where it can be kept; in sRGB otherwise.
    """

    pixels: Pixels
    """uint8 or uint16 H,W,3 RGB."""
    alpha: Pixels | None
    """Opacity, H,W of the type of ``pixels``."""
    grey: bool
    format: str
    """Pillow's name of the file's format."""
    profile: bytes | None
    """Colour profile of the pixels (ICC); None is sRGB."""
    exif: bytes = b""
    """EXIF from its TIFF header on, with the orientation of upright pixels and without a preview."""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    notes: dict[str, str] = field(default_factory=dict)
    """Texts of a PNG file."""
    jpeg: dict[str, Any] = field(default_factory=dict)
    """Options of Pillow's writer that give a JPEG file of the same quality."""
    compression: str = "tiff_adobe_deflate"
    """Pillow's name of the compression of a TIFF file."""
    lossless: bool = True
    """Whether a WebP file holds its pixels unchanged."""
    left_out: tuple[str, ...] = ()
    """What the file holds besides, in words."""

    def write(self, pixels: Pixels, path: Path) -> list[str]:
        """Write other pixels of the same shape and type in this one's place, in the format of the suffix.

        Returns:
            What the format could not take, in words.

        Raises:
            FileError: the format is unknown, does not take so large an image, or the file cannot be written.
        """
        format, lost = image_format(path), []
        profile, alpha, grey = self.profile, self.alpha, self.grey
        if pixels.dtype == np.uint16 and format not in _DEEP:
            lost.append("16 bits a channel")
            pixels, alpha = eight_bits(pixels), None if alpha is None else eight_bits(alpha)
        if alpha is not None and format not in _ALPHA:
            lost.append("transparency")
            alpha = None
        grey = grey and format in (_GREY if alpha is None else _GREY_ALPHA)
        if alpha is not None and pixels.dtype == np.uint16:
            grey = False  # few programs read two channels of 16 bits
        if profile is not None and (format not in _TOLD or grey != self.grey):
            if pixels.dtype == np.uint8:
                source = _one_channel(pixels) if self.grey else pixels
                pixels, grey = np.asarray(to_srgb(PIL.Image.fromarray(source), profile)), False
            profile = None
        channels = _one_channel(pixels) if grey else pixels
        picture: PIL.Image.Image | None = None
        if pixels.dtype == np.uint8 or (grey and alpha is None):
            picture = PIL.Image.fromarray(channels)
            if alpha is not None:
                picture.putalpha(PIL.Image.fromarray(alpha))
        elif alpha is not None:
            channels = np.dstack([channels, alpha])

        def content(told: bool) -> bytes:
            options = dict(self._told(format, profile)) if told else {}
            if picture is not None:
                return encoded(picture, format, path, icc_profile=profile, **options)
            return (_png if format == "PNG" else _tiff)(channels, profile, self if told else None)

        try:
            data = content(told=True)
        except FileError:
            # Some programs write EXIF that no other can write again.
            data = content(told=False)
            lost.append("EXIF, XMP and other notes, which are damaged or too long")
        write_encoded(data, path)
        return lost

    def _told(self, format: str, profile: bytes | None) -> Iterator[tuple[str, Any]]:
        """Options of Pillow's writer."""
        if self.exif and format in ("AVIF", "JPEG", "PNG", "WEBP"):
            yield "exif", b"Exif\0\0" + self.exif
        if self.xmp and format in ("AVIF", "JPEG", "WEBP"):
            yield "xmp", self.xmp
        if self.dpi is not None and format in ("BMP", "JPEG", "PNG", "TIFF"):
            yield "dpi", self.dpi
        if format == "PNG":
            yield "pnginfo", self._texts()
        if format == "TIFF":
            yield "compression", self.compression
            yield "exif", self._tiff_tags()
        if format == "WEBP":
            yield "lossless", self.lossless
        if format == "JPEG":
            yield from self.jpeg.items()

    def _texts(self) -> PIL.PngImagePlugin.PngInfo:
        texts = PIL.PngImagePlugin.PngInfo()
        for key, text in self.notes.items():
            texts.add_itxt(key, text)
        if self.xmp:
            texts.add_itxt("XML:com.adobe.xmp", self.xmp.decode("utf-8", "replace"))
        return texts

    def _tiff_tags(self) -> PIL.Image.Exif:
        tags = PIL.Image.Exif()
        if self.exif:
            tags.load(b"Exif\0\0" + self.exif)
        if self.xmp:
            tags[700] = self.xmp
        return tags


def read_photograph(path: Path | str) -> Photograph:
    """A photograph as its file holds it.

    Raises:
        FileError: the file is missing, damaged, cut short, too large, or no image.
    """
    with opened(path) as image:
        frames = getattr(image, "n_frames", 1)
        pixels, alpha, grey, profile = _pixels(image, Path(path))
        mode = "L" if grey else "RGB"
        return Photograph(
            pixels=pixels,
            alpha=alpha,
            grey=grey,
            format="JPEG" if image.format == "MPO" else str(image.format),
            profile=profile if colour_profile(mode, profile) is not None else None,
            exif=_exif(image),
            xmp=_XMP_TURN.sub(b"", image.info.get("xmp", b"")),
            dpi=_dpi(image),
            notes={key: str(text) for key, text in getattr(image, "text", {}).items() if key != _XMP_KEY},
            jpeg=_jpeg_options(image),
            compression=_compression(image),
            lossless=image.format != "WEBP" or _is_lossless_webp(Path(path)),
            left_out=(f"{frames - 1} more frames, pages or previews",) if frames > 1 else (),
        )


def _pixels(image: PIL.Image.Image, path: Path) -> tuple[Pixels, Pixels | None, bool, bytes | None]:
    """Upright pixels, opacity, whether they are grey, and the colour profile."""
    alpha: Pixels | None = None
    profile = image.info.get("icc_profile")
    deep = _deep_colours(image, path)
    if deep is not None:
        return (
            np.ascontiguousarray(deep[..., :3]),
            deep[..., 3] if deep.shape[2] == 4 else None,
            False,
            profile,
        )
    image = upright(image)
    if is_deep(image):
        plain, grey = deep_grey(image), True
    else:
        alpha = _alpha(image)
        colours = without_alpha(image)
        if colours.mode not in ("L", "RGB"):
            colours, profile = to_srgb(colours, profile), None
        plain, grey = np.array(colours), colours.mode == "L"
    return np.repeat(plain[..., None], 3, axis=2) if grey else plain, alpha, grey, profile


def _one_channel(pixels: Pixels) -> Pixels:
    mean: Pixels = np.rint(pixels.mean(axis=2)).astype(pixels.dtype)
    return mean


def _alpha(image: PIL.Image.Image) -> Pixels | None:
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if "A" in image.getbands():
        return np.array(image.getchannel("A"))
    if "transparency" in image.info and image.mode in ("1", "L", "RGB", "P"):
        return np.array(image.convert("RGBA").getchannel("A"))
    return None


def _deep_colours(image: PIL.Image.Image, path: Path) -> Pixels | None:
    """Colours of 16 bits, which Pillow would cut to 8, uint16 H,W,3 or 4; None where there are none."""
    if image.mode not in ("LA", "RGB", "RGBA"):
        return None
    turn, found = orientation(image), None
    with contextlib.suppress(ImportError, RuntimeError, ValueError, OSError):
        if image.format == "PNG" and _begins(path, 25)[24] == 16:
            from torchvision.io import ImageReadMode, decode_image

            found = decode_image(str(path), mode=ImageReadMode.UNCHANGED).numpy().transpose(1, 2, 0)
        elif image.format == "TIFF" and max(getattr(image, "tag_v2", {}).get(258, (8,))) == 16:
            import tifffile

            with tifffile.TiffFile(path) as tiff:
                found = tiff.pages[0].asarray()
                # Pillow turns a TIFF as it reads it.
                turn = int(tiff.pages.first.tags.valueof("Orientation", default=1))
    if found is None or found.dtype != np.uint16 or found.ndim != 3 or found.shape[2] not in (2, 3, 4):
        return None
    if found.shape[2] == 2:  # grey and opacity
        found = found[..., [0, 0, 0, 1]]
    planes = (PIL.Image.fromarray(found[..., band]) for band in range(found.shape[2]))
    return np.dstack([np.asarray(turned(plane, turn)) for plane in planes])


def _begins(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def _is_lossless_webp(path: Path) -> bool:
    return b"VP8L" in _begins(path, 1 << 16)


def _exif(image: PIL.Image.Image) -> bytes:
    if image.format == "TIFF":
        tags = PIL.Image.Exif()
        with contextlib.suppress(Exception):  # as :func:`~rgsud_core.colours.orientation`
            found = image.getexif()
            for tag in (key for key in _TIFF_TAGS if key in found):
                tags[tag] = found[tag]
            for group in (0x8769, 0x8825):
                if group in found:
                    tags.get_ifd(group).update(found.get_ifd(group))
            return tags.tobytes().removeprefix(b"Exif\0\0")
        return b""
    found = image.info.get("exif", b"")
    return _upright_exif(found.removeprefix(b"Exif\0\0")) if isinstance(found, bytes) else b""


def _upright_exif(exif: bytes) -> bytes:
    """EXIF whose orientation is 1, and whose preview, which shows the rain, is no longer referred to.

    All else stays byte for byte: cameras write entries that no program writes again as they were.
    """
    changed = bytearray(exif)
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    with contextlib.suppress(struct.error):
        if order is not None:
            (start,) = struct.unpack_from(f"{order}I", exif, 4)
            (count,) = struct.unpack_from(f"{order}H", exif, start)
            for entry in range(start + 2, start + 2 + 12 * count, 12):
                if struct.unpack_from(f"{order}HH", exif, entry) == (0x0112, 3):
                    struct.pack_into(f"{order}H", changed, entry + 8, 1)
            struct.pack_into(f"{order}I", changed, start + 2 + 12 * count, 0)
    return bytes(changed)


def _dpi(image: PIL.Image.Image) -> tuple[float, float] | None:
    with contextlib.suppress(TypeError, ValueError, ZeroDivisionError):
        across, down = map(float, image.info.get("dpi", ()))
        if 0 < across < 1e5 and 0 < down < 1e5:
            return across, down
    return None


def _compression(image: PIL.Image.Image) -> str:
    found = image.info.get("compression") if image.format == "TIFF" else None
    return found if found in _TIFF_COMPRESSIONS else "tiff_adobe_deflate"


def _jpeg_options(image: PIL.Image.Image) -> dict[str, Any]:
    """The quality, subsampling and remarks of a JPEG file."""
    if not isinstance(image, PIL.JpegImagePlugin.JpegImageFile):
        return {}
    options: dict[str, Any] = {"progressive": "progressive" in image.info}
    if image.layers in (1, 3):
        options |= {"qtables": image.quantization, "subsampling": PIL.JpegImagePlugin.get_sampling(image)}
    if "comment" in image.info:
        options["comment"] = image.info["comment"]
    # Captions and keywords (IPTC).
    captions = [data for name, data in image.applist if name == "APP13"]
    options["extra"] = b"".join(b"\xff\xed" + (len(data) + 2).to_bytes(2, "big") + data for data in captions)
    return options


def _png(pixels: Pixels, profile: bytes | None, told: Photograph | None) -> bytes:
    """A PNG file of uint16 H,W,C, which Pillow does not write."""
    height, width, channels = pixels.shape
    rows = pixels.astype(">u2").view(np.uint8).reshape(height, -1)
    lines = np.empty((height, rows.shape[1] + 1), np.uint8)
    lines[:, 0], lines[0, 1:] = 2, rows[0]  # each row is stored as its difference to the one above
    lines[1:, 1:] = rows[1:] - rows[:-1]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0))]
    if profile:
        chunks.append((b"iCCP", b"profile\0\0" + zlib.compress(profile)))
    if told is not None:
        if told.exif:
            chunks.append((b"eXIf", told.exif))
        chunks += [(kind, data) for kind, data, *_ in told._texts().chunks]
    chunks += [(b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _tiff(pixels: Pixels, profile: bytes | None, told: Photograph | None) -> bytes:
    """A TIFF file of uint16 H,W,C, which Pillow does not write."""
    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(
        file,
        pixels,
        photometric="rgb",
        extrasamples=["unassalpha"] if pixels.shape[2] == 4 else None,
        compression="zlib",
        iccprofile=profile,
        metadata=None,
        resolution=told.dpi if told is not None else None,
        extratags=[(700, 1, None, told.xmp, True)] if told is not None and told.xmp else [],
    )
    return file.getvalue()
