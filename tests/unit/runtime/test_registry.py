"""Names from entry points and from this process; imports only on use; errors that say what to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from atom_plugin.errors import PluginError
from atom_plugin.runtime.registry import Registry

GROUP = "atom_plugin.tests"


@dataclass
class FakeDistribution:
    name: str


@dataclass
class FakeEntryPoint:
    """What the registry reads of importlib's EntryPoint."""

    name: str
    value: str
    dist: FakeDistribution | None
    loads: Any = None
    loaded: list[str] = field(default_factory=list)

    def load(self) -> Any:
        self.loaded.append(self.name)
        if isinstance(self.loads, Exception):
            raise self.loads
        return self.loads


def point(name: str, loads: Any = None, *, dist: str | None = "someones-plugin", value: str = "a.b:c") -> Any:
    return FakeEntryPoint(name, value, FakeDistribution(dist) if dist else None, loads)


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call with entry points: a registry that finds exactly these."""

    def offered(*points: FakeEntryPoint) -> Registry[Any]:
        def entry_points(*, group: str) -> list[FakeEntryPoint]:
            return list(points) if group == GROUP else []

        monkeypatch.setattr(metadata, "entry_points", entry_points)
        return Registry("matcher", GROUP)

    return offered


def documented() -> None:
    """Compares means.

    And a second paragraph.
    """


def test_names_come_from_entry_points_and_from_this_process_sorted(offer: Any) -> None:
    registry = offer(point("zeta"), point("atom"))
    registry.register("mine")(object())
    assert registry.names() == ["atom", "mine", "zeta"]


def test_get_returns_what_was_registered(offer: Any) -> None:
    registry = offer(point("theirs", documented))
    assert registry.register("mine")(len) is len
    assert registry.get("mine") is len
    assert registry.get("theirs") is documented


def test_registering_the_same_object_again_is_fine_another_is_not(offer: Any) -> None:
    registry = offer()
    registry.register("mine")(len)
    registry.register("mine")(len)
    with pytest.raises(PluginError, match="matcher name 'mine' is already registered in this process; choose another"):
        registry.register("mine")(print)
    assert registry.get("mine") is len


def test_an_unknown_name_is_answered_with_the_nearest_and_all_known(offer: Any) -> None:
    registry = offer(point("datadam"), point("atom"))
    with pytest.raises(PluginError) as error:
        registry.get("data-dam")
    assert str(error.value) == "no matcher is called 'data-dam'; did you mean 'datadam'? known: atom, datadam"


def test_a_name_near_to_nothing_gets_no_suggestion(offer: Any) -> None:
    with pytest.raises(PluginError) as error:
        offer(point("atom")).get("xyzzy")
    assert str(error.value) == "no matcher is called 'xyzzy'; known: atom"
    with pytest.raises(PluginError, match="known: none"):
        offer().get("atom")


def test_two_distributions_claiming_one_name_are_both_named(offer: Any) -> None:
    registry = offer(point("atom", dist="beta-plugin"), point("atom", dist="alpha-plugin"))
    with pytest.raises(PluginError) as error:
        registry.get("atom")
    assert str(error.value) == (
        "the matcher name 'atom' is claimed by alpha-plugin and beta-plugin; uninstall one of them"
    )
    assert registry.names() == ["atom"]


def test_this_process_cannot_take_a_distributions_name_silently(offer: Any) -> None:
    registry = offer(point("atom", dist="atom-plugin"))
    registry.register("atom")(len)
    with pytest.raises(PluginError, match="claimed by atom-plugin and this process"):
        registry.get("atom")


def test_one_distribution_found_twice_is_one_claim(offer: Any) -> None:
    registry = offer(point("atom", len, dist="atom-plugin"), point("atom", len, dist="atom-plugin"))
    assert registry.get("atom") is len


def test_one_distribution_with_two_objects_for_one_name_is_an_error(offer: Any) -> None:
    registry = offer(point("atom", dist="p", value="p:a"), point("atom", dist="p", value="p:b"))
    with pytest.raises(PluginError, match="claimed by p"):
        registry.get("atom")


def test_listing_and_looking_up_import_nothing(offer: Any) -> None:
    bomb = point("bomb", RuntimeError("imported"))
    registry = offer(bomb, point("atom"))
    assert registry.names() == ["atom", "bomb"]
    assert registry.entry("bomb").origin == "someones-plugin"
    with pytest.raises(PluginError):
        registry.entry("bom")
    assert bomb.loaded == []


def test_a_real_entry_point_is_imported_on_use_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "bomb_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bomb-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nbomb = bomb_module_of_tests:thing\n")
    (tmp_path / "bomb_module_of_tests.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry: Registry[Any] = Registry("matcher", GROUP)
    assert registry.names() == ["bomb"]
    assert registry.entry("bomb").origin == "bomb-plugin"
    with pytest.raises(PluginError, match=r"'bomb' of bomb-plugin cannot be loaded \(RuntimeError: imported\)"):
        registry.get("bomb")


def test_a_broken_plugin_is_described_and_hides_no_other(offer: Any) -> None:
    broken = point("broken", ImportError("no module named 'gone'"), dist="old-plugin")
    registry = offer(broken, point("atom", documented), point("twice", dist="p"), point("twice", dist="q"))
    assert [registry.describe(name) for name in registry.names()] == [
        "Compares means.",
        "unusable: the matcher 'broken' of old-plugin cannot be loaded (ImportError: no module named 'gone'); "
        "update or uninstall that distribution",
        "unusable: the matcher name 'twice' is claimed by p and q; uninstall one of them",
    ]


def failing(name: str, error: BaseException) -> Any:
    def load() -> Any:
        raise error

    failing_point = point(name)
    failing_point.load = load
    return failing_point


def test_a_plugin_that_exits_when_imported_does_not_end_the_program(offer: Any) -> None:
    registry = offer(failing("script", SystemExit(3)))
    assert "SystemExit: 3" in registry.describe("script")


def test_ctrl_c_while_a_plugin_is_imported_is_no_error_of_the_plugin(offer: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        offer(failing("slow", KeyboardInterrupt())).get("slow")


def test_a_given_description_needs_no_import(offer: Any) -> None:
    registry = offer()
    registry.register("mine", description="compares means")(documented)
    assert registry.describe("mine") == "compares means"


def test_something_without_a_docstring_has_an_empty_description(offer: Any) -> None:
    assert offer(point("bare", lambda: None)).describe("bare") == ""
