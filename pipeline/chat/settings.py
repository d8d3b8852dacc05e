"""What every study says of the server that it asks: how often, at which prices; its address and its key."""

import ipaddress
import os
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field

from pipeline.params import PositiveFloat, Seconds, Section
from pipeline.process.terminal import printable

KEY = "VLM_API_KEY"  # a variable of its own: a key for one service must not be sent to another

Price = Annotated[float, Field(ge=0, le=1e9)] | None


class AskingParams(Section):
    workers: Annotated[int, Field(gt=0, le=1000)]
    per_hour: PositiveFloat | None
    attempts: Annotated[int, Field(gt=0, le=100)]
    timeout_s: Seconds
    backoff_s: Seconds
    max_backoff_s: Seconds
    max_reply_mb: PositiveFloat
    max_failed_fraction: Annotated[float, Field(ge=0, le=1)]


class Prices(Section):
    currency: str
    input: Price
    output: Price

    def cost(self, tokens_in: int | None, tokens_out: int | None) -> float | None:
        """None where a price or a count is not known."""
        if self.input is None or self.output is None or tokens_in is None or tokens_out is None:
            return None
        return (tokens_in * self.input + tokens_out * self.output) / 1e6


def check_address(url: str, *, allow_http: bool) -> None:
    """Raise ValueError for an address that would give something away."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        # Without the address itself, here and below: what is wrong with it may be a secret.
        raise ValueError("base_url: found what is no address; expected one like https://machine/v1") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(f"base_url: found a name, a password or what follows a ? in it; a key goes into {KEY}")
    if not host:
        raise ValueError(f"base_url: {printable(url)} names no machine")
    if parts.scheme == "http" and not allow_http and not is_this_machine(host):
        raise ValueError(
            f"base_url: {printable(url)} is plain http to another machine, so that whoever is on the way reads the key "
            "and all that is sent; use https, or ssh -L and 127.0.0.1, or set allow_http: true beside it"
        )


def is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def key() -> str | None:
    """From the environment. ValueError, without the key, if it cannot be one."""
    found = os.environ.get(KEY, "").strip()
    if any(not "!" <= character <= "~" for character in found):
        raise ValueError(f"{KEY}: it has characters that no key has: a space, a line end, or not ASCII")
    return found or None
