from pathlib import Path

import pytest

from rgsud_core.addresses import absolute_address, parse_address, split_outside_brackets
from rgsud_core.errors import RgsudError, StorageError


def test_options_are_text_until_brackets_close() -> None:
    assert parse_address("local:a") == ("local:a", {})
    assert parse_address("http://h:1/x?a=1&b=c(d=e&f=g(h=i&j=k)),l&m=%28%26+") == (
        "http://h:1/x",
        {"a": "1", "b": "c(d=e&f=g(h=i&j=k)),l", "m": "(&+"},
    )
    assert split_outside_brackets("a(b,c),d", ",") == ["a(b,c)", "d"]
    with pytest.raises(RgsudError, match="no counterpart"):
        split_outside_brackets("a)b(", ",")


@pytest.mark.parametrize("options", ["blobs", "blobs=a&blobs=b"])
def test_a_malformed_address_is_refused_without_its_password(options: str) -> None:
    with pytest.raises(StorageError, match=r"option 'blobs' of 'redis://host/0' (has no|is given)") as caught:
        parse_address(f"redis://user:secret@host/0?{options}", StorageError)
    assert "secret" not in str(caught.value)


def test_paths_become_absolute_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def whole(address: str) -> str:
        return absolute_address(address, lambda option: option == "file")

    assert whole("a?file=b%26c&of=d(e=1&file=2)") == f"a?file={tmp_path}/b%26c&of=d(e=1&file=2)"
    assert whole("a?file=s3://b/c") == "a?file=s3://b/c"
    assert whole("redis://host/0") == "redis://host/0"
