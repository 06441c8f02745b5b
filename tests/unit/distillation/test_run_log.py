import pytest

from atom_plugin.distillation.run_log import RunLog, read_log
from atom_plugin.errors import StoreError


def test_records_come_back_without_half_a_line(tmp_path):
    path = tmp_path / "a.jsonl"
    with RunLog(path) as log:
        for iteration in (1, 2, 3):
            log.write(iteration=iteration, loss=0.5 * iteration)
    assert read_log(path)[1] == {"iteration": 2, "loss": 1.0}
    with path.open("a") as file:
        file.write('{"iteration": 4, "lo')
    assert [record["iteration"] for record in read_log(path)] == [1, 2, 3]


def test_a_resumed_run_drops_what_its_checkpoint_does_not_hold(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"iteration": 1}\n{"iteration": 2}\n{"iteration": 3}\n{"iter')
    with RunLog(path, after=2) as log:
        log.write(iteration=3, again=True)
    assert read_log(path) == [{"iteration": 1}, {"iteration": 2}, {"iteration": 3, "again": True}]


def test_a_new_run_starts_a_new_log_with_its_first_record(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"iteration": 1}\n')
    with RunLog(path):
        pass
    assert read_log(path) == [{"iteration": 1}]
    with RunLog(path) as log:
        log.write(iteration=1, new=True)
    assert read_log(path) == [{"iteration": 1, "new": True}]


def test_a_missing_log_has_no_records_and_a_foreign_file_is_refused_and_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    assert read_log(path) == []
    path.write_text('{"iteration": "first"}\n')
    with pytest.raises(StoreError, match=r"a\.jsonl, line 1: found iteration 'first'"):
        read_log(path)
    path.write_text("[1, 2]\n")
    with pytest.raises(StoreError, match=r"a\.jsonl, line 1: .*name the log of a run"), RunLog(path, after=1) as log:
        log.write(iteration=2)
    assert path.read_text() == "[1, 2]\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"iteration": 0, "loss": 1}', "found iteration 0, expected a whole number of 1 or more"),
        ('{"iteration": true}', "found iteration True"),
        ('{"iteration": 1.5}', "found iteration 1.5"),
        ('{"iteration": 1, "loss": "low"}', "found loss 'low', expected a number"),
        ('{"iteration": 1, "loss": null}', "found loss None, expected a number"),
        ('{"iteration": 1, "loss": [1]}', r"found loss \[1\], expected a number"),
        ('{"iteration": 1, "seconds": {}}', "found seconds {}, expected a number"),
        ('{"iteration": 1, "loss": NaN}', "found the number NaN"),
        ('{"iteration": 1' + "0" * 500 + "}", "found a whole number of 501 digits"),
    ],
)
def test_wrong_types_in_a_log_are_named_and_the_log_stays(tmp_path, line, words):
    path = tmp_path / "a.log.jsonl"
    path.write_text(f'{{"iteration": 1, "loss": 2.5}}\n{line}\n')
    before = path.read_bytes()
    with pytest.raises(StoreError, match=rf"a\.log\.jsonl, line 2: {words}.*remove the line"):
        read_log(path)
    with pytest.raises(StoreError, match="line 2"), RunLog(path, after=1) as log:
        log.write(iteration=2)
    assert path.read_bytes() == before


def test_a_log_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="there is no folder"), RunLog(tmp_path / "no" / "a.jsonl") as log:
        log.write(iteration=1)
