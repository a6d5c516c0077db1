from pathlib import Path

from supervisor.memory import VMSTAT, Memory


def test_another_end_since_the_last_look(tmp_path: Path) -> None:
    path = tmp_path / "vmstat"
    path.write_text("nr_free_pages 5\noom_kill 7\nswap_ra 0\n")
    memory = Memory(path)
    assert not memory.is_short()
    path.write_text("nr_free_pages 5\noom_kill 8\nswap_ra 0\n")
    assert memory.is_short()
    assert memory.is_short()  # two workers at once
    memory.look()
    assert not memory.is_short()


def test_without_a_count_nobody_is_said_to_be_short(tmp_path: Path) -> None:
    assert not Memory(tmp_path / "vmstat").is_short()


def test_this_kernel_counts() -> None:
    assert "\noom_kill " in VMSTAT.read_text()
