"""A preset string as link text, `#blocktrain=NAME:1,0,...`: to be pasted, or put behind the address of a page.

What stands after `#` never leaves the browser; the page puts it where one pastes (`javascript/preset_links.js`).
"""

import re
from urllib.parse import quote, unquote

MARK = "#blocktrain="
_LINK = re.compile(re.escape(MARK) + r"(\S*)")


def to_link(line: str) -> str:
    """Return the link text of a preset string."""
    return MARK + quote(line, safe=",:=.-*")


def from_link(text: str) -> str:
    """Return the preset string in a link, with or without an address before it; any other text as it is."""
    found = _LINK.search(text)
    return unquote(found[1]) if found else text
