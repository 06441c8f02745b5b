"""What a result says of the software it was made with."""

from importlib import metadata

from atom_plugin.runtime import versions


def test_a_package_that_is_not_installed_is_left_out(monkeypatch):
    assert {"python", "torch", "kornia", "atom-plugin"} <= versions.package_versions().keys()

    def version(name: str, ask=metadata.version) -> str:
        if name == "kornia":
            raise metadata.PackageNotFoundError(name)
        return ask(name)

    monkeypatch.setattr(metadata, "version", version)
    found = versions.package_versions()
    assert "kornia" not in found
    assert "torch" in found
