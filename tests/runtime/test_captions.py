import unicodedata

import fonts
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from diffusion_jax.runtime import captions
from diffusion_jax.runtime.captions import choose_font, readable
from diffusion_jax.runtime.images import grid, strip, table

WHITE = np.full((4, 40, 40, 1), 255, np.uint8)  # enlarged three times


@pytest.fixture(autouse=True)
def no_fonts_of_the_system(monkeypatch):
    """Pillow's own font only, and nothing told yet."""
    monkeypatch.setattr(captions, "FONTS", ())
    monkeypatch.setattr(captions, "_told", set())
    monkeypatch.delenv(captions.VARIABLE, raising=False)


def use_fonts(monkeypatch, *paths):
    monkeypatch.setattr(captions, "FONTS", tuple(map(str, paths)))


def family(text):
    return getattr(choose_font(text).font, "path", None)


def text_in(image):
    """The part of an image that is not white."""
    dark = np.asarray(image.convert("L")) < 255
    rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    return np.asarray(image.convert("L"))[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@pytest.mark.parametrize("text", ["cat", "~!@# gypq {|}", "An automobile, 1998"])
def test_an_ascii_caption_is_drawn_in_pillows_font_whatever_fonts_there_are(text, tmp_path, monkeypatch):
    use_fonts(monkeypatch, fonts.write_font(tmp_path / "all.ttf", "".join(map(chr, range(32, 127)))))
    expected = Image.new("RGB", (400, 30), "white")
    font = ImageFont.load_default(size=11)
    image = grid(WHITE[:1], labels=[text])
    middle = (image.width - 4 - font.getlength(text)) % 2 / 2  # text may start at half a pixel
    ImageDraw.Draw(expected).text((200 + middle, 2), text, fill="black", anchor="ma", font=font)
    np.testing.assert_array_equal(text_in(image), text_in(expected))
    assert image.height == 14 + 120 + 2 * 2


def test_no_ascii_caption_is_higher_than_its_row():
    assert {choose_font(chr(point)).height for point in range(33, 127)} == {14}


@pytest.mark.parametrize(
    "text",
    ["Кошка", "猫の写真", "\U0001f600", "قطة", "café", unicodedata.normalize("NFD", "café"), "ไทย", "\U0001d50aoth"],
)
@pytest.mark.parametrize("notdef", [True, False])
def test_the_first_font_that_has_every_character_is_used(text, notdef, tmp_path, monkeypatch, caplog):
    composed = unicodedata.normalize("NFC", text)
    some = fonts.write_font(tmp_path / "some.ttf", composed[:-1] + "ж", notdef)
    every, later = (fonts.write_font(tmp_path / name, composed, notdef) for name in ("every.ttf", "later.ttf"))
    use_fonts(monkeypatch, "no-such-font", some, every, later)
    assert readable([text, "cat"]) == [composed, "cat"]
    assert family(composed) == str(every)
    assert choose_font("cat").font.getname()[0] == ImageFont.load_default(11).getname()[0]
    assert caplog.text == ""


def test_a_font_of_the_users_own_comes_first(tmp_path, monkeypatch):
    own, other = (fonts.write_font(tmp_path / name, "猫") for name in ("own.ttf", "other.ttf"))
    use_fonts(monkeypatch, other)
    assert family("猫") == str(other)
    monkeypatch.setenv(captions.VARIABLE, str(own))
    assert family("猫") == str(own)


def test_a_font_that_cannot_be_opened_is_told_once(tmp_path, monkeypatch, caplog):
    (tmp_path / "broken.ttf").write_bytes(b"not a font")
    monkeypatch.setenv(captions.VARIABLE, str(tmp_path / "broken.ttf"))
    readable(["猫", "犬"])
    assert caplog.text.count(f"{captions.VARIABLE} = {tmp_path / 'broken.ttf'}: cannot be opened as a font") == 1


def test_a_character_that_no_font_has_is_a_number_and_told_once(tmp_path, monkeypatch, caplog):
    use_fonts(monkeypatch, fonts.write_font(tmp_path / "some.ttf", "Жнд 1"))
    assert readable(["猫", "Жнд猫1", "猫犬", "cat"]) == ["U+732B", "Жнд U+732B 1", "U+732B U+72AC", "cat"]
    (message,) = caplog.messages
    assert '"犬" U+72AC, "猫" U+732B' in message
    assert f"install Noto Sans (fonts-noto-core, fonts-noto-cjk), or set {captions.VARIABLE}" in message
    readable(["猫"])
    assert len(caplog.messages) == 1
    readable(["猫鳥"])
    assert caplog.messages[1].startswith('captions: no font has "鳥" U+9CE5, written')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two\nlines\r\n", "two lines "),
        ("a\u2028b\x85c", "a b c"),
        ("x  x_t", "x  x_t"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x00\x7f", r"\x00\x7f"),
        ("a\u202ecod", "acod"),  # a change of direction
        ("\ufeffcat\u200b", "cat"),
        ("!\ufe0f", "!"),
        ("a\udc80", r"a\udc80"),
        ("x" * 60, "x" * 60),
        ("x" * 61, "x" * 57 + "..."),
        ("long " * 50, "long long long long long long long long long long long lo..."),
        ("", ""),
    ],
)
def test_a_caption_is_one_line_without_control_characters(text, expected):
    assert readable([text]) == [expected]


@pytest.mark.parametrize("label", ["x" * 250, "猫" * 250, "two\n" * 60, "e\u0301" * 250, "\x1b" * 250])
def test_no_caption_makes_a_grid_wide(label):
    assert grid(WHITE, columns=4, labels=[label] * 4).width < 4 * 500
    figure = strip(np.stack([WHITE] * 2), np.stack([WHITE] * 2), labels=[label] * 4)
    assert figure.width < 700
    assert figure.height == 2 + 8 * 122 + 3 * 6  # one line each


def test_letters_higher_than_the_font_do_not_cover_the_image_above(tmp_path, monkeypatch):
    letters = [chr(0x4E00 + i) for i in range(60)]  # the last is twice as high as the font says
    use_fonts(monkeypatch, fonts.write_font(tmp_path / "high.ttf", "".join(letters)))
    image = grid(np.full((4, 40, 40, 1), 200, np.uint8), columns=2, labels=["a", "a", "a", letters[-1]])
    assert (np.asarray(image) == 200).all(-1).sum() >= 4 * 40 * 40
    assert image.height > grid(WHITE, columns=2, labels=["a"] * 4).height


def test_each_caption_of_a_table_has_its_own_font(tmp_path, monkeypatch):
    use_fonts(monkeypatch, fonts.write_font(tmp_path / "a.ttf", "猫"), fonts.write_font(tmp_path / "b.ttf", "Ж"))
    figure = table(WHITE.reshape(2, 2, 40, 40, 1), rows=["猫", ""], columns=["Ж", "cat"])
    other = table(WHITE.reshape(2, 2, 40, 40, 1), rows=["Ж", ""], columns=["猫", "cat"])
    for image in (figure, other):  # boxes of the fonts above: nothing but black, no outline of a box
        left = text_in(image.crop((0, 16, 15, image.height)))
        assert (left[1:-1, 1:-1] == 0).all()
    assert family("猫") != family("Ж")
