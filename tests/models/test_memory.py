"""What is refused for want of memory, on made-up machines."""

from __future__ import annotations

import pytest

from recsys_vae.errors import UserError
from recsys_vae.models import memory
from recsys_vae.models.memory import GIB, available_memory, check_memory


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal:  8388608 kB\nMemFree:  1 kB\nMemAvailable:  4194304 kB\n")
    return tmp_path


def test_what_the_kernel_has_to_give(machine) -> None:
    assert available_memory() == 4 * GIB


@pytest.mark.parametrize(("limit", "expected"), [("max", 4), (f"{3 * GIB}", 2), (f"{9 * GIB}", 4)])
def test_within_the_limit_of_a_container(machine, limit, expected) -> None:
    (machine / "memory.max").write_text(limit + "\n")
    (machine / "memory.current").write_text(f"{GIB}\n")
    assert available_memory() == expected * GIB


def test_elsewhere_the_memory_of_the_machine_if_it_can_be_told(machine, monkeypatch) -> None:
    (machine / "meminfo").unlink()
    monkeypatch.setattr(memory.os, "sysconf_names", {"SC_PHYS_PAGES": 1, "SC_PAGE_SIZE": 2}, raising=False)
    monkeypatch.setattr(
        memory.os, "sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.get, raising=False
    )
    assert available_memory() == 4_096_000
    monkeypatch.setattr(memory.os, "sysconf_names", {})
    assert available_memory() is None
    check_memory("model.x", "anything", 10**18, "expected less")  # nobody knows


def test_the_message_names_the_size_what_there_is_and_the_remedy(machine) -> None:
    check_memory("model.x", "40000 numbers", 4 * GIB, "expected fewer")
    with pytest.raises(
        UserError, match=r"model\.x: 7 things need 4\.5 GiB, and 4\.0 GiB are available; expected fewer"
    ):
        check_memory("model.x", "7 things", 9 * GIB // 2, "expected fewer")
