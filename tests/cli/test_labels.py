import re
import unicodedata

import pytest

from diffusion_jax.cli.labels import parse_labels, repeat_labels

DIGITS = [str(i) for i in range(10)]
PETS = ["Cat", "dog", "café", "bird, blue", 'the "owl"', "#2"]


@pytest.mark.parametrize(
    ("text", "names", "labels"),
    [
        ("3,5", (), [3, 5]),
        (" 3 , 5 ", (), [3, 5]),
        ("#3", (), [3]),
        ("03", (), [3]),
        ("3", DIGITS, [3]),  # both its name and its number
        ('"3",#3', DIGITS, [3, 3]),
        ("dog,Cat,1", PETS, [1, 0, 1]),
        ("café", PETS, [2]),
        (unicodedata.normalize("NFD", "café"), PETS, [2]),
        ("café", [unicodedata.normalize("NFD", name) for name in PETS], [2]),
        ('"bird, blue",dog', PETS, [3, 1]),
        (' "bird, blue" , dog ', PETS, [3, 1]),
        ('"the ""owl"""', PETS, [4]),
        ('"#2",#2', PETS, [5, 2]),
        ("8", ["3", "8"], [1]),  # there is no number 8
        ("none,dog", ["none", "dog"], [0, 1]),
        ('"none"', ["none", "dog"], [0]),
        ("猫,😀", ["猫", "😀"], [0, 1]),
        ("two\nlines", ["two\nlines"], [0]),
    ],
)
def test_a_label_is_a_number_or_a_name(text, names, labels):
    assert parse_labels(text, names, len(names) or 10) == labels


@pytest.mark.parametrize("text", ["none", "None", " NONE ", "#none"])
def test_none_is_no_class(text):
    assert parse_labels(text, PETS, len(PETS)) is None
    assert parse_labels(text, (), 0) is None


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("cafe", PETS, '--labels=cafe: must be a number from 0 to 5 or one of "café", '),
        ("cat", PETS, '--labels=cat: must be a number from 0 to 5 or one of "Cat", '),
        ("DOG", PETS, '--labels=DOG: must be a number from 0 to 5 or one of "dog", '),
        ("bird, blue", PETS, '--labels=bird: must be a number from 0 to 5 or one of "bird, blue", '),
        ("6", PETS, "--labels=6: must be a number from 0 to 5 or one of "),
        ("#6", [*PETS[:5], "#6"], "--labels=#6: must be a number from 0 to 5 or one of "),
        ("-1", (), "--labels=-1: must be a number from 0 to 9; the classes of this run have no names"),
        ("10", (), "--labels=10: must be a number from 0 to 9"),
        ("1.5", (), "--labels=1.5: must be a number from 0 to 9"),
        ("٣", (), "--labels=٣: must be a number from 0 to 9"),
        ("", (), "--labels=: must be a number from 0 to 9"),
        ("3,", (), "--labels=: must be a number from 0 to 9"),
        ('"3"', PETS, "--labels=3: must be a number from 0 to 5"),
        ('"dog', PETS, '--labels="dog: must be numbers or names separated by commas, quotes as in 3,"a, b"'),
        ('"dog"s', PETS, '--labels="dog"s: must be numbers or names'),
        ("1", ["1", "2", "3"], '--labels=1: means 2 classes; write #0 or #1, or "1" in quotes for the name'),
        ("02", ["a", "02", "c"], '--labels=02: means 2 classes; write #1 or #2, or "02" in quotes'),
        ("a", ["a", "b", "a"], "--labels=a: means 2 classes; write #0 or #2"),
        ("none", ["a", "None"], '--labels=none: is a class too; write "None" in quotes for it, or #none for no class'),
    ],
)
def test_what_is_no_class_or_two_is_refused_with_what_to_write(text, names, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        parse_labels(text, names, len(names) or 10)


def test_what_a_message_says_to_write_is_accepted():
    names = ["1", "none", "3"]
    assert parse_labels('#0,#1,"1","none"', names, 3) == [0, 1, 0, 1]


def test_many_and_long_names_are_cut_in_the_message():
    names = [f"class {i}" + "x" * 250 * (i == 7) for i in range(1000)]
    with pytest.raises(ValueError, match=r", \.\.\. \(1000 in all\)$") as error:
        parse_labels("class 7", names, 1000)
    assert len(str(error.value)) < 300


def test_a_run_without_classes_takes_no_labels():
    with pytest.raises(ValueError, match="--labels=3: this run was trained without classes; leave the flag out"):
        parse_labels("3", (), 0)


def test_labels_are_used_in_turn():
    assert repeat_labels([3, 5, 8], 7).tolist() == [3, 5, 8, 3, 5, 8, 3]
    with pytest.raises(ValueError, match="--labels=3,5,8: 3 classes for 2 images; leave some out"):
        repeat_labels([3, 5, 8], 2)
