import time

from groups import in_processes

from atom_plugin.runtime import distributed, rendezvous


def test_alone_nobody_waits():
    assert rendezvous.first_to_say("a line")
    assert rendezvous.first_to_say("a line")
    with rendezvous.leader_first():
        rendezvous.barrier()
    assert rendezvous.collected("ab") == ["a", "b"]


def test_a_line_is_said_where_no_store_answers(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rendezvous, "_WAIT", rendezvous._WAIT / 50)
    assert rendezvous.first_to_say("a line")


def speak_in_turn(folder):
    said = rendezvous.first_to_say
    with distributed.joined("cpu"):
        with rendezvous.leader_first():
            if distributed.leads():
                time.sleep(0.3)
            (folder / str(distributed.rank())).touch()
            came = sorted(path.name for path in folder.iterdir())
        before = said("only if nobody spoke", unless_explained=True) if distributed.leads() else None
        rendezvous.barrier()
        rank = distributed.rank()
    return came[0], before, (said("the same"), said(f"from {rank}"), said("late", unless_explained=True))


def test_the_first_goes_first_and_a_line_is_said_once(tmp_path):
    found = in_processes(2, speak_in_turn, tmp_path)
    assert [came for came, _, _ in found] == ["0", "0"]
    assert found[0][1] is True
    assert sorted(lines[0] for *_, lines in found) == [False, True]
    assert [lines[1:] for *_, lines in found] == [(True, False)] * 2


def meet(folder):
    with distributed.dealt("cpu"):
        if distributed.leads():
            time.sleep(0.3)
            (folder / "late").touch()
        rendezvous.barrier()
        assert (folder / "late").exists()
        return rendezvous.collected([{"from": distributed.rank()}] * (1 + distributed.rank())), rendezvous.collected([])


def test_all_wait_and_all_learn_what_each_has(tmp_path):
    assert in_processes(2, meet, tmp_path) == [([{"from": 0}, {"from": 1}, {"from": 1}], [])] * 2
