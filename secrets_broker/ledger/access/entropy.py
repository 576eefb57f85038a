"""Estimates how hard a text is to guess: a lower bound of its random bits. Pure.

As in zxcvbn (Wheeler, USENIX Security 2016), a text is split into what people choose: repeats, runs
along an alphabet or a keyboard, years and words. The rest counts by the character. The estimate
only has to tell chosen texts from random ones. So words are recognised by English letter pairs, not
by a dictionary, which would be larger than the rest of this package.
"""

import re
from collections.abc import Iterator
from math import log2
from typing import Final

_ROWS: Final = (
    *("abcdefghijklmnopqrstuvwxyz", "01234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm"),
    *("qwertzuiopü", "yxcvbnm", "azertyuiop", "qsdfghjklm", "wxcvbn"),
    *("1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9ol0p", "!@#$%^&*()", "147258369", "789456123"),
)
_RUNS: Final = (*_ROWS, *(row[::-1] for row in _ROWS))
_RUN_BITS: Final = 6.0  # its start, row and direction; its length counts besides
_SAME_BITS: Final = 4.0
_YEAR_BITS: Final = 7.0
_LETTER_BITS: Final = 1.75
"""Per letter of a word: seven letters choose one of some 7,000 words, as in diceware."""
_AGAIN_BITS: Final = 1.0
"""For a sign that occurred before, as separators of words do."""
_LEAST: Final = 3

_YEAR: Final = re.compile("(?:19|20)[0-9]{2}(?![0-9])")
# Words as people write them: in one case, or with an initial capital.
_TOKEN: Final = re.compile("[A-Z]?[a-z]+|[A-Z]+")
# Letters as people write them with digits and signs.
_LEET: Final = str.maketrans("013457@$!", "oieastasi")

# Pairs that English has more often than chance: some 200 of 676, nine tenths of a text.
_ENGLISH: Final = (
    "th he in er an re nd at on nt ha es st en ed to it ou ea hi is or ti as te et ng of al de "
    "se le sa si ar ve ra ld ur ro me co ri ne li la el ll ma ic io ch om be ce ec ho tr ta ct "
    "pe wo wa so us ac ie di ge il no lo ol un ut ss ee mo po su em am ad ni rs ay ai ei ot tt "
    "ca pr pa sh ow ul fi fo we wi do id ke ey op pl ev bl ab ag im ir os ow gh ht oo av iv vi "
    "ty ly ry ck ki sk sp sw tu ub up um ue ui uc du cr cl br bu ba bo bi da dr em ep ex fa fe "
    "fr ga go gr gi if ig ap ew ef ft gu hu ib ip ja ju ka kn lk lt ls lu mb mi mm mp mu my na "
    "nc ns nu od og ok pi pp pu qu rd rk rm rn rr rt ru sc sm sn sy tl tw ug va vo wh wn wo ye yo "
    "za rb rg rc rl dd ds by gs ks ts ms cu ob pt ys ws ak em ct fl ff fu gl nn cc bb"
)
_PAIRS: Final = frozenset(_ENGLISH.split())


def bits(text: str) -> float:
    """About how many random bits a text has; few if it consists of known pieces."""
    pool, lower = _pool(text), text.lower()
    words = dict(_words(text))
    total, start = 0.0, 0
    while start < len(text):
        length, cost = _piece(lower, start, words.get(start, 0), pool)
        total, start = total + cost, start + length
    return total


def _piece(text: str, start: int, word: int, pool: float) -> tuple[int, float]:
    """The longest known piece that begins there: its length and its bits."""
    same, run, again = _same(text, start), _run(text, start), _repeat(text, start)
    year = 4 if _YEAR.match(text, start) else 0
    length, cost = max(
        (same, _SAME_BITS + log2(same)),
        (run, _RUN_BITS + log2(run)),
        (again, log2(start + 1) + log2(again + 1)),
        (year, _YEAR_BITS),
        (word, 2 + _LETTER_BITS * word),
    )
    if length >= _LEAST:
        return length, cost
    known = not text[start].isalnum() and text[start] in text[:start]
    return 1, _AGAIN_BITS if known else pool


def _pool(text: str) -> float:
    """Bits of a single character: by its alphabet, and by the distinct characters used."""
    classes = (
        (26, str.islower),
        (26, str.isupper),
        (10, str.isdigit),
        (33, lambda c: not c.isalnum()),
    )
    alphabet = sum(size for size, belongs in classes if any(map(belongs, text)))
    return log2(max(1, min(alphabet, len(set(text)))))


def _same(text: str, start: int) -> int:
    rest = text[start:]
    return len(rest) - len(rest.lstrip(rest[0]))


def _run(text: str, start: int) -> int:
    """How many characters from there are neighbours in an alphabet or on a keyboard."""
    rows = [row[row.index(text[start]) :] for row in _RUNS if text[start] in row]
    return max((_common(row, text[start:]) for row in rows), default=1)


def _common(first: str, second: str) -> int:
    pairs = zip(first, second, strict=False)
    return next(
        (n for n, (one, other) in enumerate(pairs) if one != other), min(map(len, (first, second)))
    )


def _repeat(text: str, start: int) -> int:
    """How many characters from there repeat an earlier part of the text."""
    found = text.find(text[start : start + _LEAST], 0, start + _LEAST - 1)
    best = 0
    while 0 <= found < start:
        best = max(best, _common(text[found:], text[start:]))
        found = text.find(text[start : start + _LEAST], found + 1, start + _LEAST - 1)
    return best


def _words(text: str) -> Iterator[tuple[int, int]]:
    """Start and length of each run of letters that looks like an English word."""
    for token in _TOKEN.finditer(text.translate(_LEET)):
        start, letters = token.start(), token[0].lower()
        while len(letters) >= _LEAST:
            length = _word(letters)
            if length and any(map(str.isalpha, text[start : start + length])):
                yield start, length
            start, letters = start + max(1, length), letters[max(1, length) :]


def _word(letters: str) -> int:
    """The length of the longest prefix in which eight of nine pairs are known."""
    best = missed = 0
    for number in range(1, len(letters)):
        known = letters[number - 1 : number + 1] in _PAIRS
        missed += not known
        if known and missed * 8 <= number:
            best = number + 1
    return best if best >= _LEAST else 0
