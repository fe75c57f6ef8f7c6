"""Names that survive every storage, collation and prompt; what is wrong with one that does not.

States and groups may be written in any script; events are printable ASCII, because they are typed in URLs, at prompts
and in log filters. `folded` decides which names a collation could merge.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final

from ..errors.texts import listed, shown

MAX_NAME_CHARACTERS: Final = 64

# Letters that Unicode does not decompose, and that the UCA collations of MySQL and MariaDB sort as these.
_ALSO: Final = {"æ": "ae", "œ": "oe", "\u0131": "i", "ð": "d", "ך": "כ", "ם": "מ", "\u05df": "נ", "ף": "פ", "ץ": "צ"}
# https://www.unicode.org/reports/tr44/#Canonical_Combining_Class_Values: nukta and kana voicing, Hebrew and Arabic
# points, tone marks of Thai and Lao; and from 200 on all marks above, below and through a letter.
_ACCENTS: Final = frozenset({7, 8, *range(10, 36), 107, 122})
_ABOVE_AND_BELOW: Final = 200
_KATAKANA: Final = range(0x30A1, 0x30F7)
_TO_HIRAGANA: Final = 0x60


def name_problems(what: str, name: str, *, any_script: bool = False) -> Iterator[str]:
    """The reason why *name* cannot be stored and found again unchanged.

    >>> list(name_problems("state ' 7'", " 7"))
    ["state ' 7' begins or ends with a space: strip it"]
    >>> list(name_problems("event 'öffnen'", "öffnen"))
    ["event 'öffnen' is not all printable ASCII: use letters, digits, punctuation and inner spaces"]
    >>> list(name_problems("state 'öffnen'", "öffnen", any_script=True))
    []
    """
    if not name:
        yield f"{what} is empty: give it a name"
    if len(name) > MAX_NAME_CHARACTERS:
        yield f"{what} is {len(name)} characters long: {MAX_NAME_CHARACTERS} is the most"
    if not name.isprintable():
        rest = "" if any_script else " ASCII"
        yield f"{what} is not all printable{rest}: use letters, digits, punctuation and inner spaces"
    elif not any_script and not name.isascii():
        yield f"{what} is not all printable ASCII: use letters, digits, punctuation and inner spaces"
    if name != name.strip(" "):
        yield f"{what} begins or ends with a space: strip it"
    # MySQL takes an unquoted number, and at times a quoted one, for the index of an ENUM's value.
    if name.isdigit():
        yield f"{what} is made only of digits, which MySQL can take for an ENUM's index: add a letter"


def look_alikes(what: str, names: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Names, as spelled and as stored, that a collation which ignores case and accents would merge.

    >>> list(look_alikes("states", [("'Ready'", "Ready"), ("'READY'", "READY"), ("'Stopped'", "Stopped")]))
    ["states 'Ready', 'READY' differ only in case, which most collations ignore: rename all but one"]
    """
    alike: dict[str, list[tuple[str, str]]] = {}
    for spelling, name in names:
        alike.setdefault(folded(name), []).append((spelling, name))
    for same in alike.values():
        if len(same) == 1:
            continue
        spellings = listed(spelling for spelling, _ in same)
        stored = {name for _, name in same}
        if len(stored) == 1:
            yield f"{what} {spellings} are stored alike, as {shown(same[0][1])}: rename all but one"
        else:
            by = "case" if len({name.casefold() for name in stored}) == 1 else "case or accents"
            yield f"{what} {spellings} differ only in {by}, which most collations ignore: rename all but one"


def folded(name: str) -> str:
    """*name* without case, accents and widths: two names that a common collation merges have the same.

    It follows the Unicode Collation Algorithm, by which ``utf8mb4_0900_ai_ci`` and ``utf8mb4_uca1400_ai_ci`` compare,
    for the scripts in everyday use.

    >>> folded("Überfällig") == folded("UBERFALLIG"), folded("Straße") == folded("STRASSE")
    (True, True)
    >>> folded("ご") == folded("コ")
    True
    >>> folded("已支付") == folded("已发货")
    False
    """
    if name.isascii():
        return name.casefold()
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    bases = "".join(_base(character) for character in decomposed if not _is_accent(character))
    return unicodedata.normalize("NFC", bases.casefold())


def _is_accent(character: str) -> bool:
    """Whether *character* is a mark that collations ignore; vowel signs of Indic scripts and Thai are none."""
    kind = unicodedata.combining(character)
    return kind in _ACCENTS or kind >= _ABOVE_AND_BELOW


def _base(character: str) -> str:
    """The letter that *character* is a variant of: ``ø`` of ``o``, a katakana of its hiragana."""
    if character in _ALSO:
        return _ALSO[character]
    if ord(character) in _KATAKANA:
        return chr(ord(character) - _TO_HIRAGANA)
    full = "" if character.isascii() else unicodedata.name(character, "")
    plain, variant, _ = full.partition(" WITH ")
    if not variant or not plain.startswith(("LATIN", "CYRILLIC")):
        return character
    try:
        return unicodedata.lookup(plain).casefold()
    except KeyError:
        return character
