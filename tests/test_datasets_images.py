import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sparsentropy.datasets import load_images, load_photographs

RAMP = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
COLOUR = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=-1)


def save(pixels, file, **options):
    Image.fromarray(pixels).save(file, **options)
    return file


def sixteen_bit_png(file):
    """Write by hand, so that the file does not depend on how Pillow stores 16 bits."""
    rows = b"".join(b"\0" + row.tobytes() for row in (RAMP.astype(">u2") * 257))
    blocks = [
        (b"IHDR", struct.pack(">IIBBBBB", 6, 4, 16, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in blocks
    )
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return file


def test_photographs_grey_and_colour():
    grey, colour = load_photographs(), load_photographs(grey=False)
    assert [image.shape for image in grey] == [(427, 640)] * 2
    assert [image.shape for image in colour] == [(427, 640, 3)] * 2
    assert all(image.min() >= 0 and image.max() <= 1 for image in grey + colour)
    # within the rounding of Pillow's own conversion to 8 bits
    pillow = np.asarray(Image.fromarray((colour[0] * 255).round().astype(np.uint8)).convert("L"))
    assert np.abs(255 * grey[0] - pillow).max() <= 0.51


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "gif", "pgm"])
def test_lossless_grey_formats(tmp_path, suffix):
    (image,) = load_images(save(RAMP, tmp_path / f"image.{suffix}"))
    np.testing.assert_allclose(image, RAMP / 255)


def test_jpeg_is_close(tmp_path):
    (image,) = load_images(save(RAMP, tmp_path / "image.jpg", quality=100))
    assert np.abs(image - RAMP / 255).max() < 0.02


def test_colour_and_grey_convert(tmp_path):
    file = save(COLOUR, tmp_path / "colour.png")
    np.testing.assert_allclose(load_images(file, grey=False)[0], COLOUR / 255)
    np.testing.assert_allclose(load_images(file)[0], COLOUR @ [0.299, 0.587, 0.114] / 255)
    grey = load_images(save(RAMP, tmp_path / "grey.png"), grey=False)[0]
    np.testing.assert_allclose(grey, np.stack([RAMP / 255] * 3, axis=-1))


def test_transparency_and_palette_and_bits(tmp_path):
    transparent = np.dstack([COLOUR, np.full(RAMP.shape, 7, np.uint8)])
    np.testing.assert_allclose(load_images(save(transparent, tmp_path / "rgba.png"), grey=False)[0], COLOUR / 255)
    palette = Image.fromarray(RAMP).convert("P")
    palette.save(tmp_path / "palette.png")
    np.testing.assert_allclose(load_images(tmp_path / "palette.png")[0], RAMP / 255, atol=1e-12)
    save(RAMP > 100, tmp_path / "bits.png")
    np.testing.assert_array_equal(load_images(tmp_path / "bits.png")[0], RAMP > 100)


def test_sixteen_bits_are_scaled_by_their_range(tmp_path):
    np.testing.assert_allclose(load_images(sixteen_bit_png(tmp_path / "deep.png"))[0], RAMP / 255)
    file = save(RAMP.astype(np.uint16) * 257, tmp_path / "deep.tif")
    np.testing.assert_allclose(load_images(file)[0], RAMP / 255)
    pgm = tmp_path / "deep.pgm"
    pgm.write_bytes(b"P5 6 4 65535\n" + (RAMP.astype(">u2") * 257).tobytes())
    np.testing.assert_allclose(load_images(pgm)[0], RAMP / 255)


def test_float_images_keep_their_values(tmp_path):
    pixels = np.linspace(-1, 3, 24, dtype=np.float32).reshape(4, 6)
    np.testing.assert_array_equal(load_images(save(pixels, tmp_path / "float.tif"))[0], pixels)


def test_float_image_with_nan_is_refused(tmp_path):
    file = save(np.full((4, 6), np.nan, np.float32), tmp_path / "nan.tif")
    with pytest.raises(ValueError, match=r"nan\.tif contains NaN or infinity"):
        load_images(file)


def test_every_page_of_a_tiff(tmp_path):
    pages = [Image.fromarray(RAMP + step) for step in range(3)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    images = load_images(tmp_path / "pages.tif")
    np.testing.assert_allclose(images, [(RAMP + step) / 255 for step in range(3)])


def test_photographs_are_turned_upright(tmp_path):
    picture = Image.fromarray(RAMP)
    exif = picture.getexif()
    exif[0x0112] = 3  # the camera was upside down
    picture.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_allclose(load_images(tmp_path / "turned.png")[0], RAMP[::-1, ::-1] / 255)


def test_folder_is_searched_in_order(tmp_path):
    (tmp_path / "b").mkdir()
    for level, name in enumerate(["b/2.png", "a.PNG", "c.png", "b/1.png"]):
        save(np.full((2, 2), level, np.uint8), tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._a.png").write_bytes(b"resource fork")
    images = load_images(str(tmp_path))
    assert [round(255 * image[0, 0]) for image in images] == [1, 3, 0, 2]


def test_list_of_files_keeps_its_order(tmp_path):
    files = [save(np.full((2, 2), level, np.uint8), tmp_path / f"{level}.png") for level in (5, 3)]
    assert [round(255 * image[0, 0]) for image in load_images(files)] == [5, 3]


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "gif", "webp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_named(tmp_path, suffix, share):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    whole = save(noise, tmp_path / f"whole.{suffix}").read_bytes()
    file = tmp_path / f"cut.{suffix}"
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=rf"cut\.{suffix} cannot be read as an image"):
        load_images(file)


def test_damaged_file_in_a_folder_is_not_passed_over(tmp_path):
    save(RAMP, tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture at all")
    with pytest.raises(ValueError, match=r"b\.png cannot be read as an image"):
        load_images(tmp_path)


def test_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"bomb\.png cannot be read as an image"):
        load_images(save(RAMP, tmp_path / "bomb.png"))


def test_nothing_to_read(tmp_path):
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"empty\.png is empty \(0 bytes\)"):
        load_images(tmp_path / "empty.png")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder holds no image"):
        load_images(tmp_path / "folder")
    with pytest.raises(ValueError, match="empty list"):
        load_images([])
    with pytest.raises(ValueError, match="empty string"):
        load_images("")
    with pytest.raises(FileNotFoundError, match=r"none\.png does not exist"):
        load_images(tmp_path / "none.png")
    with pytest.raises(IsADirectoryError, match="is a folder; give a file"):
        load_images([tmp_path])


@pytest.mark.parametrize("path", [3, None])
def test_not_a_path(path):
    with pytest.raises(TypeError, match="path must be a path or a list of paths"):
        load_images(path)
    with pytest.raises(TypeError, match=r"path\[0\] must be a path"):
        load_images([path])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    file = save(RAMP, tmp_path / "secret.png")
    file.chmod(0)
    with pytest.raises(PermissionError, match=r"secret\.png cannot be opened"):
        load_images(file)
    tmp_path.chmod(0)
    with pytest.raises(PermissionError, match="cannot be opened"):
        load_images(tmp_path)
    tmp_path.chmod(0o700)
