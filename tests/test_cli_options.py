"""The command line knows every field of a Spec, and reads its texts as the decorator's values."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from dayfly.errors import SpecError
from dayfly.infra.spec import Spec
from dayfly.runtime.cli.options import SPEC_OPTIONS, parsed, refuse_late_options
from dayfly.runtime.cli.target import as_environment, parsed_arguments
from dayfly.stacks import settings


def test_every_field_of_a_spec_has_an_option() -> None:
    """One that is added to the Spec is missed here."""
    fields = {field.name for field in dataclasses.fields(Spec)}
    assert {option.field for option in SPEC_OPTIONS} == fields
    flags = [flag for option in SPEC_OPTIONS for flag in option.flags]
    assert len(flags) == len(set(flags))
    assert {"--time", "--max-runtime", "--secret", "--hold"} <= set(flags)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"cores": "4", "max_cost": "2.5"}, {"cores": 4, "max_cost": 2.5}),
        ({"max_price": "3", "gpu": "H100,A100"}, {"max_price": 3.0, "gpu": "H100,A100"}),
        ({"provider": ["lambda,aws", "gcp"]}, {"provider": ["lambda", "aws", "gcp"]}),
        ({"environment": ["live"]}, {"environment": "live"}),
        ({"environment": ["reqs.txt"]}, {"environment": "reqs.txt"}),
        ({"environment": ["numpy>=1,<3"]}, {"environment": ["numpy>=1,<3"]}),
        ({"environment": ["numpy", "scipy"]}, {"environment": ["numpy", "scipy"]}),
        (
            {"secrets": ["A"], "wait_for_teardown": True},
            {"secrets": ["A"], "wait_for_teardown": True},
        ),
        ({"cores": "four"}, {"cores": "four"}),
    ],
)
def test_texts_become_the_values_of_a_spec(given: dict[str, Any], options: dict[str, Any]) -> None:
    """What does not fit stays a text, which the Spec refuses by name."""
    assert parsed(given) == options


def test_an_option_behind_the_function_is_refused() -> None:
    """It would be handed to the function as a text."""
    refuse_late_options(["3", "name=x", "--verbose", "-1"])
    for late in ("--json", "--detach", "--cores", "--no-wait-for-teardown", "--time=3h"):
        with pytest.raises(SpecError, match="go before"):
            refuse_late_options(["3", late])


def test_arguments_are_json_where_they_parse_and_text_otherwise() -> None:
    """NAME=VALUE by keyword, in any order behind the others."""
    args, kwargs = parsed_arguments(
        ["3", "-0.5", "[1, 2]", "true", "text", "a-b=c", "x=null", "y=z=1"]
    )
    assert args == (3, -0.5, [1, 2], True, "text", "a-b=c")
    assert kwargs == {"x": None, "y": "z=1"}
    for wrong in (["x=1", "2"], ["x=1", "x=2"]):
        with pytest.raises(SpecError):
            parsed_arguments(wrong)


def test_options_become_the_defaults_of_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings read back what was given."""
    given = {
        "cores": 2,
        "secrets": ["A", "B"],
        "provider": ["local"],
        "wait_for_teardown": True,
        "max_runtime": "2h",
    }
    for name, value in as_environment(given).items():
        monkeypatch.setenv(name, value)
    assert Spec.from_options(settings.load(Path("/")).spec_options()) == Spec.from_options(given)
    with pytest.raises(SpecError, match="requirements file"):
        as_environment({"environment": ["numpy>=1,<3"]})
