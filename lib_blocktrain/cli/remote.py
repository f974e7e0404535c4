"""The command line's client of the HTTP API of a WebUI or standalone server. Standard library only."""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

PREFIX = "/blocktrain/v1"
PASSWORD_VARIABLE = "BLOCKTRAIN_AUTH"
TIMEOUT = 900  # seconds for one answer: a picture may wait ten minutes in the queue


class RemoteError(ValueError):
    """The server refused a request: its sentence, and its `code` for programs."""

    def __init__(self, message: str, code: str = ""):
        super().__init__(message)
        self.code = code


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, since the password would be sent to the other address."""

    def redirect_request(self, *_: object) -> None:
        return None


class Remote:
    """A server by its address, such as `http://127.0.0.1:7860`; `auth` is `user:password`."""

    def __init__(self, url: str, auth: str | None = None):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"--url {url!r}: expected an address such as http://127.0.0.1:7860")
        if parts.username is not None or parts.password is not None:
            raise ValueError(f"--url with a password inside: expected it in --auth, or in {PASSWORD_VARIABLE}")
        auth = auth or os.environ.get(PASSWORD_VARIABLE)
        if auth and ":" not in auth:
            raise ValueError("--auth without a colon: expected user:password")
        self.url = url.rstrip("/")
        self._headers = {"Accept": "application/json"}
        if auth:
            self._headers["Authorization"] = "Basic " + base64.b64encode(auth.encode("utf-8")).decode("ascii")
        # no proxy from the environment, which may not reach servers on this machine
        proxies = [urllib.request.ProxyHandler({})] if _is_loopback(parts.hostname) else []
        self._opener = urllib.request.build_opener(_NoRedirects, *proxies)

    def get(self, path: str, **query: object) -> Any:
        """The JSON of a response; raises RemoteError for a refusal and OSError if the server does not respond."""
        asked = urllib.parse.urlencode({name: value for name, value in query.items() if value is not None})
        return self._call(f"{path}?{asked}" if asked else path, None)

    def post(self, path: str, body: object) -> Any:
        """Send JSON, and return the JSON of the response; raises as `get`."""
        return self._call(path, json.dumps(body).encode("utf-8"))

    def _call(self, path: str, data: bytes | None) -> Any:
        headers = {**self._headers, "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{PREFIX}{path}", data, headers)
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                return self._read(answer.read())
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except urllib.error.URLError as error:
            raise OSError(f"{self.url} does not answer: {error.reason}") from error

    def _read(self, content: bytes) -> Any:
        try:
            return json.loads(content)
        except ValueError as error:
            raise RemoteError(f"{self.url} answers, but not as blocktrain's API does") from error

    def _refused(self, error: urllib.error.HTTPError) -> RemoteError:
        try:
            body = json.loads(error.read(1_000_000))
            return RemoteError(str(body["detail"]), str(body["error"]))
        except (ValueError, KeyError, TypeError):
            what = f"{self.url} answers {error.code} {error.reason}"
            return RemoteError(f"{what}: expected a WebUI with this extension, or the standalone tab")


def path_part(name: str) -> str:
    """Quote a name as one segment of a URL's path."""
    return urllib.parse.quote(name, safe="")


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
