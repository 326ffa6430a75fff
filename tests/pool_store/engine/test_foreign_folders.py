"""A pool's folder made by somebody else is data: nothing in it is executed, or followed out of it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pool_store.client import open_pool
from pool_store.engine.log_check import check_log
from pool_store.errors import PoolError, PoolMissing
from pool_store.schemas import Offer
from tests.patience import wait_until

NAMES = ("lock", "valkey.log", "appendonlydir", "blobs", "temp-rewriteaof-bg-7.aof", "temp-7.rdb")
LOG = "appendonlydir/appendonly.aof.1.incr.aof"
BASE = "appendonlydir/appendonly.aof.1.base.rdb"
MANIFEST = "appendonlydir/appendonly.aof.manifest"
KINDS = ("link to a file", "link to a folder", "link to nothing", "hard link", "pipe")


@pytest.fixture
def folder(tmp_path: Path, embedded: Any, make_offer: Callable[..., Offer]) -> Path:
    """A whole pool, closed."""
    with closing(embedded.open()) as pool:
        pool.offer(make_offer(pool, "a", 1.0, 1))
    return tmp_path / "the pool"


def refusal(folder: Path) -> str:
    with pytest.raises(PoolError) as refused:
        open_pool(f"embedded:{folder}").close()
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    "written",
    ['[1, "{0}/rgsud-pool-x"]', '[1, "{0}/rgsud-pool-x/valkey.sock"]', "{0}", "9" * 5000, "\0", "[]"],
)
def test_what_its_lock_says_is_not_believed(folder: Path, tmp_path: Path, written: str) -> None:
    precious = tmp_path / "precious" / "rgsud-pool-x"
    precious.mkdir(parents=True)
    (precious / "thesis.txt").write_text("thesis")
    (folder / "lock").write_text(written.replace("{0}", str(precious.parent)))
    with closing(open_pool(f"embedded:{folder}")) as pool:
        assert pool.stats().entries == 1
    assert (precious / "thesis.txt").read_text() == "thesis"


@pytest.mark.parametrize(
    "kind", ["link to a file", "link to a folder", "link to nothing", "hard link", "pipe"]
)
@pytest.mark.parametrize("name", [*NAMES, LOG, BASE, MANIFEST, "appendonlydir/temp-appendonly.aof.manifest"])
def test_links_in_it_are_not_followed(folder: Path, tmp_path: Path, name: str, kind: str) -> None:
    victim, place = tmp_path / "victim", folder / name
    victim.write_text("keep me")
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "thesis.tex").write_text("thesis")
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    match kind:
        case "link to a file":
            place.symlink_to(victim)
        case "link to a folder":
            place.symlink_to(tmp_path / "documents")
        case "link to nothing":
            place.symlink_to(tmp_path / "new")
        case "hard link":
            place.hardlink_to(victim)
        case _:
            os.mkfifo(place)
    assert str(place) in refusal(folder)
    assert victim.read_text() == "keep me"
    assert (tmp_path / "documents" / "thesis.tex").read_text() == "thesis"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("part", ["blobs/main", "blobs/main/{}", "blobs/main/sources"])
def test_a_sweep_empties_nothing_that_a_link_points_to(
    folder: Path, tmp_path: Path, embedded: Any, part: str
) -> None:
    (tmp_path / "documents").mkdir()
    thesis = tmp_path / "documents" / "thesis.tex"
    thesis.touch()
    os.utime(thesis, (1, 1))
    [blob] = [file for file in embedded.files() if file.suffix == ".webp"]
    link = folder / part.format(blob.parent.name)
    if link.exists():
        shutil.rmtree(link)
    link.symlink_to(tmp_path / "documents")
    with contextlib.suppress(PoolError), closing(open_pool(f"embedded:{folder}")) as pool:
        pool.sweep(0)
    assert thesis.stat().st_mtime == 1


def command(*words: str) -> bytes:
    parts = [f"${len(word)}\r\n{word}\r\n".encode() for word in words]
    return f"*{len(words)}\r\n".encode() + b"".join(parts)


COMMANDS = (
    ("CONFIG", "SET", "bind", "* -::*"),
    ("config", "set", "protected-mode", "no"),
    ("CONFIG", "REWRITE"),
    ("MODULE", "LOAD", "/tmp/evil.so"),
    ("REPLICAOF", "192.0.2.1", "6379"),
    ("SLAVEOF", "192.0.2.1", "6379"),
    ("DEBUG", "SLEEP", "60"),
    ("EVAL", "while true do end", "0"),
    ("FUNCTION", "LOAD", "#!lua name=x\nserver.register_function('x', function() end)"),
    ("SCRIPT", "LOAD", "return 1"),
    ("ACL", "SETUSER", "evil", "on", "nopass", "+@all", "~*"),
    ("SAVE",),
    ("SHUTDOWN",),
    ("RESTORE", "x", "0", "junk"),
    ("MIGRATE", "192.0.2.1", "6379", "x", "0", "100"),
    ("CLUSTER", "RESET"),
    ("FAILOVER",),
    ("UNKNOWN",),
)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("place", ["end", "transaction", "base", "second file"])
def test_a_log_runs_no_commands(folder: Path, words: tuple[str, ...], place: str) -> None:
    evil, log = command(*words), folder / LOG
    match place:
        case "end":
            log.write_bytes(log.read_bytes() + evil)
        case "transaction":
            log.write_bytes(command("MULTI") + command("SELECT", "0") + evil + command("EXEC"))
        case "base":
            (folder / BASE).write_bytes((folder / BASE).read_bytes() + evil)
        case _:
            (folder / MANIFEST).write_text(
                (folder / MANIFEST).read_text() + "file appendonly.aof.2.incr.aof seq 2 type i\n"
            )
            (folder / LOG.replace(".1.", ".2.")).write_bytes(evil)
    assert f"holds the command '{words[0].upper()}', which no pool writes there" in refusal(folder)


def test_a_snapshot_loads_no_code(folder: Path, tmp_path: Path) -> None:
    with closing(open_pool(f"embedded:{folder}")) as pool:
        client: redis.Redis = pool.server.client  # type: ignore[attr-defined]
        client.function_load("#!lua name=x\nserver.register_function('x', function() end)")
        client.bgrewriteaof()
        wait_until(lambda: [*folder.glob("*/*.2.base.rdb")], "the log is not rewritten")
    assert "holds a value of kind 0xf5, which no pool writes there" in refusal(folder)


@pytest.mark.parametrize("name", ["appendonly.aof", "dump.rdb"])
def test_data_of_other_programs_are_not_loaded(folder: Path, name: str) -> None:
    (folder / name).write_bytes(command("CONFIG", "SET", "protected-mode", "no"))
    assert f"{name} is not of a pool: remove it" in refusal(folder)


@pytest.mark.parametrize(
    "line", ["file ../../x seq 1 type i", "file x seq 1 type i", 'file "x y" seq 1 type i', "", "\0"]
)
def test_its_list_of_logs_names_no_other_files(folder: Path, line: str) -> None:
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text() + line + "\n")
    assert "manifest is damaged" in refusal(folder)


def test_every_cut_of_a_log_opens(folder: Path, tmp_path: Path) -> None:
    """As a kill at any moment leaves it."""
    whole = (folder / LOG).read_bytes()
    for length in range(len(whole)):
        (folder / LOG).write_bytes(whole[:length])
        check_log(folder)
    for length in (0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        (folder / LOG).write_bytes(whole[:length])
        try:
            open_pool(f"embedded:{folder}").close()
        except PoolMissing:
            assert length <= len(whole) // 2


def test_damage_in_a_log_comes_with_a_remedy(folder: Path) -> None:
    log = folder / LOG
    whole = log.read_bytes()
    with closing(open_pool(f"embedded:{folder}")) as pool:
        pool.declare_size(7)
    damaged = log.read_bytes()
    log.write_bytes(damaged[: len(whole)] + b"#" * 40 + damaged[len(whole) + 40 :])
    said = refusal(folder)
    assert f"is damaged at byte {len(whole)}" in said
    assert "restore the pool's folder from a copy" in said
    cut = said.rpartition(": ")[2]
    assert os.system(cut) == 0
    with closing(open_pool(f"embedded:{folder}")) as pool:
        assert (pool.stats().entries, pool.stats().size) == (1, None)


def checked(folder: Path) -> str | None:
    """The refusal of its log, if it is refused."""
    try:
        check_log(folder)
    except PoolError as error:
        return str(error)
    return None


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_is_one_sentence(folder: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([LOG, BASE, MANIFEST]))
    whole = (folder / name).read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    put = data.draw(st.binary(max_size=12))
    (folder / name).write_bytes(whole[:at] + put + whole[at + data.draw(st.integers(0, 12)) :])
    said = checked(folder)
    (folder / name).write_bytes(whole)
    assert said is None or re.search(r"^[^\n]* is damaged [^\n]*|which no pool writes there", said)


def test_somebody_elses_runtime_folder_is_not_used(folder: Path, tmp_path: Path, embedded: Any) -> None:
    pool = embedded.open()
    runtime = Path(pool.address.removeprefix("unix://").partition("?")[0]).parent
    pool.close()
    assert not runtime.exists()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    runtime.symlink_to(tmp_path / "elsewhere")
    try:
        assert f"{runtime} is not a folder of yours alone" in refusal(folder)
        assert list((tmp_path / "elsewhere").iterdir()) == []
    finally:
        runtime.unlink()
    runtime.mkdir(mode=0o777)
    runtime.chmod(0o777)
    try:
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(runtime / "valkey.sock"))
        assert f"{runtime} is not a folder of yours alone" in refusal(folder)
    finally:
        shutil.rmtree(runtime)
