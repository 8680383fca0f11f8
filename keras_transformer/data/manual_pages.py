"""Manual pages in roff, and their translations, as pairs of paragraphs in plain text.

A translation made with po4a keeps the requests (`.PP`, `.TP`, `.SH`) of its original, so that the paragraphs of both
stand in the same order.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple


class Paragraph(NamedTuple):
    """One translatable piece of a page."""

    request: str  # what opened it: "PP", "HP", "IP", "SH", "SS"; of TP the "tag" and the "body"; else "text"
    text: str


UNREADABLE = "\ufffd"  # stands where a character couldn't be written plainly
_HEADINGS = ("SH", "SS")
_OPENERS = {"PP": "PP", "P": "PP", "LP": "PP", "HP": "HP", "IP": "IP", "TP": "TP", "TQ": "TP"}
# Between these the layout is kept as it is: programs, tables, synopses. None of it is translated as prose.
_VERBATIM = {"nf": "fi", "EX": "EE", "TS": "TE", "SY": "YS", "EQ": "EN", "de": "."}
_FONTS = {"B", "I", "BR", "RB", "BI", "IB", "IR", "RI", "SM", "SB", "R", "UR", "UE", "MT", "ME"}
_CHARACTERS = {
    "\\-": "-",
    "\\&": "",
    "\\e": "\\",
    "\\ ": " ",
    "\\~": " ",
    "\\0": " ",
    "\\|": "",
    "\\^": "",
    "\\/": "",
    "\\,": "",
    "\\:": "",
    "\\%": "",
    "\\'": "'",
    "\\`": "`",
    "\\.": ".",
    "\\(aq": "'",
    "\\(dq": '"',
    "\\(em": "—",
    "\\(en": "\N{EN DASH}",
    "\\(ha": "^",
    "\\(ti": "~",
    "\\(ga": "`",
    "\\(oq": "\N{LEFT SINGLE QUOTATION MARK}",
    "\\(cq": "\N{RIGHT SINGLE QUOTATION MARK}",
    "\\(lq": "“",
    "\\(rq": "”",
    "\\(bu": "•",
    "\\(co": "©",
    "\\(mu": "\N{MULTIPLICATION SIGN}",
    "\\(+-": "±",
    "\\(->": "→",
    "\\(<=": "≤",
    "\\(>=": "≥",
    "\\(rs": "\\",
    "\\(pl": "+",
    "\\(mi": "-",
    "\\(eq": "=",
    "\\(at": "@",
    "\\(sh": "#",
    "\\(lB": "[",
    "\\(rB": "]",
}
_ESCAPE = re.compile(r"\\f(?:\[\w*\]|\(..|.)|\\s[+-]?\d|\\\(..|\\\[[^\]]*\]|\\.|\\$")
_ARGUMENT = re.compile(r'"((?:[^"]|"")*)"|(\S+)')


def paragraph_pairs(source: str, target: str) -> list[tuple[str, str]]:
    """The paragraphs of two pages that belong together, in order.

    Sections are matched by their place, and the paragraphs of a section where both have the same requests in the same
    order; a section that doesn't match is left out. The last section of `target` may be one about the translation.
    """
    ours, theirs = _sections(source), _sections(target)
    if len(theirs) not in (len(ours), len(ours) + 1):
        return []
    pairs = []
    for left, right in zip(ours, theirs, strict=False):
        if [paragraph.request for paragraph in left] == [paragraph.request for paragraph in right]:
            pairs += [(one.text, other.text) for one, other in zip(left, right, strict=True)]
    return pairs


def paragraphs(page: str) -> Iterator[Paragraph]:
    """The translatable pieces of a page in order, each on one line, without its fonts.

    A request that isn't known is skipped with its line.
    """
    request, closing, lines = "", "", list[str]()
    for line in page.split("\n"):
        name, rest = _request(line)
        if closing:
            closing = "" if name == closing else closing
        elif name in _VERBATIM or name in _OPENERS or name in _HEADINGS:
            yield from _closed(request, lines)
            closing, request, lines = _VERBATIM.get(name, ""), _OPENERS.get(name, "text"), []
            if name in _HEADINGS:
                yield from _closed(name, [" ".join(_arguments(rest))])
        else:
            lines += _text_of(name, rest, line)
            if request == "TP" and lines:  # the first line is what is explained
                yield from _closed("tag", lines)
                request, lines = "body", []
    yield from _closed(request, lines)


def _sections(page: str) -> list[list[Paragraph]]:
    sections: list[list[Paragraph]] = [[]]
    for paragraph in paragraphs(page):
        if paragraph.request in _HEADINGS:
            sections.append([])
        sections[-1].append(paragraph)
    return sections


def _request(line: str) -> tuple[str, str]:
    """The name of the request of a line and what follows it; no name on a line of text, "." on the bare request."""
    if not line.startswith((".", "'")):
        return "", line
    name, _, rest = line[1:].strip().partition(" ")
    return (name or "."), rest


def _text_of(name: str, rest: str, line: str) -> list[str]:
    if not name:
        return [line] if line.strip() else []
    if name not in _FONTS or not rest:
        return []
    arguments = _arguments(rest)
    # Two letters are two fonts in turn, with no space between their arguments.
    return ["".join(arguments) if len(name) == 2 and name not in ("SM", "SB") else " ".join(arguments)]


def _arguments(rest: str) -> list[str]:
    return [quoted.replace('""', '"') or bare for quoted, bare in _ARGUMENT.findall(rest)]


def _closed(request: str, lines: list[str]) -> Iterator[Paragraph]:
    text = " ".join(_ESCAPE.sub(_written, " ".join(lines)).split())
    if text and request:
        yield Paragraph(request, text)


def _written(escape: re.Match[str]) -> str:
    found = escape.group()
    if found.startswith(("\\f", "\\s")):
        return ""
    if found.startswith("\\["):
        found = "\\(" + found[2:-1]
    return _CHARACTERS.get(found, UNREADABLE)
