"""Translated messages out of gettext catalogues: binary (.mo) and text (.po). Imports no TensorFlow.

The standard library reads .mo files for one program at run time and hides the messages; here they are all wanted.
"""

import re
import struct
from pathlib import Path

from keras_transformer.checks import UserError

# First number of the file (GNU gettext manual, "The Format of GNU MO Files"), in the byte order that holds for all.
_MAGIC = 0x950412DE
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}
_CONTEXT_END = "\x04"


def messages(path: Path) -> list[tuple[str, str]]:
    """(message, translation) of each translated entry, in the order of the file; fuzzy and obsolete ones are left out.

    Of a message with a plural form both forms are entries: singular with the first translation, plural with the last.

    Raises:
        UserError: if the file isn't a catalogue.
    """
    content = path.read_bytes()
    try:
        entries = _binary_entries(content) if path.suffix == ".mo" else _text_entries(content.decode("utf-8"))
    except (struct.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: isn't a whole gettext catalogue in UTF-8 ({error}). Take the file anew.") from error
    if entries is None:
        raise UserError(f"{path}: isn't a gettext .mo file: its first bytes are {content[:4]!r}. Take the file anew.")
    found = []
    for originals, translations in entries:
        if originals[0]:  # the empty one is the header of the file
            found.append((originals[0], translations[0]))
            if len(originals) > 1:
                found.append((originals[1], translations[-1]))
    return [(original, translation) for original, translation in found if translation]


def _binary_entries(content: bytes) -> list[tuple[list[str], list[str]]] | None:
    order = "<" if content[:4] == struct.pack("<I", _MAGIC) else ">"
    magic, _, count, originals, translations = struct.unpack_from(f"{order}5I", content)
    if magic != _MAGIC:
        return None
    entries = []
    for place in range(count):
        texts = []
        for table in (originals, translations):
            length, start = struct.unpack_from(f"{order}2I", content, table + 8 * place)
            texts.append(content[start : start + length].decode("utf-8"))
        message = texts[0].rpartition(_CONTEXT_END)[2]
        entries.append((message.split("\0"), texts[1].split("\0")))
    return entries


def _text_entries(content: str) -> list[tuple[list[str], list[str]]]:
    entries = []
    for block in re.split(r"\n\s*\n", content):
        fields: dict[str, str] = {}
        name, fuzzy = "", False
        for line in block.splitlines():
            fuzzy = fuzzy or (line.startswith("#,") and "fuzzy" in line)
            if line.startswith("#"):
                continue
            start = re.match(r"(msg\w+(?:\[\d+\])?)\s", line)
            name = start.group(1) if start else name
            for quoted in _QUOTED.findall(line):
                fields[name] = fields.get(name, "") + _ESCAPE.sub(
                    lambda found: _ESCAPED.get(found.group(1), found.group(1)), quoted
                )
        if "msgid" in fields and not fuzzy:
            originals = [fields[key] for key in ("msgid", "msgid_plural") if key in fields]
            entries.append((originals, [fields[key] for key in sorted(fields) if key.startswith("msgstr")]))
    return entries
