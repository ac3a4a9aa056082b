import dataclasses
import sys
import textwrap

import pytest

from diffusion_jax.config.components import ConfigError, Namespace, build, build_section, check_names, convert
from diffusion_jax.process import predictions, schedules
from diffusion_jax.training import losses
from diffusion_jax.training.plan import Plan

SCHEDULES = Namespace(schedules, schedules.Schedule)


def refusal(call, *args, **kwargs):
    """The message of the ConfigError, one line."""
    with pytest.raises(ConfigError) as error:
        call(*args, **kwargs)
    message = str(error.value)
    assert "\n" not in message
    assert message
    return message


def schedule(spec, **kwargs):
    return build(spec, SCHEDULES, "schedule", **kwargs)


def loss(**spec):
    """A DiffusionLoss from its section of a config, as an experiment builds it."""
    others = {"schedule": schedules.Cosine(), "prediction": predictions.V()}
    return build({"name": "DiffusionLoss", **spec}, Namespace(losses), "loss", **others)


@dataclasses.dataclass(frozen=True)
class Everything:
    """A field of each type that a config may hold."""

    whole: int = 1
    real: float = 1.0
    flag: bool = False
    text: str = ""
    many: tuple[int, ...] = ()


def field(name, value):
    return getattr(build_section(Everything, {name: value}, "part"), name)


@pytest.fixture
def user_code(tmp_path, monkeypatch):
    """A user's module, importable as `user_code`; it leaves a file behind when it is imported."""
    ran = tmp_path / "ran"
    source = f"""
        import dataclasses
        from pathlib import Path
        from diffusion_jax.process import schedules

        Path({str(ran)!r}).touch()

        @dataclasses.dataclass(frozen=True)
        class Mine(schedules.RectifiedFlow):
            speed: float = 1.0
            def __post_init__(self):
                if self.speed < 0:
                    raise ValueError(f"speed = {{self.speed}}: too slow")

        class Wordy(schedules.RectifiedFlow):
            def __init__(self):
                raise ValueError("first line\\nsecond line")

        class Failing(schedules.RectifiedFlow):
            def __init__(self):
                raise KeyError("no such thing")

        class Unfinished(schedules.Schedule):
            pass

        number = 3
        class NoSchedule: pass
    """
    (tmp_path / "user_code.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(tmp_path)
    yield ran
    sys.modules.pop("user_code", None)


# What is built


def test_a_name_and_arguments_become_the_object():
    assert schedule({"name": "Cosine", "steps": 100}) == schedules.Cosine(steps=100)


def test_a_component_inside_another_is_built_too():
    spec = {"name": "Shifted", "schedule": {"name": "Cosine", "steps": 50}, "resolution": 32}
    assert schedule(spec) == schedules.Shifted(schedules.Cosine(steps=50), resolution=32)


def test_components_nest_to_any_depth():
    inner = {"name": "ZeroTerminalSNR", "schedule": {"name": "LinearBeta"}}
    built = schedule({"name": "Shifted", "schedule": inner, "resolution": 8})
    expected = schedules.Shifted(schedules.ZeroTerminalSNR(schedules.LinearBeta()), 8)
    assert built == expected


def test_arguments_from_elsewhere_are_passed_on():
    built = loss(weighting={"name": "MinSNR", "gamma": 3.0})
    assert built.schedule == schedules.Cosine()
    assert built.weighting == losses.MinSNR(3.0)


def test_the_config_is_not_changed_by_building():
    spec = {"name": "Shifted", "schedule": {"name": "Betas", "values": [0.1, 0.2]}, "resolution": 8}
    schedule(spec)
    assert spec["schedule"] == {"name": "Betas", "values": [0.1, 0.2]}


def test_lists_become_tuples_all_the_way_down():
    """JSON has no tuples, and a jitted function's static arguments must be hashable."""
    assert field("many", [1, 2]) == (1, 2)
    assert convert([[1, 2], [3]], tuple, "part") == ((1, 2), (3,))


def test_integers_become_floats_where_a_float_is_declared():
    value = field("real", 3)
    assert (value, type(value)) == (3.0, float)


# What is refused


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("Cosin", "Cosine"), ("cosine", "Cosine"), ("Linear", "LinearBeta"), ("Sigmiod", "Sigmoid")],
)
def test_for_an_unknown_name_the_nearest_is_suggested(name, nearest):
    message = refusal(schedule, {"name": name})
    assert f'config.schedule.name = "{name}"' in message
    assert nearest in message.split("did you mean")[1]


def test_for_a_name_that_is_near_none_all_are_listed():
    offered = refusal(schedule, {"name": "qqq"}).split("use one of")[1]
    assert {"Cosine", "LinearBeta", "RectifiedFlow", "Karras"} <= set(offered.strip(" ?").split(", "))


@pytest.mark.parametrize("name", ["Schedule", "_f32", "dataclasses", "ArrayLike", "V", "jnp"])
def test_only_public_components_of_the_kind_have_names(name):
    """Not the base class, helpers, what the module itself imports, or another kind."""
    assert "unknown name" in refusal(schedule, {"name": name})


def test_for_an_unknown_argument_the_nearest_is_suggested():
    message = refusal(schedule, {"name": "Cosine", "stpes": 100})
    assert message == "config.schedule.stpes: there is no such field; did you mean steps?"


def test_an_argument_from_elsewhere_cannot_be_set():
    message = refusal(loss, schedule={"name": "Cosine"})
    assert "config.loss.schedule: there is no such field" in message


def test_for_an_unknown_field_of_a_section_the_nearest_is_suggested():
    message = refusal(build_section, Plan, {"steps": 1, "batchsize": 1}, "train")
    assert "config.train.batchsize: there is no such field; did you mean batch_size" in message


def test_an_unknown_section_is_named_without_a_dot_before_it():
    message = refusal(check_names, {"modle": 1}, ["model", "data"], "")
    assert message.startswith("config.modle: ")
    assert "model" in message


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("whole", "3", "int"),
        ("whole", 3.0, "int"),
        ("whole", True, "int"),
        ("whole", None, "int"),
        ("real", "1e-3", "float"),
        ("real", True, "float"),
        ("flag", 1, "bool"),
        ("flag", "False", "bool"),
        ("text", 3, "str"),
        ("many", 3, "tuple[int, ...]"),
        ("many", "3", "tuple[int, ...]"),
        ("text", ["a"], "str"),
    ],
)
def test_a_wrong_type_is_refused_with_path_value_and_types(name, value, kind):
    message = refusal(field, name, value)
    converted = tuple(value) if isinstance(value, list) else value
    assert message == (f"config.part.{name} = {converted!r}: must be of type {kind}, not {type(converted).__name__}")


def test_the_path_reaches_into_nested_components():
    spec = {"name": "Shifted", "schedule": {"name": "Cosine", "steps": "many"}, "resolution": 8}
    assert refusal(schedule, spec).startswith("config.schedule.schedule.steps = 'many': must be")
    spec["schedule"] = {"name": "Cosin"}
    assert refusal(schedule, spec).startswith('config.schedule.schedule.name = "Cosin"')


def test_a_nested_component_must_be_of_the_kind_asked_for():
    message = refusal(loss, weighting={"name": "StratifiedTimes"})
    assert message.startswith('config.loss.weighting.name = "StratifiedTimes"')
    assert "MinSNR" in message


@pytest.mark.parametrize("spec", ["Cosine", None, 3, {}, {"steps": 3}, {"name": 3}, ["Cosine"]])
def test_a_component_without_a_name_is_refused(spec):
    assert refusal(schedule, spec) == f'config.schedule = {spec!r}: must be dict(name="...", ...)'


@pytest.mark.parametrize("spec", ["steps", None, 3])
def test_a_section_must_be_a_dict(spec):
    assert refusal(build_section, Plan, spec, "train") == f"config.train = {spec!r}: must be a dict"


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ({"name": "LinearBeta", "steps": 10}, "steps = 10"),
        ({"name": "Karras", "rho": -1}, "rho = -1"),
        ({"name": "Shifted", "schedule": {"name": "Cosine"}, "resolution": 0}, "resolution = 0"),
    ],
)
def test_the_message_of_a_constructor_gets_the_path(spec, part):
    message = refusal(schedule, spec)
    assert message.startswith("config.schedule: ")
    assert part in message


def test_a_missing_argument_is_named():
    assert "schedule" in refusal(schedule, {"name": "Shifted", "resolution": 8}).split(":", 1)[1]
    assert "steps" in refusal(build_section, Plan, {"batch_size": 1}, "train").split(":", 1)[1]


@pytest.mark.parametrize("value", ["MinSNR", 3])
def test_a_plain_value_in_the_place_of_a_component_is_refused(value):
    """weighting="MinSNR" is the first thing that a user gets wrong."""
    assert "config.loss.weighting" in refusal(loss, weighting=value)


def test_a_component_in_the_place_of_a_number_is_refused_as_a_wrong_type():
    message = refusal(schedule, {"name": "Cosine", "steps": {"name": "Cosine"}})
    assert "must be of type int" in message


# A user's own code


def test_a_users_class_is_imported_with_allow_code(user_code):
    built = schedule({"name": "user_code:Mine", "speed": 2}, allow_code=True)
    assert (type(built).__module__, type(built).__name__) == ("user_code", "Mine")
    assert built.speed == 2.0
    assert user_code.exists()


def test_a_users_class_can_stand_inside_another_component(user_code):
    spec = {"name": "Shifted", "schedule": {"name": "user_code:Mine"}, "resolution": 8}
    assert type(schedule(spec).schedule).__name__ == "Mine"


@pytest.mark.parametrize("nested", [False, True])
def test_without_allow_code_nothing_is_imported(user_code, nested):
    spec = {"name": "user_code:Mine"}
    if nested:
        spec = {"name": "Shifted", "schedule": spec, "resolution": 8}
    message = refusal(schedule, spec, allow_code=False)
    assert '"user_code:Mine"' in message
    assert "allow_code=True" in message
    assert not user_code.exists()


def test_a_users_class_has_its_arguments_checked(user_code):
    assert "did you mean speed?" in refusal(schedule, {"name": "user_code:Mine", "sped": 2})
    assert "must be of type float" in refusal(schedule, {"name": "user_code:Mine", "speed": "2"})
    assert "too slow" in refusal(schedule, {"name": "user_code:Mine", "speed": -1})


@pytest.mark.parametrize(
    "name",
    [
        "no_such_module:Mine",
        "user_code:Yours",
        "user_code.inner:Mine",
        ":Mine",
        "..user_code:Mine",
        "user_code:number",
        "builtins:dict",
    ],
)
def test_what_cannot_be_imported_is_refused_by_name(user_code, name):
    assert f'config.schedule.name = "{name}"' in refusal(schedule, {"name": name})


def test_a_users_class_of_another_kind_is_refused(user_code):
    assert "NoSchedule" in refusal(schedule, {"name": "user_code:NoSchedule"})


def test_a_users_long_message_becomes_one_line(user_code):
    assert "first line" in refusal(schedule, {"name": "user_code:Wordy"})


def test_any_error_of_a_users_class_is_reported_in_one_line(user_code):
    message = refusal(schedule, {"name": "user_code:Failing"})
    assert message == "config.schedule: Failing fails with KeyError: 'no such thing'"


def test_a_users_class_that_lacks_a_method_is_refused(user_code):
    assert "still lacks log_snr, time" in refusal(schedule, {"name": "user_code:Unfinished"})


def test_an_unexpected_error_of_the_library_is_a_bug_and_passes_through(monkeypatch):
    def fail(self):
        raise KeyError("a bug")

    monkeypatch.setattr(schedules.Cosine, "__post_init__", fail)
    with pytest.raises(KeyError, match="a bug"):
        schedule({"name": "Cosine"})
