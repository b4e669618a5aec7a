"""The limits: one file holds them all, another one may change some, and a wrong one is said to be wrong."""

from __future__ import annotations

import dataclasses
import tomllib

import pytest

from app.shared import limits
from app.shared.limits import Limits, LimitsError
from atlas.errors import AtlasError, ModelError
from atlas.models import KNOWN_MODELS
from tests.app.pages import DEMO


@pytest.fixture(autouse=True)
def no_other_file(monkeypatch):
    monkeypatch.delenv(limits.LIMITS_VARIABLE, raising=False)


@pytest.fixture
def host(set_limits):
    """The limits with those of a host's file."""

    def write(text: str) -> Limits:
        set_limits(text)
        return limits.current()

    return write


def test_the_file_holds_every_limit_and_no_other():
    written = tomllib.loads(limits.STANDARD.read_text(encoding="utf-8"))
    assert set(written) == {each.name for each in dataclasses.fields(Limits)}
    for name, value in written.items():
        read = getattr(limits.current(), name)
        assert (list(read) if isinstance(read, tuple) else read) == value


def test_every_limit_is_explained_above_its_key():
    lines = limits.STANDARD.read_text(encoding="utf-8").splitlines()
    starts = [i for i, line in enumerate(lines) if line and not line.startswith("#")]
    for i in starts:
        above = i - 1
        while lines[above] and not lines[above].startswith("#"):
            above -= 1
        assert lines[above].startswith("#"), lines[i]


def test_limits_cannot_be_changed_while_the_app_runs():
    with pytest.raises(dataclasses.FrozenInstanceError):
        limits.current().draws = 10**9


def test_offered_models_are_known_ones():
    assert set(limits.current().models) <= set(KNOWN_MODELS)


def test_a_hosts_file_changes_what_it_names_and_nothing_else(host):
    standard = limits.current()
    changed = host("prompts = 3\nsql_seconds = 2\n")
    assert (changed.prompts, changed.sql_seconds) == (3, 2.0)
    assert (
        dataclasses.replace(changed, prompts=standard.prompts, sql_seconds=standard.sql_seconds) == standard
    )


def test_a_hosts_file_is_read_again_when_it_changes(host):
    assert host("prompts = 3").prompts == 3
    assert host("prompts = 30").prompts == 30


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("promts = 3", "host.toml: promts is not a limit"),
        ("prompts = 'three'", "host.toml: prompts must be a whole number above 0, got 'three'."),
        ("prompts = 2.5", "must be a whole number"),
        ("prompts = true", "must be a whole number above 0, got True."),
        ("prompts = 0", "prompts must be a whole number above 0, got 0."),
        ("draws = -1", "must be a whole number above 0, got -1."),
        ("sql_seconds = inf", "must be a number above 0"),
        ("sql_seconds = nan", "must be a number above 0"),
        ("sql_seconds = '5'", "must be a number above 0, got '5'."),
        ("demo_mode = 1", "must be true or false"),
        ("demo_mode = 'yes'", "must be true or false"),
        ("models = 'pocket-bert'", "must be a list of names"),
        ("models = [1]", "must be a list of names"),
        ("models = []", "at least one model"),
        ("downloads = ['gpt2']", "downloads must be among models, got gpt2."),
        ("prompts = ", "is not valid TOML"),
        ("[prompts]\nmost = 3", "must be a whole number"),
    ],
)
def test_a_wrong_file_gets_a_sentence(host, text, says):
    with pytest.raises(LimitsError) as caught:
        host(text)
    message = str(caught.value)
    assert says in message
    assert "\n" not in message
    assert message.endswith(".")
    assert isinstance(caught.value, AtlasError)


@pytest.mark.parametrize("kind", ["nowhere", "a folder", "no text"])
def test_a_file_that_cannot_be_read_gets_a_sentence_without_its_folder(tmp_path, monkeypatch, kind):
    file = tmp_path / "other.toml"
    if kind == "a folder":
        file.mkdir()
    elif kind == "no text":
        file.write_bytes(b"\xff\xfe\x00prompts")
    monkeypatch.setenv(limits.LIMITS_VARIABLE, str(file))
    with pytest.raises(LimitsError, match=r"other\.toml cannot be read") as caught:
        limits.current()
    assert str(tmp_path) not in str(caught.value)


# Which models ----------------------------------------------------------------------------------------


def test_at_home_any_model_may_be_used_and_fetched():
    for name in ("pocket-bert", "smollm2-135m", "gpt2", "~/models/mine", "/srv/model", "../model"):
        limits.current().check_model(name)
        limits.current().check_download(name)


@pytest.mark.parametrize(
    "name",
    ["gpt2", "smollm2-135m", "org/model", "~/models/mine", "/srv/model", "../model", ".", "", "POCKET-BERT"],
)
def test_a_demo_offers_its_list_and_nothing_else(demo, name):
    assert demo.demo_mode
    demo.check_model("pocket-bert")
    assert not demo.offers(name)
    with pytest.raises(ModelError, match="offers pocket-bert only"):
        demo.check_model(name)
    with pytest.raises(ModelError):
        demo.check_download(name)


def test_a_demo_fetches_only_what_it_lists(host):
    demo = host(
        "demo_mode = true\nmodels = ['pocket-bert', 'smollm2-135m', 'gpt2']\ndownloads = ['smollm2-135m']"
    )
    assert demo.offers("gpt2")
    assert demo.may_download("smollm2-135m")
    demo.check_download("smollm2-135m")
    with pytest.raises(ModelError, match="does not fetch gpt2"):
        demo.check_download("gpt2")


def test_no_limit_of_the_demo_is_looser_than_the_standard(monkeypatch):
    standard = limits.current()
    monkeypatch.setenv(limits.LIMITS_VARIABLE, str(DEMO))
    demo = limits.current()
    for each in dataclasses.fields(Limits):
        if each.type in ("int", "float"):
            assert getattr(demo, each.name) <= getattr(standard, each.name), each.name
    assert set(demo.models) <= set(standard.models)
    assert demo.downloads == ()
