"""Who may call the API. A WebUI does not protect the routes of extensions; these ask for its passwords themselves.

Three checks of every request, before its body is read: does it come from another web page in the user's browser, does
it have a password if there are any, and may it change something?
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hmac import compare_digest
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lib_blocktrain.api.errors import ApiError

Credentials = tuple[tuple[str, str], ...]  # user and password

OPEN_OPTION = "blocktrain_api_open"  # of the WebUI's settings: true or false
CLOSED_OPTION = "blocktrain_api_closed"  # of the WebUI's settings: true or false
DATASETS_OPTION = "blocktrain_dataset_dirs"  # of the WebUI's settings: folders, one a line


def _no() -> bool:
    return False


def _anywhere() -> None:
    return None


@dataclass(frozen=True)
class Access:
    """What a server requires of its callers.

    - ``credentials``: users and passwords; without any, no password is asked for
    - ``sessions``: gradio's login in the browser is accepted in place of a password
    - ``open_page``: the server has a page that asks for no password, though the API does
    - ``exposed``: the server answers other machines
    - ``closed``: the user's setting that an exposed server without passwords answers nothing through the API; it counts
      more than ``open``
    - ``open``: the user's setting that an exposed server without passwords may be changed through the API
    - ``origins``, ``origin_pattern``: other web pages that may call
    - ``dataset_dirs``: where the images of a run may be; None is anywhere
    - ``names``: the host names by which a server for this machine alone may be called, besides addresses
    """

    credentials: Credentials = ()
    sessions: bool = False
    open_page: bool = False
    exposed: bool = False
    open: Callable[[], bool] = _no
    closed: Callable[[], bool] = _no
    origins: frozenset[str] = frozenset()
    origin_pattern: str | None = None
    dataset_dirs: Callable[[], Sequence[Path] | None] = _anywhere
    names: frozenset[str] = field(default_factory=lambda: frozenset({"localhost", socket.gethostname().lower()}))

    def check(self, request: Any, *, writes: bool, public: bool = False, page: bool = False) -> None:
        """Raise ApiError (401 or 403) for a request that is not allowed.

        ``public`` is for routes that neither read nor change anything of the host. The WebUI's own page calls them, and
        with --api-auth alone it has no password to send. ``page`` is for routes that tell what that page shows:
        whoever may open it may call them, so that they need its login, and not the password of --api-auth.
        """
        self._check_page(request)
        if public or (page and self.open_page):
            return
        if self.credentials:
            if not self._has_password(request):
                asked = "a user and a password are needed: those of --api-auth or --gradio-auth"
                # not for a picture in a page: the browser would ask its user for each
                picture = request.headers.get("sec-fetch-dest") == "image"
                raise ApiError(401, "unauthorised", asked, {} if picture else {"WWW-Authenticate": "Basic"})
        elif self.exposed and self.closed():
            raise ApiError(
                403,
                "off",
                "this server answers other machines and has no password, and a setting closes its API"
                f" ({CLOSED_OPTION}): start it with --api-auth USER:PASSWORD, or change the setting",
            )
        elif self.exposed and writes and not self.open():
            raise ApiError(
                403,
                "off",
                "this server answers other machines and has no password, so that nothing can be changed through the"
                f" API: start it with --api-auth USER:PASSWORD, or allow it in the settings ({OPEN_OPTION})",
            )

    def _check_page(self, request: Any) -> None:
        """Refuse calls of other web pages: browsers send Origin with every request that could change something.

        For a page whose name was made to point here (DNS rebinding) the browser sees the same origin. So a server for
        this machine alone and without a password must be called by address, or by this machine's name.
        """
        origin, hosts = request.headers.get("origin"), _hosts(request.headers)
        if origin is not None and not self._is_known(origin.lower(), hosts):
            raise ApiError(403, "foreign page", f"the web page {origin[:200]!r} may not call this server")
        if self.credentials or self.exposed or self.open():
            return
        name = _host_name(request.headers.get("host", "").strip().lower())
        if name not in self.names and not _is_address(name):
            raise ApiError(
                403,
                "foreign name",
                f"this server is for this machine alone, and was called as {name[:200]!r}: expected 127.0.0.1 or"
                f" localhost. Behind a proxy: start it with --api-auth, or allow it in the settings ({OPEN_OPTION})",
            )

    def _is_known(self, origin: str, hosts: Sequence[str]) -> bool:
        if origin in self.origins or "*" in self.origins:
            return True
        if self.origin_pattern and re.fullmatch(self.origin_pattern, origin):
            return True
        return urlsplit(origin).netloc in hosts and urlsplit(origin).netloc != ""

    def _has_password(self, request: Any) -> bool:
        given = _basic(request.headers.get("authorization", ""))
        if given is not None and self.knows(*given):
            return True
        return self.sessions and _logged_in(request)

    def knows(self, user: str, password: str) -> bool:
        """Whether these are among the credentials, in a time that does not depend on the answer."""
        given, found = _joined(user, password), False
        for known in self.credentials:
            found |= compare_digest(given, _joined(*known))
        return found


def webui_access(cmd_opts: Any, opts: Any) -> Access:
    """Return the access that a WebUI's flags and settings ask for: ``modules.shared.cmd_opts`` and ``.opts``.

    Settings are read at every request. Raises ValueError for --api-auth or --gradio-auth that cannot be read, since a
    mistyped password must not mean none.
    """
    asked = _credentials("--api-auth", _flag(cmd_opts, "api_auth"))
    page = _page_credentials(cmd_opts)
    listed = (_flag(cmd_opts, "cors_allow_origins") or "").lower().split(",")
    return Access(
        credentials=(*asked, *page),
        sessions=bool(page),
        open_page=bool(asked) and not page and not _flag(cmd_opts, "nowebui"),
        exposed=is_exposed(cmd_opts),
        open=lambda: bool(getattr(opts, OPEN_OPTION, False)),
        closed=lambda: bool(getattr(opts, CLOSED_OPTION, False)),
        origins=frozenset(filter(None, listed)),
        origin_pattern=_flag(cmd_opts, "cors_allow_origins_regex"),
        dataset_dirs=lambda: dataset_dirs(cmd_opts, opts),
    )


def dataset_dirs(cmd_opts: Any, opts: Any) -> Sequence[Path] | None:
    """Where datasets may be by a WebUI's flags and settings; None is anywhere."""
    lines = str(getattr(opts, DATASETS_OPTION, "") or "").splitlines()
    found = [Path(line.strip()) for line in lines if line.strip()]
    return found if found or is_exposed(cmd_opts) else None


def is_exposed(cmd_opts: Any) -> bool:
    """Whether a WebUI with these flags answers other machines; with ``--nowebui`` alone it listens on all addresses."""
    name = _flag(cmd_opts, "server_name")
    if any(_flag(cmd_opts, flag) for flag in ("share", "listen", "ngrok")):
        return True
    if name:
        return not (name == "localhost" or (_is_address(name) and ipaddress.ip_address(name).is_loopback))
    return bool(_flag(cmd_opts, "nowebui"))


def _page_credentials(cmd_opts: Any) -> Credentials:
    """The users of the flag and of its file, read as the WebUI's ``initialize_util.get_gradio_auth_creds`` does."""
    texts = [_flag(cmd_opts, "gradio_auth") or ""]
    path = _flag(cmd_opts, "gradio_auth_path")
    if path:
        texts += Path(path).read_text("utf-8").splitlines()
    return tuple(pair for text in texts for pair in _credentials("--gradio-auth", text))


def _credentials(flag: str, text: str | None) -> Credentials:
    found = []
    for entry in filter(None, map(str.strip, (text or "").split(","))):
        user, colon, password = entry.partition(":")
        if not colon:
            raise ValueError(f"{flag}: an entry without a colon: expected user:password, several with commas between")
        found.append((user, password))
    if text and text.strip() and not found:
        raise ValueError(f"{flag}: nothing but commas: expected user:password")
    return tuple(found)


def _flag(cmd_opts: Any, name: str) -> Any:
    return getattr(cmd_opts, name, None)


def _basic(header: str) -> tuple[str, str] | None:
    """The user and password of an Authorization header; None if it is not Basic, or malformed."""
    kind, _, value = header.partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(value.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (user, password) if colon else None


def _joined(user: str, password: str) -> bytes:
    return f"{user}\0{password}".encode("utf-8", "surrogatepass")


def _logged_in(request: Any) -> bool:
    """Whether the browser has logged in to gradio (two cookies; since gradio 4 with the app's id in their names)."""
    tokens: Mapping[str, str] = getattr(request.app, "tokens", None) or {}
    ending = getattr(request.app, "cookie_id", None)
    names = ("access-token", "access-token-unsecure")
    given = (request.cookies.get(f"{name}-{ending}" if ending else name) for name in names)
    return any(token is not None and tokens.get(token) is not None for token in given)


def _hosts(headers: Mapping[str, str]) -> list[str]:
    """The server's names in the request: its Host, and those that a proxy forwarded, which no page can set."""
    found = [headers.get("host", ""), *headers.get("x-forwarded-host", "").split(",")]
    return [host.strip().lower() for host in found if host.strip()]


def _host_name(host: str) -> str:
    return (urlsplit(f"//{host}").hostname or "") if not host.startswith("/") else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
