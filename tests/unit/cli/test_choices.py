import click
import pytest
from click.testing import CliRunner

from atom_plugin.cli.choices import Choice


@pytest.mark.parametrize(
    ("typed", "said"),
    [("herdin", "did you mean 'herding'?"), ("center", "did you mean 'k-center'?"), ("xyz", "'herding', 'k-center'.")],
)
def test_a_misspelt_choice_is_answered_with_the_nearest(typed, said):
    @click.command()
    @click.option("--method", type=Choice(["herding", "k-center"]))
    def command(method):
        pass

    result = CliRunner().invoke(command, ["--method", typed])
    assert result.exit_code == 2
    assert f"'{typed}' is not one of 'herding', 'k-center'" in result.output
    assert result.output.rstrip().endswith(said)
