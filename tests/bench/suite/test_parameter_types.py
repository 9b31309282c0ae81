"""Models in a suite: by name, or by name with options."""

import msgspec
import pytest

from bench.suite.parameter_types import ModelName, decoder

HERE = "bench.suite.parameter_types:check_model"  # any callable with a named argument


def read(value: object) -> ModelName:
    return msgspec.convert(value, ModelName, dec_hook=decoder(None))


def test_a_model_with_options_is_the_text_of_its_specification() -> None:
    assert read("resnet18") == "resnet18"
    assert read({"name": "resnet18"}) == "resnet18"
    given = {"name": HERE, "options": {"model": {"b": 1, "a": [2]}}}
    assert read(given) == f'{HERE}{{"model":{{"a":[2],"b":1}}}}'
    assert read(str(read(given))) == read(given)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("resnet19", r"no model 'resnet19' \(did you mean 'resnet18'\?\)"),
        ({"name": "resnet19", "options": {}}, "no model 'resnet19'"),
        ({"name": HERE, "options": {"modle": 1}}, r"no option 'modle' \(did you mean 'model'\?\); it takes model"),
        ({"name": "small_cnn", "options": {"widht": 4}}, r"small_cnn has no option 'widht'"),
        ({"name": "no_such_module:net"}, "no_such_module cannot be imported"),
        ({"options": {}}, "."),
        (3, "expected a name, got 3"),
        ("resnet18{", "JSON object"),
    ],
)
def test_a_model_that_does_not_exist_or_take_its_options_is_an_error(value: object, words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        read(value)
