from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from http_file_server import FileServer, serving
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_vae.errors import UserError
from recsys_vae.interactions import download as download_module
from recsys_vae.interactions.download import download, is_url, verify_checksum

BODY = random.Random(0).randbytes(300_000)
MD5 = "md5:" + hashlib.md5(BODY).hexdigest()
SHA256 = "sha256:" + hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(FileServer(BODY)) as running:
        yield running


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fetch(server: FileServer, folder: Path, **options: object) -> Path:
    settings_ = {"checksum": MD5, "timeout": 5.0, "attempts": 3, "backoff": 0.0, **options}
    return download(server.url, folder / "deep" / "a.zip", **settings_)  # type: ignore[arg-type]


@pytest.mark.parametrize("checksum", [MD5, SHA256, MD5.upper().replace("MD5", "md5"), None])
def test_a_whole_file(server: FileServer, tmp_path: Path, checksum: str | None, capsys) -> None:
    target = fetch(server, tmp_path, checksum=checksum)
    assert target == tmp_path / "deep" / "a.zip"
    assert target.read_bytes() == BODY
    assert names(target.parent) == ["a.zip"]
    assert server.ranges() == [None]
    assert capsys.readouterr() == ("", "")  # the bar is only for terminals


def test_a_cut_connection_is_resumed_at_the_byte_where_it_was_cut(server: FileServer, tmp_path: Path) -> None:
    server.script = [("cut", 100_000), ("cut", 50_000)]
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert server.ranges() == [None, "bytes=100000-", "bytes=150000-"]
    assert [headers["If-Range"] for headers in server.requests] == [None, '"v1"', '"v1"']


def test_every_byte_further_renews_the_attempts(server: FileServer, tmp_path: Path) -> None:
    server.script = [("cut", 10)] * 7
    assert fetch(server, tmp_path, attempts=2).read_bytes() == BODY
    assert len(server.requests) == 8


def test_giving_up_leaves_the_part_and_the_next_call_completes_it(server: FileServer, tmp_path: Path) -> None:
    server.script = [("cut", 100_000), ("cut", 0), ("cut", 0)]
    with pytest.raises(UserError, match=r"100,000 of 300,000 bytes.*dataset\.source="):
        fetch(server, tmp_path)
    assert names(tmp_path / "deep") == ["a.zip.part", "a.zip.part.json"]
    assert (tmp_path / "deep" / "a.zip.part").read_bytes() == BODY[:100_000]
    server.requests.clear()
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert server.ranges() == ["bytes=100000-"]
    assert names(tmp_path / "deep") == ["a.zip"]


def test_a_killed_process_leaves_the_part_and_the_next_call_completes_it(
    server: FileServer, tmp_path: Path
) -> None:
    server.script = [("stall", 100_000)]
    target = tmp_path / "a.zip"
    code = (
        "import sys, pathlib\nfrom recsys_vae.interactions.download import download\n"
        "download(sys.argv[1], pathlib.Path(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, server.url, str(target)])
    try:
        part = tmp_path / "a.zip.part"
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size == 100_000):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert names(tmp_path) == ["a.zip.part", "a.zip.part.json"]
    download(server.url, target, checksum=MD5)
    assert target.read_bytes() == BODY
    assert server.ranges() == [None, "bytes=100000-"]


def test_control_c_leaves_only_the_part(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(done: int, total: int | None) -> None:
        if done > 50_000:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download_module, "_progress_bar", lambda name: contextlib.nullcontext(pressed))
        with pytest.raises(KeyboardInterrupt):
            fetch(server, tmp_path)
    assert names(tmp_path / "deep") == ["a.zip.part", "a.zip.part.json"]
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert server.ranges()[1] is not None


def test_a_server_that_ignores_range_starts_again(server: FileServer, tmp_path: Path) -> None:
    server.script = [("cut", 100_000), "ignore range"]
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert server.ranges() == [None, "bytes=100000-"]


def test_a_server_that_answers_another_range_is_asked_again(server: FileServer, tmp_path: Path) -> None:
    server.script = [("cut", 100_000), "wrong range"]
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert server.ranges() == [None, "bytes=100000-", None]


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: FileServer, tmp_path: Path) -> None:
    server.script = [("cut", 100_000)]
    with pytest.raises(UserError):
        fetch(server, tmp_path, attempts=1)
    server.etag, server.last_modified, server.body = '"v2"', None, b"new" * 1000
    assert fetch(server, tmp_path, checksum=None).read_bytes() == server.body


@pytest.mark.parametrize(
    ("etag", "last_modified", "validator"),
    [
        ('W/"weak"', "Mon, 01 Jan 2024 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00 GMT"),
        (None, "Mon, 01 Jan 2024 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00 GMT"),
        (None, None, None),
    ],
)
def test_what_identifies_the_version(
    server: FileServer, tmp_path: Path, etag: str | None, last_modified: str | None, validator: str | None
) -> None:
    server.etag, server.last_modified, server.script = etag, last_modified, [("cut", 100_000)]
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert server.requests[1]["If-Range"] == validator
    assert server.requests[1]["Range"] == (None if validator is None else "bytes=100000-")


@pytest.mark.parametrize(
    "state", ["", "{", "[]", '{"url": 3}', '{"url": "URL", "validator": 5}', "\xff", None]
)
def test_a_part_of_unknown_origin_is_not_trusted(
    server: FileServer, tmp_path: Path, state: str | None
) -> None:
    (tmp_path / "a.zip.part").write_bytes(b"x" * 1000)
    if state is not None:
        (tmp_path / "a.zip.part.json").write_text(state.replace("URL", server.url), encoding="latin-1")
    assert download(server.url, tmp_path / "a.zip", checksum=MD5).read_bytes() == BODY
    assert server.ranges() == [None]


def write_part(folder: Path, server: FileServer, content: bytes) -> None:
    (folder / "a.zip.part").write_bytes(content)
    state = {"url": server.url, "validator": server.etag}
    (folder / "a.zip.part.json").write_text(json.dumps(state), encoding="utf-8")


def test_a_part_that_is_whole_needs_no_byte_more(server: FileServer, tmp_path: Path) -> None:
    write_part(tmp_path, server, BODY)
    assert download(server.url, tmp_path / "a.zip", checksum=MD5).read_bytes() == BODY
    assert server.ranges() == ["bytes=300000-"]
    assert names(tmp_path) == ["a.zip"]


def test_a_part_that_is_longer_than_the_file_is_thrown_away(server: FileServer, tmp_path: Path) -> None:
    write_part(tmp_path, server, BODY + b"more")
    assert download(server.url, tmp_path / "a.zip", checksum=MD5, backoff=0.0).read_bytes() == BODY
    assert server.ranges() == ["bytes=300004-", None]


def test_a_part_from_another_address_is_not_resumed(server: FileServer, tmp_path: Path) -> None:
    write_part(tmp_path, server, b"x" * 1000)
    assert download(server.url + "?mirror", tmp_path / "a.zip", checksum=MD5).read_bytes() == BODY
    assert server.ranges() == [None]


def test_a_part_that_was_damaged_is_found_out(server: FileServer, tmp_path: Path) -> None:
    write_part(tmp_path, server, b"x" * 1000)
    with pytest.raises(UserError, match=r"expected md5 .*, came .*deleted"):
        download(server.url, tmp_path / "a.zip", checksum=MD5)
    assert names(tmp_path) == []
    assert download(server.url, tmp_path / "a.zip", checksum=MD5).read_bytes() == BODY


def test_a_wrong_checksum_deletes_the_file_and_says_what_came(server: FileServer, tmp_path: Path) -> None:
    server.body = b"not what was published"
    with pytest.raises(UserError) as caught:
        fetch(server, tmp_path, checksum=SHA256)
    message = str(caught.value)
    assert server.url in message
    assert SHA256.removeprefix("sha256:") in message
    assert hashlib.sha256(server.body).hexdigest() in message
    assert names(tmp_path / "deep") == []


def test_a_stalled_server_times_out(server: FileServer, tmp_path: Path) -> None:
    server.script = [("stall", 5_000), ("stall", 0)]
    with pytest.raises(UserError, match=r"/archive\.zip: .*timed out"):
        fetch(server, tmp_path, timeout=0.2, attempts=1)
    assert (tmp_path / "deep" / "a.zip.part").read_bytes() == BODY[:5_000]
    assert fetch(server, tmp_path, timeout=0.2).read_bytes() == BODY


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_an_error_of_the_client_is_not_tried_again(server: FileServer, tmp_path: Path, status: int) -> None:
    server.script = [status] * 3
    with pytest.raises(UserError, match=rf"/archive\.zip: .*HTTP {status} .*dataset\.source="):
        fetch(server, tmp_path)
    assert len(server.requests) == 1
    assert names(tmp_path / "deep") == []


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_an_error_that_may_pass_is_tried_again(server: FileServer, tmp_path: Path, status: int) -> None:
    server.script = [status, status]
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert len(server.requests) == 3


def test_a_server_that_stays_broken(server: FileServer, tmp_path: Path) -> None:
    server.script = [500] * 9
    with pytest.raises(UserError, match="after 3 attempts: HTTP 500"):
        fetch(server, tmp_path)
    assert len(server.requests) == 3


def test_pauses_grow(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(download_module.time, "sleep", pauses.append)
    server.script = [500] * 9
    with pytest.raises(UserError):
        fetch(server, tmp_path, attempts=4, backoff=0.5)
    assert pauses == [0.5, 1.0, 2.0]


def test_no_network_names_the_address_and_the_way_out(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/ml-1m.zip"
        with pytest.raises(UserError, match=r"/ml-1m\.zip: .*dataset\.source=PATH") as caught:
            download(url, tmp_path / "a.zip", attempts=2, backoff=0.0)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_a_server_without_content_length(server: FileServer, tmp_path: Path) -> None:
    server.script = ["no length"]
    assert fetch(server, tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a", "file:///etc/hostname", "a.zip", "", "http//x"])
def test_only_http_is_fetched(tmp_path: Path, url: str) -> None:
    assert not is_url(url)
    with pytest.raises(UserError, match="expected an address"):
        download(url, tmp_path / "a.zip")


@pytest.mark.parametrize("url", ["http://127.0.0.1:port/a", "http://127.0.0.1/a b", "http://127.0.0.1/é.zip"])
def test_a_malformed_address(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="127"):
        download(url, tmp_path / "a.zip", attempts=1)


def test_a_full_disk_is_noticed_before_writing(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"deep: expected 300,000 bytes .*, came 1,000"):
        fetch(server, tmp_path)


def test_a_disk_that_fills_up_while_writing(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_open = Path.open

    class Full:
        def write(self, chunk: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self) -> None:
            pass

    def full_open(path: Path, mode: str = "r", *args: object, **options: object) -> object:
        return Full() if mode == "ab" else plain_open(path, mode, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full_open)
    with pytest.raises(UserError, match=r"deep: no space left on the device, expected 300,000 more bytes"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1  # not taken for a failure of the network


def test_a_place_that_cannot_be_written_to(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "deep").write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match="deep: expected a folder that can be written to"):
        fetch(server, tmp_path)
    assert server.requests == []


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("cut"), st.integers(0, 3000)),
            st.sampled_from(["ignore range", "wrong range", 500]),
        ),
        max_size=6,
    ),
    st.binary(max_size=2000),
)
def test_whatever_goes_wrong_the_bytes_come_out_right(script: list[object], body: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, serving(FileServer(body, script=list(script))) as server:
        target = download(server.url, Path(folder, "a.zip"), attempts=8, backoff=0.0)
        assert target.read_bytes() == body
        assert names(Path(folder)) == ["a.zip"]


def test_verify_checksum_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(BODY)
    verify_checksum(path, SHA256)
    with pytest.raises(UserError, match=r"a\.bin: expected md5 0+, came .* \(300,000 bytes\)"):
        verify_checksum(path, "md5:" + "0" * 32)
