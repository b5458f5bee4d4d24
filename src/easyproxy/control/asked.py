"""What somebody asks for, brought into a form that can be kept and shown: authors and times to live. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from easyproxy.control.operations import RefusedError

if TYPE_CHECKING:
    from easyproxy.control.operations import Author

LONGEST_TTL_S = 3650 * 86400.0
_MOST_WHO, _MOST_WHY = 128, 1000
# Control characters break logs and tables, or turn what follows round, and halves of surrogate pairs break files; neither says who or why.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")


def clean(author: Author) -> Author:
    r"""Return an author who can be shown: one line each, not endless, and never nobody.

    >>> from easyproxy.control.operations import Author
    >>> clean(Author("ann", "kernel\nupdate")), clean(Author("")).who
    (Author(who='ann', why='kernel update'), 'somebody')
    """
    who = _UNFIT.sub(" ", author.who).strip()[:_MOST_WHO]
    return replace(author, who=who or "somebody", why=_UNFIT.sub(" ", author.why).strip()[:_MOST_WHY])


def is_shown_whole(text: str) -> bool:
    r"""Whether nothing in a text would break a log, a table or a file.

    >>> is_shown_whole("db 1"), is_shown_whole("db\n1"), is_shown_whole("db\u202e1")
    (True, False, False)
    """
    return _UNFIT.search(text) is None


def lifetime(ttl_s: float, what: str = "time to live") -> float:
    """Return a time to live, or another time that is called ``what``, in seconds; 0 is for ever.

    Raises:
        RefusedError: it is negative, endless, or no number.
    """
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, int | float) or not math.isfinite(ttl_s):
        raise RefusedError(f"{ttl_s!r} is no {what}; give seconds")
    if not 0 <= ttl_s <= LONGEST_TTL_S:
        raise RefusedError(f"a {what} of {ttl_s:g} s is out of range; 0 (for ever) to ten years")
    return float(ttl_s)
