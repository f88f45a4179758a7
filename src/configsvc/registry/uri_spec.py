"""The URL of a foreign instance, as Curator's `UriSpec` and `ServiceInstance.buildUriSpec` make it.

If Curator's own result would not be usable, the intended URL is built: `{port}` is the TLS port if there is no other, and an
IPv6 address gets its brackets.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from configsvc.domain.registrations import URL_CHARACTERS

LARGEST_PORT = 65_535
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*\Z")


def url_of(source: Mapping[str, Any]) -> str:
    """The URL. Raises `ValueError` if no caller could use it."""
    port, ssl_port = _port(source, "port"), _port(source, "sslPort")
    scheme = "http" if ssl_port is None else "https"
    address, registered_at = _text(source, "address"), source.get("registrationTimeUTC")
    specification = source.get("uriSpec")
    if specification is None:
        any_port = ssl_port if port is None else port
        url = f"{scheme}://{_bracketed(address)}" + ("" if any_port is None else f":{any_port}")
    else:
        values = {
            "[": "{",
            "]": "}",
            "scheme": scheme,
            "address": address,
            "port": _string(ssl_port if port is None else port),
            "ssl-port": _string(ssl_port),
            "name": _text(source, "name"),
            "id": _text(source, "id"),
            "registration-time-utc": _string(registered_at if isinstance(registered_at, int) else None),
            "service-type": _text(source, "serviceType").lower(),
        }
        url = _build(specification, values)
    return _checked(url)


def _build(specification: object, values: Mapping[str, str]) -> str:
    parts = specification.get("parts") if isinstance(specification, dict) else None
    if not isinstance(parts, list):
        raise ValueError("uriSpec must be an object with a list of parts")
    url = ""
    for part in parts:
        value = part.get("value") if isinstance(part, dict) else None
        if not isinstance(value, str):
            raise ValueError("each part of uriSpec must be an object with a text as its value")
        if part.get("variable") is not True:
            url += value
        elif value == "address" and not url.endswith("["):
            url += _bracketed(values["address"])
        else:
            # An unknown variable is replaced by nothing, as in Curator.
            url += values.get(value, "")
        if len(url) > URL_CHARACTERS:
            break
    return url


def _checked(url: str) -> str:
    if len(url) > URL_CHARACTERS:
        raise ValueError(f"the URL must have at most {URL_CHARACTERS} characters")
    if any(character.isspace() or not character.isprintable() for character in url):
        raise ValueError("the URL must have no spaces and no control characters")
    parts = urlsplit(url)
    if not _SCHEME.match(parts.scheme) or not parts.hostname or parts.port == 0:
        raise ValueError(f"'{url[:64]}' is not an absolute URL")
    # Remove user and password, because everyone who discovers the service would read them, and the colon of a missing port.
    host = parts.netloc.rpartition("@")[2].removesuffix(":")
    return url if host == parts.netloc else url.replace(parts.netloc, host, 1)


def _port(source: Mapping[str, Any], name: str) -> int | None:
    port = source.get(name)
    if port is None:
        return None
    if isinstance(port, str) and port.isascii() and port.isdigit() and len(port) <= len(str(LARGEST_PORT)):
        port = int(port)
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= LARGEST_PORT:
        raise ValueError(f"{name} must be a port from 1 to {LARGEST_PORT}, or null")
    return port or None


def _text(source: Mapping[str, Any], name: str) -> str:
    text = source.get(name)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a text")
    return text


def _string(value: object) -> str:
    return "" if value is None else str(value)


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address and not address.startswith("[") else address
