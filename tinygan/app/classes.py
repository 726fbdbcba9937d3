"""Class ids from class names, as a user types them."""

import difflib
import re
from collections.abc import Sequence

from tinygan.errors import UsageError

SHOWN = 5  # of the names that an error lists


def find_classes(words: Sequence[str], names: Sequence[str]) -> list[int]:
    """Find the ids of the classes that `words` name, in that order, each once.

    words: names or ids, such as ["zebra", "130"]. names: of all classes, in order of their ids; a name may list
    synonyms with commas, as ImageNet's do ("box turtle, box tortoise"). Upper and lower case are the same, and so are
    spaces, underscores and hyphens. A class is named by its name or one of its synonyms; else by a part that is in no
    other name. Digits that are no name are an id.
    Raises UsageError, one line, for a word that names no class (with those spelt like it) or several, and for none.
    """
    if not words:
        raise UsageError("no class given: name one or more, or give their ids")
    spellings = [[plain(part) for part in (name, *name.split(","))] for name in names]
    return list(dict.fromkeys(_find(word, names, spellings) for word in words))


def find_sets(wanted: Sequence[str], names: Sequence[str], hint: str = "") -> list[list[int]]:
    """Return the ids of each set of classes, such as "3" or "zebra,flamingo".

    hint: ends the message for a class that is not among `names`. Raises UsageError for that, and for a set of all
    classes, as one must be left that is not wanted.
    """
    try:
        sets = [find_classes(words.split(","), names) for words in wanted]
    except UsageError as error:
        raise UsageError(f"{error}{hint}") from None
    if full := [words for words, ids in zip(wanted, sets, strict=True) if len(ids) == len(names)]:
        raise UsageError(f"--wanted {full[0]}: that is every class there is, and one must be left that is not wanted")
    return sets


def plain(text: str) -> str:
    """Convert a name to lower case, words separated by one space."""
    return re.sub(r"[\s_-]+", " ", text).strip().casefold()


def _find(word: str, names: Sequence[str], spellings: list[list[str]]) -> int:
    """Find the id of the one class that `word` names; spellings: of each class its name and synonyms, plain."""
    if re.fullmatch(r"-[0-9]+", word.strip()):  # or a minus, which counts as a space, would be passed over
        raise UsageError(f"class {word.strip()}: ids are 0 to {len(names) - 1}")
    wanted = plain(word)
    exact = [i for i, known in enumerate(spellings) if wanted in known]
    if len(exact) == 1:
        return exact[0]
    if exact:
        raise UsageError(f"class {word!r}: {len(exact)} classes have that name, give an id: {_listed(exact)}")
    if re.fullmatch(r"[0-9]{1,18}", word.strip()):
        if int(word) < len(names):
            return int(word)
        raise UsageError(f"class {word.strip()}: ids are 0 to {len(names) - 1}")
    holding = [i for i, known in enumerate(spellings) if wanted and wanted in known[0]]
    if len(holding) == 1:
        return holding[0]
    if holding:
        raise UsageError(f"class {word!r} is part of {len(holding)} names: {_listed([names[i] for i in holding])}")
    every = {spelling: names[i] for i, known in enumerate(spellings) for spelling in known}
    near = list(dict.fromkeys(every[match] for match in difflib.get_close_matches(wanted, every, n=SHOWN, cutoff=0.6)))
    hint = (f"did you mean {' or '.join(near)}?" if near else
            f"there are {len(names)}, such as {_listed(list(names))}; or give an id from 0 to {len(names) - 1}")
    raise UsageError(f"unknown class {word!r}: {hint}")


def _listed(things: list) -> str:
    """Format the first SHOWN things with commas."""
    return ", ".join(map(str, things[:SHOWN])) + (", ..." if len(things) > SHOWN else "")
