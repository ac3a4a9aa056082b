import pytest

from diffusion_jax.cli.config_flag import take_config


def parse(*arguments):
    """(the config with its overrides, the words that remain)."""
    return take_config(arguments)


@pytest.mark.parametrize("value", ["nope", "digits:huge"])
def test_the_errors_of_a_config_name_the_flag(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^--config={value}: "):
        parse(f"--config={value}")


def test_overrides_are_typed_and_may_come_first():
    config, words = parse("--config.train.steps=7", "--config", "digits", "--config.model.channels=(8, 16)", "word")
    assert config.train.steps == 7
    assert config.model.channels == (8, 16)
    assert words == ["word"]


def test_fields_that_the_config_leaves_out_can_be_set():
    config, _ = parse("--config=digits", "--config.model.scale_shift", "--config.sampler.guidance_interval=(0.3, 3.0)")
    assert config.model.scale_shift is True
    assert config.sampler.guidance_interval == (0.3, 3.0)
    assert "dropout" not in config.model  # what is not set stays out of the config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stpes=5", "config.train.stpes: there is no such field; did you mean steps"),
        ("trian.steps=5", "config.trian"),
        ("train.steps=many", r"--config.train.steps=many: must be an integer \(8\)"),
        ("train.steps.x=1", "config.train.steps.x: there is no such field"),
        ("model.channels[0]=8", r"--config.model.channels\[0\]: an item cannot be set"),
        ("optimizer.mask=1", "config.optimizer.mask: cannot be set on the command line"),
    ],
)
def test_an_override_of_nothing_or_of_another_type_is_refused(override, message):
    with pytest.raises(ValueError, match=message):
        parse("--config=digits", f"--config.{override}")


def test_overrides_need_a_config():
    with pytest.raises(ValueError, match="--config.train.steps: needs --config, such as --config digits"):
        parse("--config.train.steps=5")
    for last in ("--config", "--config --workdir=x"):
        with pytest.raises(ValueError, match="--config: needs a value"):
            parse(*last.split())


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ("--config.train.steps=5", 5),
        ("-config.train.steps=5", 5),
        ("--config.train.steps 5", 5),
        ("--config.train.steps=7 --config.train.steps=5", 5),
        ("--flagfile={path}", 5),
    ],
)
def test_an_override_is_written_like_any_flag(arguments, steps, tmp_path):
    path = tmp_path / "flags"
    path.write_text("--config.train.steps=5\n")
    config, words = parse("--config=digits", *arguments.format(path=path).split(), "--workdir", "x")
    assert config.train.steps == steps
    assert words == ["--workdir", "x"]


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ("--config.model.scale_shift --workdir", True),
        ("--noconfig.model.scale_shift --workdir", False),
        ("--config.model.scale_shift=false --workdir", False),
        ("--config.model.scale_shift False --workdir", False),
        ("--config.model.scale_shift -workdir", True),
    ],
)
def test_a_flag_without_a_value_is_true_or_false(arguments, value):
    config, words = parse("--config=digits", *arguments.split())
    assert config.model.scale_shift is value
    assert words == [arguments.split()[-1]]


def test_a_negative_number_is_a_value():
    config, _ = parse("--config=digits", "--config.optimizer.clip_norm", "-1.5")
    assert config.optimizer.clip_norm == -1.5


def test_no_and_a_value_contradict_each_other():
    with pytest.raises(ValueError, match="--noconfig.model.stem=1: must be --config.model.stem=1"):
        parse("--config=digits", "--noconfig.model.stem=1")


def test_the_config_is_locked():
    config, _ = parse("--config=digits", "--config.data.flip")
    with pytest.raises(AttributeError, match="stepz"):
        config.train.stepz = 5


def test_without_a_config_there_is_none():
    assert parse("word") == (None, ["word"])
