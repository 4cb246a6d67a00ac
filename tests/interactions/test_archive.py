from __future__ import annotations

import io
import random
import shutil
import stat
import tempfile
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_vae.errors import UserError
from recsys_vae.interactions.archive import extract

RATINGS = random.Random(0).randbytes(100_000)
FILES = {
    "ml/ratings.dat": RATINGS,
    "ml/movies.dat": b"1::Heat (1995)::Action\n",
    "ml/README": b"terms",
    "ml/x": b"x",
}


def zipped(files: dict[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


def unpack(place: Path, content: bytes, **options: object) -> Path:
    archive = place / "ml.zip"
    archive.write_bytes(content)
    chosen = {"folder": "ml", "required": ("ratings.dat", "movies.dat"), "optional": ("README",), **options}
    return extract(archive, place / "cache" / "ml", **chosen)  # type: ignore[arg-type]


def assert_refused(place: Path, content: bytes, match: str, **options: object) -> None:
    before = set(place.rglob("*")) - {place / "ml.zip", place / "cache"}
    with pytest.raises(UserError, match=match) as caught:
        unpack(place, content, **options)
    assert "\n" not in str(caught.value)
    assert set(place.rglob("*")) - {place / "ml.zip", place / "cache"} == before


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_only_what_is_needed_comes_out_whole(tmp_path: Path, compression: int) -> None:
    target = unpack(tmp_path, zipped(FILES, compression))
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        "ratings.dat": RATINGS,
        "movies.dat": FILES["ml/movies.dat"],
        "README": b"terms",
    }
    assert [path.name for path in target.parent.iterdir()] == ["ml"]


def test_an_optional_file_may_be_absent_and_there_may_be_no_folder(tmp_path: Path) -> None:
    target = unpack(tmp_path, zipped({"ratings.dat": b"r", "movies.dat": b"m"}), folder="")
    assert sorted(path.name for path in target.iterdir()) == ["movies.dat", "ratings.dat"]


def test_what_was_there_is_replaced(tmp_path: Path) -> None:
    for leftover in ("ml", ".ml.unpacking"):
        (tmp_path / "cache" / leftover).mkdir(parents=True)
        (tmp_path / "cache" / leftover / "ratings.dat").write_bytes(b"half")
    target = unpack(tmp_path, zipped(FILES))
    assert (target / "ratings.dat").read_bytes() == RATINGS
    assert [path.name for path in target.parent.iterdir()] == ["ml"]


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "ml/../../evil",
        "/etc/evil",
        "ml/..",
        "..\\evil",
        "ml\\..\\..\\evil",
        "C:\\evil",
        "c:evil",
        "\\\\host\\evil",
    ],
)
def test_a_path_that_leads_out_condemns_the_archive(tmp_path: Path, name: str) -> None:
    assert_refused(tmp_path, zipped({**FILES, name: b"evil"}), "expected paths that stay inside")
    assert not (tmp_path / "evil").exists()


def test_a_name_cut_by_a_null_byte(tmp_path: Path) -> None:
    content = zipped({**FILES, "ml/READMEXevil": b"evil"}).replace(b"ml/READMEXevil", b"ml/README\0evil")
    assert_refused(tmp_path, content, "expected paths that stay inside")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
@pytest.mark.parametrize("name", ["ml/ratings.dat", "ml/other"])
def test_a_link_condemns_the_archive(tmp_path: Path, name: str, kind: int) -> None:
    link = zipfile.ZipInfo(name)
    link.create_system = 3
    link.external_attr = (kind | 0o777) << 16
    files = {key: value for key, value in FILES.items() if key != name}
    assert_refused(tmp_path, zipped({**files, link: b"/etc/passwd"}), "expected plain files, came a link")


def test_a_bomb_is_refused_by_its_declared_size(tmp_path: Path) -> None:
    content = zipped({**FILES, "ml/ratings.dat": bytes(10_000_000)})
    assert len(content) < 20_000
    assert_refused(tmp_path, content, "expected at most 1,000,000 bytes unpacked", most_bytes=1_000_000)


def test_a_bomb_that_lies_about_its_size_stops_at_that_size(tmp_path: Path) -> None:
    honest = zipped({**FILES, "ml/ratings.dat": bytes(10_000_000)})
    size = (10_000_000).to_bytes(4, "little")
    assert honest.count(size) == 2  # in the local header and in the directory
    assert_refused(
        tmp_path, honest.replace(size, (1000).to_bytes(4, "little")), "damaged", most_bytes=1_000_000
    )


def test_a_missing_member(tmp_path: Path) -> None:
    assert_refused(
        tmp_path, zipped({"ml/ratings.dat": b"r"}), r"expected a file ml/movies\.dat .*ml/ratings\.dat"
    )
    assert_refused(tmp_path, zipped({}), "came nothing")
    assert_refused(tmp_path, zipped(FILES), "ml-1m/ratings", folder="ml-1m")


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"<html>not found</html>", zipped(FILES)[:50_000], b"\0" * 999]
)
def test_what_is_not_a_whole_zip(tmp_path: Path, content: bytes) -> None:
    assert_refused(tmp_path, content, "expected a whole zip file")


def test_a_missing_archive_or_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.zip", tmp_path):
        with pytest.raises(UserError, match="expected a"):
            extract(path, tmp_path / "cache" / "ml", folder="", required=("a",))


def test_a_damaged_byte_is_found(tmp_path: Path) -> None:
    content = bytearray(zipped(FILES, zipfile.ZIP_STORED))
    content[content.index(RATINGS[:100]) + 5000] ^= 1
    assert_refused(tmp_path, bytes(content), r"ml/ratings\.dat is damaged")


def test_encrypted_or_strangely_compressed(tmp_path: Path) -> None:
    plain = zipped({"ml/ratings.dat": b"r" * 100, "ml/movies.dat": b"m"})
    encrypted = bytearray(plain)
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        encrypted[plain.index(signature) + offset] |= 1
    assert_refused(tmp_path, bytes(encrypted), r"cannot read ml/ratings\.dat")
    assert_refused(tmp_path, zipped(FILES, zipfile.ZIP_BZIP2), "stored or deflated")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert_refused(tmp_path, zipped(FILES), r"cache: expected 100,0\d\d bytes of free disk .*, came 1,000")


SMALL = zipped({"ml/ratings.dat": b"1::2::3::4\n" * 20, "ml/movies.dat": b"2::Heat::Action\n"})


def check_damage(damage: list[tuple[int, int]], length: int) -> None:
    """Whatever bytes are changed or cut off, the right files come out or a UserError does."""
    content = bytearray(SMALL)
    for place, value in damage:
        content[place] = value
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of repeated names
        try:
            target = unpack(Path(name), bytes(content[:length]))
        except UserError:
            assert [path.name for path in Path(name).iterdir()] in (
                ["ml.zip"],
                ["ml.zip", "cache"],
                ["cache", "ml.zip"],
            )
            assert list((Path(name) / "cache").iterdir()) == []
        else:
            assert (target / "ratings.dat").read_bytes() == b"1::2::3::4\n" * 20


damages = given(
    st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), max_size=4),
    st.one_of(st.just(len(SMALL)), st.integers(0, len(SMALL))),
)


@settings(deadline=None, max_examples=80)
@damages
def test_any_damage_is_a_user_error(damage: list[tuple[int, int]], length: int) -> None:
    check_damage(damage, length)


@pytest.mark.slow
@settings(deadline=None, max_examples=3000)
@damages
def test_any_damage_is_a_user_error_at_length(damage: list[tuple[int, int]], length: int) -> None:
    check_damage(damage, length)
