"""How single values look in tables: whole, short, folded or cut, and always as text."""

from __future__ import annotations

from typing import Any

import pytest

from layerstore.web.plugin import cell
from tests.support.strategies import sha256
from tests.web.conftest import HMAC

DIGEST = sha256(7)
ENTRY = f'{{"Digest":"{DIGEST}","SourceRepository":"host/app","HMAC":"{HMAC}"}}'


@pytest.mark.parametrize(
    ("value", "column", "shown"),
    [
        (None, "x", None),
        (7, "x", None),
        ("", "x", None),
        ("<b>", "x", "&lt;b&gt;"),
        (b"text\n", "x", "text\n"),
        ("é".encode(), "x", "é"),
        (b"", "x", ""),
        (b"\xff\x00", "x", "x&#39;ff00&#39;"),
        (b"a\x1b[0m", "x", "x&#39;611b5b306d&#39;"),
        (b"\xff" * 50, "x", f"x&#39;{'ff' * 50}&#39;"),
        (HMAC, "hmac", f'<span class="mono">{HMAC[:8]}…</span>'),
        (DIGEST, "diff_id", f'<a class="mono" href="/-/layer/{DIGEST}" title="{DIGEST}">{DIGEST[:19]}…</a>'),
        (DIGEST, "digest", f'<a class="mono" href="/-/search?q={DIGEST}" title="{DIGEST}">{DIGEST[:19]}…</a>'),
        (
            'a/"><script>',
            "source_repository",
            '<a class="mono" href="/-/repository?name=a/%22%3E%3Cscript%3E" title="a/&#34;&gt;&lt;script&gt;">'
            "a/&#34;&gt;&lt;script&gt;</a>",
        ),
        (
            "host:5000",
            "registry",
            '<a class="mono" href="/-/repositories?registry=host:5000" title="host:5000">host:5000</a>',
        ),
    ],
)
def test_a_value_is_shown_as(value: Any, column: str, shown: str | None):
    found = cell(value, column)

    assert (None if found is None else str(found).replace('<span class="long">', "").replace("</span>", "")) == (
        None if shown is None else shown.replace("</span>", "")
    )


@pytest.mark.parametrize("text", [f"[{ENTRY}]", f"[{ENTRY}]".replace("HMAC", "hmac"), f"[{','.join([ENTRY] * 200)}]"])
@pytest.mark.parametrize("as_bytes", [True, False])
def test_hmacs_in_json_are_short_also_where_the_text_is_cut(text: str, as_bytes: bool):
    for padding in range(0, 300, 7):
        padded = " " * padding + text
        shown = str(cell(padded.encode() if as_bytes else padded, "value"))
        assert HMAC[:9] not in shown
        assert HMAC[:8] in shown


@pytest.mark.parametrize("padding", range(4))
def test_a_long_value_is_cut_between_characters(padding: int):
    value = ("x" * padding + "é€😀" * 7000).encode()
    shown = str(cell(value, "value"))

    assert f"… ({len(value):,} bytes)" in shown
    assert "�" not in shown
    assert len(shown) < 21_000
