"""Catalogues written by msgfmt's rules, and small manual pages: what comes out of each line."""

import gettext
import io
import struct

import pytest

from keras_transformer.checks import UserError
from keras_transformer.data.gettext_catalogs import messages
from keras_transformer.data.manual_pages import paragraph_pairs, paragraphs

ENTRIES = {
    "": "Content-Type: text/plain; charset=UTF-8\n",
    "Delete": "Löschen",
    "menu\x04Open": "Öffnen",
    "%d file\x00%d files": "%d Datei\x00%d Dateien",
    "untranslated": "",
}
EXPECTED = [("%d file", "%d Datei"), ("%d files", "%d Dateien"), ("Delete", "Löschen"), ("Open", "Öffnen")]


def binary(entries: dict[str, str], order: str) -> bytes:
    """A .mo file: header, table of originals, table of translations, texts."""
    keys = sorted(entries)
    start = 28 + 16 * len(keys)
    tables, texts = [b"", b""], b""
    for number, side in enumerate((keys, [entries[key] for key in keys])):
        for text in side:
            encoded = text.encode()
            tables[number] += struct.pack(f"{order}2I", len(encoded), start + len(texts))
            texts += encoded + b"\0"
    head = struct.pack(f"{order}7I", 0x950412DE, 0, len(keys), 28, 28 + 8 * len(keys), 0, start)
    return head + tables[0] + tables[1] + texts


TEXT = r"""
msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\n"

#: somewhere.c
msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d Datei"
msgstr[1] "%d Dateien"

msgid "Del"
"ete"
msgstr ""
"Lösch"
"en"

msgctxt "menu"
msgid "Open"
msgstr "Öffnen"

#, fuzzy
msgid "Guess"
msgstr "Vermutung"

msgid "untranslated"
msgstr ""

#~ msgid "Old"
#~ msgstr "Alt"
"""


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_binary_catalogue_is_read_in_both_byte_orders(tmp_path, order):
    path = tmp_path / "a.mo"
    path.write_bytes(binary(ENTRIES, order))
    assert messages(path) == EXPECTED
    # The standard library's own reader agrees.
    theirs = gettext.GNUTranslations(io.BytesIO(path.read_bytes()))
    assert [theirs.gettext("Delete"), theirs.pgettext("menu", "Open")] == ["Löschen", "Öffnen"]


def test_a_text_catalogue_is_read_without_fuzzy_obsolete_and_empty_entries(tmp_path):
    path = tmp_path / "a.po"
    path.write_text(TEXT, encoding="utf-8")
    assert messages(path) == EXPECTED
    path.write_text('msgid "a\\"b\\n\\\\c\\t"\nmsgstr "x"\n')
    assert messages(path) == [('a"b\n\\c\t', "x")]


@pytest.mark.parametrize("content", [b"", b"\xde\x12\x04\x95", binary(ENTRIES, "<")[:-40][:60]])
def test_a_broken_catalogue_is_named(tmp_path, content):
    path = tmp_path / "broken.mo"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.mo: isn't a whole gettext catalogue .* Take the file anew"):
        messages(path)
    path.write_bytes(b"x" * 100)
    with pytest.raises(UserError, match=r"broken\.mo: isn't a gettext \.mo file: its first bytes are b'xxxx'"):
        messages(path)


ENGLISH = r""".\" a comment
.TH open 2 2023
.SH NAME
open \- open a file
.SH DESCRIPTION
The
.BR open ()
call uses
.IR path ,
and \fB\-1\fP means
an error.
.PP
.nf
int x = 1;
.fi
.TP
.B O_RDONLY
Read only.
.IP "a tag" 4
Indented \(em so.
.SS Sub "section"
It\(aqs \[co] \(zz.
"""
GERMAN = r""".TH open 2 2023
.SH BEZEICHNUNG
open \- eine Datei öffnen
.SH BESCHREIBUNG
Der Aufruf \fBopen\fP() benutzt \fIPfad\fP, und \fB\-1\fP bedeutet einen Fehler.
.PP
.nf
int y;
.fi
.TP
\fBO_RDONLY\fP
Nur lesen.
.IP "ein Tag" 4
Eingerückt \(em so.
.SS Unterabschnitt
Es ist.
.SH ÜBERSETZUNG
Von jemandem.
"""


def test_paragraphs_lose_fonts_layout_and_programs():
    assert list(paragraphs(ENGLISH)) == [
        ("SH", "NAME"),
        ("text", "open - open a file"),
        ("SH", "DESCRIPTION"),
        ("text", "The open() call uses path, and -1 means an error."),
        ("tag", "O_RDONLY"),
        ("body", "Read only."),
        ("IP", "Indented — so."),
        ("SS", "Sub section"),
        ("text", "It's © \ufffd."),
    ]


def test_pages_are_matched_paragraph_by_paragraph():
    pairs = paragraph_pairs(ENGLISH, GERMAN.replace(".TP\n", ".TP \n"))
    assert ("Read only.", "Nur lesen.") in pairs
    assert ("NAME", "BEZEICHNUNG") in pairs
    assert "Von jemandem." not in [target for _, target in pairs]


def test_a_section_with_other_paragraphs_is_left_out_and_a_page_with_other_sections_too():
    other = GERMAN.replace("Nur lesen.\n", "Nur lesen.\n.PP\nMehr.\n")
    assert ("Read only.", "Nur lesen.") not in paragraph_pairs(ENGLISH, other)
    assert ("NAME", "BEZEICHNUNG") in paragraph_pairs(ENGLISH, other)
    assert paragraph_pairs(ENGLISH, GERMAN + ".SH NOCH\nEiner.\n") == []
