"""Image files of every kind against the arrays they were made from, as `imaging.files` and as `datasets` read them."""

import io
import struct

import numpy as np
import png
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms

from sparsentropy.datasets import images, load_images, tiff
from sparsentropy.imaging import files
from sparsentropy.imaging.metadata import Metadata

ROWS, COLUMNS = 20, 36
DRAW = np.random.default_rng(0)
SMOOTH = np.linspace(0.1, 0.9, COLUMNS) + 0.1 * (np.arange(ROWS) > 12)[:, None] * (np.arange(COLUMNS) < 9)
G8 = np.rint(255 * SMOOTH).astype(np.uint8)
C8 = np.dstack([G8, G8[::-1], G8[:, ::-1] // 2])
G16, C16 = (np.uint16(256) * eight + DRAW.integers(0, 256, eight.shape).astype(np.uint16) for eight in (G8, C8))
A8 = np.where(np.arange(COLUMNS) > 25, 0, np.where(np.arange(ROWS) > 15, 128, 255)[:, None]).astype(np.uint8)
A16 = A8 * np.uint16(257)
BITS = G8 > 128
PALETTE = DRAW.integers(0, 256, (3, 256)).astype(np.uint16) * 257
INKS = np.dstack([255 - C8, np.full_like(G8, 40)])
FROM_INKS = np.asarray(Image.fromarray(INKS, "CMYK").convert("RGB"))
LAYOUT = {"uint8": (1, 8), "uint16": (1, 16), "float32": (3, 32)}


def short(*values):
    return (3, 2, struct.pack(f"<{len(values)}H", *values))


def long(*values):
    return (4, 4, struct.pack(f"<{len(values)}I", *values))


def by_hand(pixels, photometric, parts, *, samples=1, rows_per_strip=ROWS, **more):
    """A TIFF file written tag by tag; `more` has types, sizes and bytes of tags by number, as _320=short(1, 2)."""
    kind, bits = LAYOUT[pixels.dtype.name]
    ends = (8 + np.cumsum([0, *map(len, parts)])).tolist()
    found = {256: long(pixels.shape[1]), 257: long(pixels.shape[0]), 258: short(*[bits] * samples)}
    found |= {262: short(photometric), 273: long(*ends[:-1]), 277: short(samples), 278: long(rows_per_strip)}
    found |= {279: long(*map(len, parts)), 339: short(*[kind] * samples)}
    found |= {int(tag[1:]): value for tag, value in more.items()}
    body = b"".join(parts) + bytes(ends[-1] % 2)
    entries, values, begin = b"", b"", 8 + len(body) + 2 + 12 * len(found) + 4
    for tag, (number, size, value) in sorted(found.items()):
        where = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", begin + len(values))
        values += value if len(value) > 4 else b""
        entries += struct.pack("<HHI", tag, number, len(value) // size) + where
    head = b"II*\0" + struct.pack("<I", 8 + len(body))
    return head + body + struct.pack("<H", len(found)) + entries + bytes(4) + values


def twelve(pixels):
    """Rows of numbers of 12 bits."""
    bits = np.unpackbits(pixels.astype(">u2").view(np.uint8).reshape(*pixels.shape, 2), axis=2)
    return np.packbits(bits[:, :, 4:].reshape(len(pixels), -1), axis=1).tobytes()


def written(pixels, **how):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **{"metadata": None, **how})
    return file.getvalue()


def pillow(pixels, name="TIFF", mode=None, **how):
    file = io.BytesIO()
    (Image.fromarray(pixels) if mode is None else Image.fromarray(pixels).convert(mode)).save(file, name, **how)
    return file.getvalue()


def with_thumbnail(pixels):
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(pixels, photometric="rgb")
        writer.write(pixels[::2, ::2], photometric="rgb", subfiletype=1)
    return file.getvalue()


def planes(pixels):
    return np.ascontiguousarray(np.moveaxis(pixels, 2, 0))


def with_alpha(colours, alpha, *, premultiplied=False):
    share = alpha / np.iinfo(alpha.dtype).max
    shown = np.rint(colours * (share if colours.ndim == 2 else share[:, :, None])) if premultiplied else colours
    return np.dstack([shown.astype(alpha.dtype), alpha])


RGB, ZIP, LZW = {"photometric": "rgb"}, {"compression": "zlib", "predictor": True}, {"compression": "lzw"}
FLOAT = (C8 / 255).astype(np.float32)
TIFFS = {
    "grey": (written(G8), G8),
    "grey 16, big-endian": (written(G16, byteorder=">"), G16),
    "colour 16 in LZW": (written(C16, rowsperstrip=8, **RGB, **LZW), C16),
    "colour 16 in LZW, differences": (written(C16, predictor=2, rowsperstrip=8, **RGB, **LZW), C16),
    "float colour in LZW": (written(FLOAT, rowsperstrip=8, **RGB, **LZW), FLOAT),
    "float colour in LZW, differences": (written(FLOAT, predictor=3, rowsperstrip=8, **RGB, **LZW), FLOAT),
    "colour in LZW": (pillow(C8, compression="tiff_lzw"), C8),
    "packbits": (pillow(C8, compression="packbits"), C8),
    "16 in ZIP, differences, big-endian": (written(C16, byteorder=">", **RGB, **ZIP), C16),
    "tiles in ZIP, differences": (written(C16, tile=(16, 32), **RGB, **ZIP), C16),
    "BigTIFF": (written(C16, bigtiff=True, **RGB, **ZIP), C16),
    "planes": (written(planes(C8), planarconfig="separate", **RGB), C8),
    "planes of 16, strips": (written(planes(C16), planarconfig="separate", rowsperstrip=7, **RGB), C16),
    "planes of 16, tiles": (written(planes(C16), planarconfig="separate", tile=(16, 16), **RGB, **ZIP), C16),
    "white is zero": (written(255 - G8, photometric="miniswhite"), G8),
    "white is zero, 16": (written(65_535 - G16, photometric="miniswhite"), G16),
    "white is zero, 16, in LZW": (written(65_535 - G16, photometric="miniswhite", **LZW), G16),
    "bits": (written(BITS, photometric="minisblack"), BITS * np.uint8(255)),
    "bits, white is zero": (written(~BITS, photometric="miniswhite"), BITS * np.uint8(255)),
    "fax": (pillow(BITS, compression="group4"), BITS * np.uint8(255)),
    "palette": (
        written(G8, photometric="palette", colormap=PALETTE),
        np.moveaxis(PALETTE[:, G8] >> 8, 0, -1).astype(np.uint8),
    ),
    "palette of 8 bits": (
        written(G8, photometric="palette", colormap=PALETTE >> 8),
        np.moveaxis(PALETTE[:, G8] >> 8, 0, -1).astype(np.uint8),
    ),
    "12 bits": (
        by_hand(G16, 1, [twelve(G16 >> 4)], _258=short(12)),
        np.rint((G16 >> 4) * (65_535 / 4095)).astype(np.uint16),
    ),
    "a predictor without compression": (by_hand(G8, 1, [G8.tobytes()], _317=short(2)), G8),
    "inks": (written(INKS, photometric="separated"), FROM_INKS),
    "inks of 16": (
        written(INKS * np.uint16(257), photometric="separated"),
        np.rint((65_535 - 257.0 * INKS[:, :, :3]) * (1 - INKS[:, :, 3:] / 255)).astype(np.uint16),
    ),
    "opacity": (written(with_alpha(C8, A8), extrasamples=["unassalpha"], **RGB), C8, A8),
    "grey with opacity, 16": (
        written(with_alpha(G16, A16), photometric="minisblack", extrasamples=["unassalpha"], planarconfig="contig"),
        G16,
        A16,
    ),
    "int8": (written((G8 - 128.0).astype(np.int8)), (G8 - 128.0).astype(np.int8)),
    "int16": (written(G16.astype(np.int16)), G16.astype(np.int16)),
    "uint32": (written(G16 * np.uint32(65_537)), G16 * np.uint32(65_537)),
    "float16": (written(SMOOTH.astype(np.float16)), SMOOTH.astype(np.float16)),
    "float64 colour": (written(C8 / 255, **RGB), C8 / 255),
    "a thumbnail behind it": (with_thumbnail(C16), C16),
}


def assert_read(path, pixels, alpha=None):
    found = files.read(path)
    assert found.pixels.dtype == pixels.dtype
    np.testing.assert_array_equal(found.pixels, pixels)
    if alpha is None:
        assert found.alpha is None
    else:
        np.testing.assert_array_equal(found.alpha, alpha)


@pytest.mark.parametrize("name", TIFFS)
def test_tiff_files_are_read_as_what_they_show(name, tmp_path):
    content, *expected = TIFFS[name]
    path = tmp_path / "image.tif"
    path.write_bytes(content)
    assert_read(path, *expected)
    most = 1 if expected[0].dtype.kind == "f" else np.iinfo(expected[0].dtype).max
    (found,) = load_images(path, grey=expected[0].ndim == 2)
    np.testing.assert_allclose(found, expected[0] / most, atol=1e-12)


@pytest.mark.parametrize(("colours", "alpha"), [(C8, A8), (C16, A16), (G8, A8), (G16, A16)])
def test_colours_that_were_multiplied_by_the_opacity_are_divided_by_it(colours, alpha, tmp_path):
    how = RGB if colours.ndim == 3 else {"photometric": "minisblack", "planarconfig": "contig"}
    shown = with_alpha(colours, alpha, premultiplied=True)
    (tmp_path / "image.tif").write_bytes(written(shown, extrasamples=["assocalpha"], **how))
    found = files.read(tmp_path / "image.tif")
    np.testing.assert_array_equal(found.alpha, alpha)
    np.testing.assert_array_equal(found.pixels[alpha == 0], 0)
    np.testing.assert_allclose(found.pixels[alpha > 0].astype(float), colours[alpha > 0], atol=1.01)


def lying(pixels, orientation):
    """An image as a camera stores it that writes this orientation; Pillow says how."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = {6: 8, 8: 6}.get(orientation, orientation)
    number = np.arange(pixels.shape[0] * pixels.shape[1], dtype=np.float32).reshape(pixels.shape[:2])
    file = io.BytesIO()
    Image.fromarray(number).save(file, "TIFF", exif=exif)
    order = np.asarray(Image.open(file)).astype(int)
    return pixels.reshape(-1, *pixels.shape[2:])[order]


@pytest.mark.parametrize("pixels", [C8, C16], ids=["8", "16"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(pixels, orientation, tmp_path):
    path = tmp_path / "image.tif"
    stored = np.ascontiguousarray(lying(pixels, orientation))
    path.write_bytes(written(stored, extratags=[(274, 3, 1, orientation, True)], **RGB))
    assert_read(path, pixels)
    assert images.image_shapes(path) == [pixels.shape[:2]]
    assert load_images(path)[0].shape == pixels.shape[:2]
    files.write(tmp_path / "again.tif", files.read(path))
    assert_read(tmp_path / "again.tif", pixels)


@pytest.mark.parametrize("pixels", [C8, C16], ids=["8", "16"])
@pytest.mark.parametrize("orientation", [0, 6, 9])
def test_orientations_that_nobody_knows_are_upright(pixels, orientation, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = np.ascontiguousarray(lying(pixels, 6)) if orientation == 6 else pixels
    files.write(tmp_path / "image.png", files.Picture(stored, None, Metadata(exif=exif)))
    assert_read(tmp_path / "image.png", pixels)


REFUSED = {
    "CIELAB; save it as grey or RGB": written(C8, photometric="cielab"),
    "MASK": written(BITS, photometric="mask"),
    "SEPARATED; save it as grey or RGB": written(INKS, photometric="separated", extratags=[(332, 3, 1, 2, True)]),
    "LINEAR_RAW": written(C16, photometric="linear_raw", planarconfig="contig"),
    "PALETTE with samples of 16 bits": written(G16, photometric="palette", colormap=np.zeros((3, 65_536), np.uint16)),
    "YCBCR without compression": by_hand(C8, 6, [C8.tobytes()], samples=3),
    "does not say what 1 of its channels mean": written(with_alpha(C8, A8), extrasamples=["unspecified"], **RGB),
    "does not say what 4 of its channels": written(
        np.dstack([C8, C8[:, :, :2]]), photometric="minisblack", planarconfig="contig"
    ),
    "64 bits .uint64": written(G16.astype(np.uint64)),
    "MINISWHITE with samples of 64 bits .float64": written(SMOOTH, photometric="miniswhite"),
    "several pages": written(np.stack([G8, G8]), photometric="minisblack"),
    "a volume": written(np.stack([G8] * 16), volumetric=True, tile=(16, 16, 16)),
    "small copy of an image and no image": written(G8, subfiletype=1),
    "parts of it are missing": by_hand(G8, 1, [G8[:8].tobytes()], rows_per_strip=8),
    "cut short": by_hand(G16, 1, [G16.tobytes()], rows_per_strip=ROWS)[: G16.nbytes // 2],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_tiff_files_that_would_be_misread_are_refused(reason, tmp_path):
    path = tmp_path / "image.tif"
    path.write_bytes(REFUSED[reason])
    message = rf"image\.tif cannot be read as an image.*{'' if reason == 'cut short' else reason}"
    with pytest.raises(ValueError, match=message):
        files.read(path)


def png_of(pixels, bits=8, **how):
    file = io.BytesIO()
    rows, columns, channels = np.atleast_3d(pixels).shape
    writer = png.Writer(columns, rows, bitdepth=bits, **{"greyscale": channels < 3, **how})
    writer.write(file, pixels.reshape(rows, -1).tolist())
    return file.getvalue()


def key(pixels):
    return tuple(pixels[3, 4].tolist()) if pixels.ndim == 3 else int(pixels[3, 4])


def opaque_but(pixels, where):
    return np.where(where, 0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)


FEW = {1: G8 >> 7, 2: G8 >> 6, 4: G8 >> 4, 8: G8, 16: G16}
KEYED = {
    f"grey of {bits}": (
        png_of(few, bits, transparent=key(few)),
        few if bits > 7 else few * np.uint8(255 // (2**bits - 1)),
        opaque_but(few, few == key(few)),
    )
    for bits, few in FEW.items()
} | {
    f"colour of {bits}": (
        png_of(pixels, bits, transparent=key(pixels)),
        pixels,
        opaque_but(pixels, (pixels == key(pixels)).all(2)),
    )
    for bits, pixels in ((8, C8), (16, C16))
}


@pytest.mark.parametrize("name", KEYED)
def test_a_transparent_colour_is_transparency(name, tmp_path):
    content, pixels, alpha = KEYED[name]
    (tmp_path / "image.png").write_bytes(content)
    assert_read(tmp_path / "image.png", pixels, alpha)
    assert 0 < (alpha == 0).sum() < alpha.size
    files.write(tmp_path / "again.png", files.read(tmp_path / "image.png"))
    assert_read(tmp_path / "again.png", pixels, alpha)


PNM = {
    "grey.pgm": (b"P5 36 20 65535\n" + G16.astype(">u2").tobytes(), G16),
    "colour.ppm": (b"P6\n# a comment\n36 20\n65535\n" + C16.astype(">u2").tobytes(), C16),
    "any.pnm": (b"P5 36 20 255\n" + G8.tobytes(), G8),
    "text.ppm": (b"P3\n36 20 65535\n" + " ".join(map(str, C16.ravel())).encode(), C16),
    "ten bits.pgm": (
        b"P5 36 20 1023\n" + (G16 >> 6).astype(">u2").tobytes(),
        np.rint((G16 >> 6) * (65_535 / 1023)).astype(np.uint16),
    ),
}


@pytest.mark.parametrize("name", PNM)
def test_pnm_files_keep_16_bits(name, tmp_path):
    content, pixels = PNM[name]
    (tmp_path / name).write_bytes(content)
    assert_read(tmp_path / name, pixels)
    again = tmp_path / f"again{name[-4:]}"
    files.write(again, files.read(tmp_path / name))
    assert_read(again, pixels)
    (found,) = load_images(again, grey=pixels.ndim == 2)
    np.testing.assert_allclose(found, pixels / np.iinfo(pixels.dtype).max, atol=0.004)


def test_the_photograph_in_a_file_of_a_phone_is_read(tmp_path):
    first, second = Image.fromarray(C8), Image.fromarray(C8[::2, ::2])
    first.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[second], quality=95, subsampling=0)
    with Image.open(tmp_path / "phone.jpg") as picture:
        assert picture.n_frames == 2
        np.testing.assert_array_equal(files.read(tmp_path / "phone.jpg").pixels, np.asarray(picture))
    files.write(tmp_path / "again.jpg", files.read(tmp_path / "phone.jpg"))
    assert files.read(tmp_path / "again.jpg").pixels.shape == C8.shape


def test_deep_colours_that_would_be_halved_are_refused(tmp_path):
    Image.fromarray(C8).save(tmp_path / "image.jp2", irreversible=False)
    assert_read(tmp_path / "image.jp2", C8)
    content = (tmp_path / "image.jp2").read_bytes()
    at = content.index(b"\xff\x4f\xff\x51") + 42
    (tmp_path / "image.jp2").write_bytes(content[:at] + b"\x0f" + content[at + 1 :])
    with pytest.raises(ValueError, match="colours have more than 8 bits"):
        files.read(tmp_path / "image.jp2")


def test_contents_count_and_not_names(tmp_path):
    (tmp_path / "really_png.tif").write_bytes(pillow(C8, "PNG"))
    assert_read(tmp_path / "really_png.tif", C8)
    (tmp_path / "really_tiff.png").write_bytes(written(C16, **RGB))
    assert_read(tmp_path / "really_tiff.png", C16)


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
DATE = "2024:05:06 07:08:09"


def described(orientation):
    """EXIF as a camera writes it, names in UTF-8."""
    exif = Image.Exif()
    exif.update({306: DATE, 33432: "CC BY 4.0", 315: "Zoë".encode(), 274: orientation})
    exif[40091] = "Zoës Bild\0".encode("utf-16-le")
    exif[ExifTags.IFD.Exif] = {36867: DATE, 37510: b"ASCII\0\0\0by hand", 40962: 36, 40963: 20}
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: (53.0, 9.0, 0.0)}
    return exif.tobytes()


def assert_described(path):
    """As Pillow reads it, or tifffile where Pillow cannot open the file."""
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            found = {tag.code: tag.value for tag in file.pages.first.tags}
        assert 274 not in found
        assert found[34675] == PROFILE
        assert found[282][0] / found[282][1] == pytest.approx(300, abs=0.01)
        assert (found[306], found[33432], found[315]) == (DATE, "CC BY 4.0", "Zoë")
        if found[258] == (8, 8, 8):  # Others have only the main part of EXIF
            assert found[34665]["DateTimeOriginal"] == DATE
            assert (found[34665]["PixelXDimension"], found[34665]["PixelYDimension"]) == (COLUMNS, ROWS)
            assert found[34853]["GPSLatitude"] == (53, 1, 9, 1, 0, 1)
        return
    with Image.open(path) as picture:
        found, info = picture.getexif(), picture.info
        camera, place = (found.get_ifd(ifd) for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo))
    assert 274 not in found
    assert info["icc_profile"] == PROFILE
    assert path.suffix == ".webp" or info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert (found[306], found[33432], found[315].encode("latin-1").decode()) == (DATE, "CC BY 4.0", "Zoë")
    assert (camera[36867], camera[37510][-7:], place[2]) == (DATE, b"by hand", (53.0, 9.0, 0.0))
    assert (camera[40962], camera[40963]) == (COLUMNS, ROWS)


@pytest.mark.parametrize("kind", ["jpg", "png"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_profile_resolution_and_exif_go_back(kind, orientation, tmp_path):
    stored = np.ascontiguousarray(lying(C8, orientation))
    how = {"exif": described(orientation), "icc_profile": PROFILE, "dpi": (300, 300)}
    Image.fromarray(stored).save(tmp_path / f"image.{kind}", **how)
    picture = files.read(tmp_path / f"image.{kind}")
    assert picture.pixels.shape == C8.shape
    texts = {tag: value for tag, value in picture.metadata.exif.items() if isinstance(value, str | bytes)}
    assert set(texts) == {306, 315, 33432, 40091}
    for pixels, endings in ((picture.pixels, ("jpg", "png", "webp", "tif")), (C16, ("png", "tif")), (FLOAT, ("tif",))):
        for ending in endings:
            target = tmp_path / f"again.{ending}"
            files.write(target, files.Picture(pixels, None, picture.metadata))
            assert_described(target)
            found = files.read(target).metadata
            assert found.profile == PROFILE
            assert texts.items() <= dict(found.exif).items()
            assert pixels is not picture.pixels or found.exif == picture.metadata.exif


def test_resolutions_turn_with_the_image_and_deep_files_say_it_again(tmp_path):
    how = {"resolution": (200.0, 100.0), "resolutionunit": 3, "extratags": [(274, 3, 1, 6, True)]}
    (tmp_path / "image.tif").write_bytes(written(C16, **RGB, **how))
    assert files.read(tmp_path / "image.tif").metadata.dpi == (254.0, 508.0)
    metadata = Metadata(PROFILE, (508.0, 254.0))
    for ending in ("png", "tif"):
        files.write(tmp_path / f"deep.{ending}", files.Picture(C16, A16, metadata))
        found = files.read(tmp_path / f"deep.{ending}")
        np.testing.assert_array_equal(found.alpha, A16)
        assert found.metadata.profile == PROFILE
        assert found.metadata.dpi == pytest.approx((508, 254), abs=0.1)


def test_a_profile_of_other_colours_is_left_out(tmp_path):
    Image.fromarray(INKS, "CMYK").save(tmp_path / "inks.jpg", icc_profile=PROFILE[:16] + b"CMYK" + PROFILE[20:])
    assert files.read(tmp_path / "inks.jpg").metadata.profile is None


@pytest.mark.parametrize("name", ["image.tif", "deep.tif", "deep.png", "deep.pgm", "image.npy", "image.png"])
def test_the_limit_of_pixels_holds_in_every_way_to_read(name, tmp_path, monkeypatch):
    pixels = G16 if name.startswith("deep") else G8
    files.write(tmp_path / name, files.Picture(pixels))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", ROWS * COLUMNS // 2 - 1)
    with pytest.raises(ValueError, match=rf"{name} cannot be read as an image .*720 pixels"):
        files.read(tmp_path / name)
    if name.endswith(".tif"):
        with pytest.raises(ValueError, match="720 pixels"):
            load_images(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", ROWS * COLUMNS // 2)
    with pytest.warns(Image.DecompressionBombWarning):
        assert files.read(tmp_path / name).pixels.shape == pixels.shape


def test_no_memory_is_taken_for_pixels_that_a_file_only_claims(tmp_path):
    claims = dict.fromkeys(("_256", "_257", "_278"), long(2**17))
    (tmp_path / "bomb.tif").write_bytes(by_hand(G16, 1, [G16.tobytes()], _259=short(5), **claims))
    with pytest.raises(ValueError, match="17,179,869,184 pixels"):
        files.read(tmp_path / "bomb.tif")
    # Every row is the same part of the file
    many = {"_273": long(*[8] * ROWS), "_279": long(*[72] * ROWS)}
    (tmp_path / "bomb.tif").write_bytes(by_hand(G16, 1, [G16[:1].tobytes()], rows_per_strip=1, **many))
    with pytest.raises(ValueError, match="cut short"):
        files.read(tmp_path / "bomb.tif")


def test_a_png_file_with_more_than_its_pixels_fills_no_memory(tmp_path):
    content = png_of(G16, 16)
    larger = png_of(np.zeros((500, COLUMNS), np.uint16), 16)
    (tmp_path / "bomb.png").write_bytes(content[:33] + larger[33:])
    assert_read(tmp_path / "bomb.png", np.zeros_like(G16))


@pytest.mark.parametrize(
    ("name", "pixels", "message"),
    [
        ("x.png", np.zeros((4, 5), np.int32), "cannot hold int32 pixels; give a name that ends in .npy, .tif, .tiff"),
        ("x.png", np.zeros((4, 5), np.int16), "cannot hold int16"),
        ("x.tif", np.zeros((4, 5, 5), np.uint8), "cannot hold 5 channels; give a name that ends in .npy"),
        ("x.pgm", np.zeros((4, 5, 3), np.uint8), "x.pgm cannot hold colours"),
        ("x.jpg", np.zeros((4, 5), np.uint16), "cannot hold uint16"),
        ("x.xyz", np.zeros((4, 5), np.uint8), "cannot hold uint8"),
    ],
)
def test_what_would_be_cut_off_is_refused(name, pixels, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        files.write(tmp_path / name, files.Picture(pixels))
    assert not list(tmp_path.iterdir())


def test_pages_that_go_round_in_a_circle_are_refused(tmp_path):
    content = by_hand(G8, 1, [G8.tobytes()])
    begin = struct.unpack("<I", content[4:8])[0]
    link = begin + 2 + 12 * struct.unpack("<H", content[begin : begin + 2])[0]
    (tmp_path / "image.tif").write_bytes(content[:link] + content[4:8] + content[link + 4 :])
    for read in (files.read, load_images):
        with pytest.raises(ValueError, match="in a circle"):
            read(tmp_path / "image.tif")


def test_pages_of_a_stack_are_read_one_by_one(tmp_path):
    stack = np.stack([G16, G16[::-1], 65_535 - G16])
    (tmp_path / "stack.tif").write_bytes(written(stack, photometric="minisblack"))
    np.testing.assert_allclose(load_images(tmp_path / "stack.tif"), stack / 65_535)
    assert [page.index for page in tiff.pages(tmp_path / "stack.tif")] == [0, 1, 2]
