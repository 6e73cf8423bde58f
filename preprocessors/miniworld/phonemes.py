"""English text to phonemes (ARPAbet) by a small rule table: approximate, but the same in every word."""

import re

from sonolume.utils.errors import UserError

EXCEPTIONS = {  # words too common or too irregular for the rules
    "a": "AH", "an": "AE N", "the": "DH AH", "is": "IH Z", "of": "AH V", "to": "T UW", "and": "AE N D",
    "one": "W AH N", "once": "W AH N S", "two": "T UW", "someone": "S AH M W AH N", "hear": "HH IY R", "can": "K AE N",
    "water": "W AO T ER", "engine": "EH N JH IH N", "before": "B IH F AO R", "while": "W AY L", "as": "AE Z",
    "siren": "S AY R EH N", "together": "T UH G EH DH ER", "background": "B AE K G R AW N D",
    "idles": "AY D AH L Z", "idling": "AY D L IH NG", "tolls": "T OW L Z", "tolling": "T OW L IH NG",
    "low": "L OW", "followed": "F AA L OW D", "blows": "B L OW Z", "blowing": "B L OW IH NG", "pours": "P AO R Z",
    "pouring": "P AO R IH NG", "climbing": "K L AY M IH NG", "wails": "W EY L Z", "rising": "R AY Z IH NG",
    "striding": "S T R AY D IH NG", "chiming": "CH AY M IH NG", "nearby": "N IY R B AY", "by": "B AY",
    "over": "OW V ER", "quietly": "K W AY AH T L IY", "whistle": "W IH S AH L",
    "zero": "Z IY R OW", "four": "F AO R", "eight": "EY T", "nine": "N AY N",
}  # fmt: skip
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# the first pattern that matches at a position wins; $ is the end of a word
RULES = [
    (re.compile(pattern), phonemes.split())
    for pattern, phonemes in (
        ("igh", "AY"), ("tch", "CH"), ("ing$", "IH NG"), ("ings$", "IH NG Z"), ("ch", "CH"), ("sh", "SH"),
        ("th(?=e)", "DH"), ("th", "TH"), ("wh", "W"), ("ph", "F"), ("ng", "NG"), ("nk", "NG K"), ("ck", "K"),
        ("qu", "K W"), ("kn", "N"), ("wr", "R"), ("mb$", "M"), ("dge", "JH"),
        ("ee", "IY"), ("ea", "IY"), ("oo", "UW"), ("ai", "EY"), ("ay", "EY"), ("oi", "OY"), ("oy", "OY"),
        ("ou", "AW"), ("ow", "AW"), ("oa", "OW"), ("oe$", "OW"), ("au", "AO"), ("aw", "AO"), ("ew", "UW"), ("ie", "IY"),
        ("war", "W AO R"), ("wa(?=[nst])", "W AA"), ("ar", "AA R"), ("or", "AO R"), ("(er|ir|ur)", "ER"),
        ("al(?=[kl])", "AO"),
        ("a(?=[^aeiouwxy]e[sd]?$)", "EY"), ("e(?=[^aeiouwxy]e[sd]?$)", "IY"), ("i(?=[^aeiouwxy]e[sd]?$)", "AY"),
        ("o(?=[^aeiouwxy]e[sd]?$)", "OW"), ("u(?=[^aeiouwxy]e[sd]?$)", "UW"),
        ("(?<=[bdgkpt])le$", "AH L"), ("(?<=[bdgkpt])les$", "AH L Z"),
        ("(?<=[sxz])es$", "IH Z"), ("(?<=[cs]h)es$", "IH Z"), ("(?<=..)e(?=[sd]$)", ""), ("(?<=..)e$", ""),
        ("c(?=[eiy])", "S"), ("g(?=[eiy]$)", "JH"), ("y$", "IY"), ("y(?=[aeiou])", "Y"), ("x", "K S"),
        ("(?<=[aeioubdglmnrvw])s$", "Z"), (r"(bb|b)", "B"), ("(cc|c|kk|k|q)", "K"), ("(dd|d)", "D"), ("(ff|f)", "F"),
        ("(gg|g)", "G"), ("h", "HH"), ("j", "JH"), ("(ll|l)", "L"), ("(mm|m)", "M"), ("(nn|n)", "N"), ("(pp|p)", "P"),
        ("(rr|r)", "R"), ("(ss|s)", "S"), ("(tt|t)", "T"), ("v", "V"), ("w", "W"), ("(zz|z)", "Z"),
        ("a", "AE"), ("e", "EH"), ("i", "IH"), ("o", "AA"), ("u", "AH"), ("y", "IH"),
    )
]  # fmt: skip


def word_phonemes(word: str) -> list[str]:
    """Convert one word of the letters a-z."""
    if word in EXCEPTIONS:
        return EXCEPTIONS[word].split()
    phonemes, place = [], 0
    while place < len(word):
        match, found = next((m, p) for pattern, p in RULES if (m := pattern.match(word, place)))
        phonemes += found
        place = match.end()
    return phonemes


def text_phonemes(text: str) -> list[list[str]]:
    """Convert every word of a text; a comma, full stop, colon or question mark becomes a pause, `["_"]`.

    Raises:
        UserError: the text has no letter of the Latin alphabet and no digit.
    """
    spaced = re.sub(r"\d", lambda digit: f" {DIGITS[int(digit.group())]} ", text.lower())
    tokens = re.findall(r"[a-z]+|[,.;:!?]", spaced.replace("'", ""))
    if not any(token.isalpha() for token in tokens):
        raise UserError(f"nothing to speak in {text[:60]!r}: write English words or digits")
    return [word_phonemes(token) if token.isalpha() else ["_"] for token in tokens]
