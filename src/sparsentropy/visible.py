"""Text of strangers, fit for a terminal: names of files, columns and arrays, and what stands in files.

A terminal obeys some characters: they move the cursor, change colours, hide what was written, or turn the direction of
reading round. Whoever names a column can put them there. Here each of them becomes the letters that Python writes for
it, so that it is seen and does nothing.
"""

import unicodedata

_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_BYTES = range(0xDC80, 0xDD00)  # what Python makes of bytes in names of files that are no text


def visible(text: str, *, breaks: bool = False) -> str:
    r"""The text with every character written out that a terminal would obey, or that nobody sees.

    Parameters
    ----------
    text : str
    breaks : bool
        Whether line breaks stay.

    Returns
    -------
    str
        Letters, digits, signs and spaces; what was written out before stays as it is.

    Examples
    --------
    >>> print(visible("naïve \u6f22 \x1b[31m\n\u202e\udc9b"))
    naïve 漢 \x1b[31m\n\u202e\x9b
    """
    if text.isprintable():
        return text
    return "".join(one if _harmless(one) or (breaks and one == "\n") else _written_out(one) for one in text)


def word(value: object, most: int = 200) -> str:
    r"""What a file says, fit for a message: visible, in one line and cut short, since anybody may have written it.

    Examples
    --------
    >>> print(word("a\nb"), word("c" * 1000, most=5))
    a\nb cc…cc
    """
    text = str(value)
    if len(text) > most:
        text = f"{text[: most // 2]}…{text[-(most // 2) :]}"
    return visible(text)


def _harmless(one: str) -> bool:
    return one.isprintable() or unicodedata.category(one) == "Zs"  # a space of some width


def _written_out(one: str) -> str:
    code = ord(one)
    if code in _BYTES:
        return f"\\x{code - 0xDC00:02x}"
    return _SHORT.get(one) or one.encode("unicode_escape").decode()
