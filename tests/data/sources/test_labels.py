import pytest

from diffusion_jax.data.sources.checks import DataError
from diffusion_jax.data.sources.labels import Table, classes_from_directories


def table(tmp_path, text, separator="", encoding="utf-8"):
    (tmp_path / "x.csv").write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return Table(tmp_path / "x.csv", "file", "class", separator)


def test_the_class_is_the_first_subdirectory():
    names = ["cat/1.png", "cat/deep/2.png", "dog/1.png"]
    assert classes_from_directories(names) == dict(zip(names, ["cat", "cat", "dog"], strict=True))


def test_an_image_beside_the_subdirectories_is_named():
    with pytest.raises(DataError, match='"folder": b.png must lie in the subdirectory of its class; move it') as error:
        classes_from_directories(["a/1.png", "b.png", "c.png"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_class_is_in_the_row_of_the_image(tmp_path, encoding):
    """Other columns and other images are ignored; quotes, blanks and ./ are understood."""
    text = 'file,id,class\nb.png,1,cat\na/a.png,2,"dog, small"\n./c.png,3, cat \naway.png,4,cow\n'
    found = table(tmp_path, text, encoding=encoding).read_classes(["a/a.png", "b.png", "c.png"])
    assert found == {"a/a.png": "dog, small", "b.png": "cat", "c.png": "cat"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_columns_are_separated_as_spreadsheets_of_any_country_do(tmp_path, delimiter):
    text = 'file,class,note\na.png,"cat, small","x;y"\nb.png,dog;big,\n'.replace(",", "\0")
    text = text.replace("cat\0", "cat,").replace("\0", delimiter)
    if delimiter == ";":
        text = text.replace("dog;big", '"dog;big"')
    assert table(tmp_path, text).read_classes(["a.png", "b.png"]) == {"a.png": "cat, small", "b.png": "dog;big"}


@pytest.mark.parametrize(("separator", "found"), [("|", "grass"), ("", "grass|ice"), ("ss", "gra")])
def test_the_class_ends_at_the_separator(tmp_path, separator, found):
    classes = table(tmp_path, "file,class\na.png,grass|ice\n", separator).read_classes(["a.png"])
    assert classes == {"a.png": found}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "file,kind\na.png,cat\n",
            r'csv_class = "class": must be a column of .*x.csv, which has \[.file., .kind.\]',
        ),
        ("name,class\na.png,cat\n", 'csv_file = "file": must be a column of'),
        ("", r'csv_file = "file": must be a column of .*, which has \[\]'),
        ("file,class\nb.png,cat\n", 'csv = ".*x.csv": a.png has no row'),
        ("file,class\na.png,\n", "a.png has an empty class"),
        ("file,class\na.png\n", "a.png has an empty class"),
        ("file,class\na.png,|\n", "a.png has an empty class"),
        ("file,class\na.png,cat\na.png,dog\n", "a.png has two classes, cat and dog"),
        (b"file,class\na.png,\xff\xfe\n", 'csv = ".*x.csv": is not UTF-8; save it as CSV UTF-8'),
        ("file,class\na.png,\u043a\u043e\u0442\n".encode("utf-16"), "is not UTF-8; save it as CSV UTF-8"),
        ("file;kind\na.png;cat\n", r"csv_file = .* which has \[.file;kind.\]"),
        ('file,class\na.png,"' + "x" * 200_000, "cannot be read .*field larger"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(tmp_path, text, says):
    with pytest.raises(DataError, match=says) as error:
        table(tmp_path, text, separator="|").read_classes(["a.png"])
    assert "\n" not in str(error.value)


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match='none.csv": cannot be read .*No such file'):
        Table(tmp_path / "none.csv", "file", "class", "").read_classes(["a.png"])


def test_the_same_class_twice_is_accepted(tmp_path):
    assert table(tmp_path, "file,class\na.png,cat\na.png,cat\n").read_classes(["a.png"]) == {"a.png": "cat"}


def test_accents_and_blanks_in_the_table_may_be_written_either_way(tmp_path):
    """A composed and a decomposed umlaut; a blank behind the comma of the header."""
    found = table(tmp_path, "file, class\n\u00c4rger.png, cat\nA\u0308pfel.png, dog\n")
    names = ["A\u0308rger.png", "\u00c4pfel.png"]
    assert found.read_classes(names) == dict(zip(names, ["cat", "dog"], strict=True))


def test_classes_are_composed(tmp_path):
    """A table from a Mac names the same classes."""
    found = table(
        tmp_path, "file,class\na.png,cafe\u0301\nb.png,caf\u00e9\nc.png,\u1112\u1161\u11ab|x\n", separator="|"
    )
    assert found.read_classes(["a.png", "b.png", "c.png"]) == {
        "a.png": "caf\u00e9",
        "b.png": "caf\u00e9",
        "c.png": "\ud55c",
    }
