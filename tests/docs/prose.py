"""The prose of the pages: patterns that a reader has to read twice, and how long the sentences are.

``python -m tests.docs.prose [PAGE …]`` prints each finding as ``page:line: rule: sentence`` and a table of figures. The
exit status is 1 with a finding. CONTRIBUTING.md, "Write documentation", describes them; to add one, add a line to `PATTERNS`.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pyphen import Pyphen

ROOT = Path(__file__).parents[2]
PASSIVE = r"\b(is|are|was|were|been|being|be) (\w+ed|\w+en|made|read|sent|put)\b"
LONGEST = 40  # words of a sentence
LONGEST_MEDIAN = 18  # words of the median sentence of a page

# Rule -> pattern of a sentence that breaks it. Inline code is `x` in a sentence, so no pattern meets it.
PATTERNS = {
    "name the subject, not 'what'": r"^What\b(?!.*\?$)|\b(and|but|;|:) what (is|was|it|they|the)\b(?!.*\?$)",
    "name the subject, not 'whoever'": r"\b(whoever|whichever|whatever|nobody|somebody|he who|those who|who(ever)? has)\b",
    "use an active verb": r"\b(is|are|was|were|be|been|being) (told|said|meant|minded|looked at|looked for|asked for)\b",
    "a clause is no subject": r"^(That|Whether) (a|an|the|it|they|rows?|code)\b[^?]*\b(is|are|was|were) (not|no|for|only)\b",
    "'hold' is for locks": r"^(?!.*\b(lock|locks|locked|locking)\b).*\b(hold|holds|held|holding)\b",
    "plain connective": r"\b(all the same|as such|of by hand|but for|save for|be it|lest|thereof|whereof)\b",
    "plain verb": r"\b(minds?|goes? round|going round|stands? (in|behind|beside|above|below|there|by)|come of|comes of)\b",
    "no calque": (
        r"\b(for ever|meanwhile|the way (back|through)|go(es)? past|past the machine|say `x`|no fault"
        r"|in the place of|anew)\b"
    ),
    "a plain phrase": r"\b(as ever|so many (rows|batches|times)|so long (after|from)|become of|it says so|hears? of|go(es)? out (as|in|apart))\b",
    "the subject first": r"^(Not \w+ed|Older|Missing|Left|Shown|Measured|Counted|Lost|Dearer) (is|are|was|were)\b",
    "'is not a'": r"(?<!there )\b(is|are) no (?!longer\b|more\b)",
    "'also' before the verb": r", (too|also)\b[.;:,]",
    "report, return or show": r"\b(tells?|told)\b(?! people)",
    "one idea a sentence": r"(;[^;]*){3,}",
}


@dataclass(frozen=True)
class Sentence:
    """A sentence of a page, with the line on which its block begins."""

    page: Path
    line: int
    text: str

    @property
    def words(self) -> int:
        return len(re.findall(r"[\w'-]+", self.text))

    def broken(self) -> Iterator[str]:
        """The rules that this sentence breaks."""
        yield from (rule for rule, pattern in PATTERNS.items() if re.search(pattern, self.text, re.IGNORECASE))
        if self.words > LONGEST:
            yield f"{self.words} words, and {LONGEST} are the most"


def pages() -> list[Path]:
    """The pages that people read: those at the top, that of the example, and docs/."""
    names = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "alembic_example/README.md")
    top = [ROOT / name for name in names]
    return [*top, *sorted((ROOT / "docs").rglob("*.md"))]


def sentences(page: Path) -> Iterator[Sentence]:
    """The sentences of the paragraphs, lists, headings and tables of *page*."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        if token.type != "inline" or not token.children:
            continue
        line = 1 + (token.map or [0])[0]
        text = " ".join(_words(token.children).split())
        for sentence in re.split(r"(?<=[.!?])[)\"”]? +(?=[A-Z`(\"“])", text):
            if re.search(r"[a-z]{2}", sentence):
                yield Sentence(page, line, sentence)


def _words(tokens: list[Token]) -> str:
    """The text of *tokens*. Inline code and the names of tests, which docs/evidence/faults.md links, are `x`."""
    words, is_test = [], False
    for token in tokens:
        if token.type == "link_open":
            is_test = str(token.attrs.get("href")).startswith(("../tests/", "../../tests/"))
        elif token.type == "link_close":
            is_test = False
        elif token.type == "code_inline" or is_test:
            words.append("`x`")
        else:
            words.append(" " if "break" in token.type else token.content)
    return "".join(words)


def figures(page: Path) -> tuple[int, float, int, float, float]:
    """Words, median words of a sentence, longest sentence, share of passive sentences, and Flesch reading ease."""
    syllables = Pyphen(lang="en_US")
    full = [one for one in sentences(page) if re.search(r"[.!?]$", one.text)]
    if not full:
        return 0, 0, 0, 0, 0
    lengths = [one.words for one in full]
    passive = sum(bool(re.search(PASSIVE, one.text)) for one in full)
    # Flesch reading ease, https://en.wikipedia.org/wiki/Flesch%E2%80%93Kincaid_readability_tests
    words = [word for one in full for word in re.findall(r"[A-Za-z]+", one.text)]
    a_word = sum(1 + len(syllables.positions(word)) for word in words) / len(words)
    ease = 206.835 - 1.015 * len(words) / len(full) - 84.6 * a_word
    return sum(lengths), statistics.median(lengths), max(lengths), passive / len(full), ease


def findings(page: Path) -> Iterator[str]:
    """Each broken rule of *page*, as a line to print."""
    name = page.relative_to(ROOT) if page.is_relative_to(ROOT) else page
    there = list(sentences(page))
    for sentence in there:
        for rule in sentence.broken():
            yield f"{name}:{sentence.line}: {rule}: {sentence.text}"
    lengths = [one.words for one in there if re.search(r"[.!?]$", one.text)]
    if lengths and (median := statistics.median(lengths)) > LONGEST_MEDIAN:
        yield f"{name}:1: the median sentence has {median:g} words, and {LONGEST_MEDIAN} are the most"


def main(arguments: list[str]) -> int:
    """Check the pages named, or all."""
    chosen = [Path(argument).resolve() for argument in arguments] or pages()
    found = [finding for page in chosen for finding in findings(page)]
    print("\n".join(found))
    print(f"{'page':42} {'words':>6} {'median':>6} {'longest':>7} {'passive':>7} {'Flesch':>6}")
    for page in chosen:
        words, median, longest, passive, ease = figures(page)
        if words:
            print(f"{page.relative_to(ROOT)!s:42} {words:6} {median:6g} {longest:7} {passive:7.0%} {ease:6.0f}")
    lengths = sorted(one.words for page in chosen for one in sentences(page) if re.search(r"[.!?]$", one.text))
    print(
        f"all {len(lengths)} sentences: median {statistics.median(lengths):g} words, nine of ten up to"
        f" {lengths[len(lengths) * 9 // 10]}, longest {lengths[-1]}"
    )
    print(f"{len(found)} findings on {len(chosen)} pages")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
