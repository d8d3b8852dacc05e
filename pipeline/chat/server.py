"""A model behind a server that speaks OpenAI's protocol, `POST base_url/chat/completions`.

The openai package builds requests and names errors. What comes back is read here, because nothing that a server says
can be relied upon: a reply's length and duration are limited, no redirect is followed, compression is refused (a few
bytes could become gigabytes), and a reply is read as JSON or not at all.
"""

import base64
import email.utils
import json
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx2
import openai

from pipeline.chat.model import Busy, Failed, Refused, Reply, TooLong, Unreachable
from pipeline.process.terminal import printable

MAX_TOKENS = 2**31 - 1  # above that, a count is nonsense
LONGEST_REASON = 300  # characters of what a server says
# How servers say that a prompt is too long: OpenAI and vLLM, llama.cpp, TGI, Anthropic's and others' gateways.
TOO_LONG = (
    "context_length_exceeded",
    "context length",
    "context window",
    "context size",
    "maximum model length",
    "max_model_len",
    "prompt is too long",
    "input is too long",
    "too many tokens",
    "too many images",
    "image(s) may be provided",  # vLLM: "At most 4 image(s) may be provided in one prompt."
)


class TooMuch(openai.OpenAIError):
    """A reply of more bytes than allowed. An OpenAIError, because the package passes its own errors on as they are."""


class Server:
    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        key: str | None,
        temperature: float,
        seed: int,
        timeout_s: float,
        max_reply_mb: float,
    ) -> None:
        """name: of the model. timeout_s: of a request from beginning to end. key: None for a server that needs none."""
        self._name, self._key, self._timeout_s = name, key, timeout_s
        self._options: dict[str, Any] = {"temperature": temperature, "seed": seed}
        # A transport of our own also keeps httpx from sending plain http through a proxy of the environment.
        transport = _Limited(httpx2.HTTPTransport(), timeout_s, int(max_reply_mb * 1e6))
        self._http = httpx2.Client(transport=transport, timeout=timeout_s, follow_redirects=False)
        self._client = openai.OpenAI(
            api_key=key or "none", base_url=base_url, max_retries=0, timeout=timeout_s, http_client=self._http
        )
        # The package reads these from the environment; they belong to another service.
        self._client.organization = self._client.project = None

    def ask(self, prompt: str, jpegs: Sequence[bytes], max_tokens: int) -> Reply:
        pictures = [{"type": "image_url", "image_url": {"url": data_url(jpeg)}} for jpeg in jpegs]
        messages: Any = [{"role": "user", "content": [*pictures, {"type": "text", "text": prompt}]}]
        try:
            answer = self._client.chat.completions.with_raw_response.create(
                model=self._name,
                messages=messages,
                max_tokens=max_tokens,
                extra_headers={"Accept-Encoding": "identity"},
                **self._options,
            )
            return self._read(answer.http_response.content)
        except Failed as error:
            raise self._without_key(error) from None
        except openai.OpenAIError as error:
            raise self._without_key(self._explained(error)) from None

    def close(self) -> None:
        self._http.close()

    def _read(self, body: bytes) -> Reply:
        try:
            reply = json.loads(body, parse_constant=_no_number)
        except (ValueError, RecursionError):
            raise Failed(f"the reply is no JSON: {_short(body.decode(errors='replace'))}") from None
        choices = reply.get("choices") if isinstance(reply, dict) else None
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            error = reply.get("error") if isinstance(reply, dict) else None
            if error:  # a gateway behind which something failed
                raise Failed(f"the reply is an error: {_short(_message(error))}")
            raise Failed("the reply has no choices", final=True)
        message, usage = choices[0].get("message"), reply.get("usage")
        text = message.get("content") if isinstance(message, dict) else None
        if isinstance(text, list):  # parts, as some servers give them
            text = "".join(
                part["text"] for part in text if isinstance(part, dict) and isinstance(part.get("text"), str)
            )
        finish = choices[0].get("finish_reason")
        counts = [_tokens(usage, name) for name in ("prompt_tokens", "completion_tokens")]
        return Reply(
            self._clean(text) if isinstance(text, str) else "",
            self._clean(finish)[:40] if isinstance(finish, str) else None,
            *counts,
        )

    def _explained(self, error: openai.OpenAIError) -> Failed:
        match error:
            case TooMuch():
                return Failed(str(error))
            case openai.APITimeoutError():
                return Failed(f"no complete reply within {self._timeout_s:g} s")
            case openai.APIConnectionError():
                cause = error.__cause__
                if isinstance(cause, httpx2.ConnectError):
                    return Unreachable(f"nothing answers at {self._client.base_url} ({cause})")
                return Failed(f"the connection broke off ({cause or error})")
            case openai.APIStatusError():
                return _of_status(error)
        return Failed(f"{type(error).__name__}: {_short(str(error))}")

    def _without_key(self, error: Failed) -> Failed:
        error.reason = self._clean(error.reason)
        error.args = (error.reason,)
        return error

    def _clean(self, text: str) -> str:
        """Without the key, which servers repeat when they refuse it."""
        return text.replace(self._key, "***") if self._key else text


def data_url(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def retry_after_s(value: str | None, now_s: float) -> float | None:
    """Of the header Retry-After, seconds or a date; None if it is missing or means nothing.

    now_s: seconds since 1970.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now_s
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _of_status(error: openai.APIStatusError) -> Failed:
    status, message = error.status_code, _short(_message(error.body) or error.response.text)
    reason = f"status {status}: {message}" if message else f"status {status}"
    wait_s = retry_after_s(error.response.headers.get("retry-after"), time.time())
    if any(phrase in message.lower() or phrase == error.code for phrase in TOO_LONG) or status == 413:
        return TooLong(reason, final=True)
    if status == 429 and error.code == "insufficient_quota":  # which no waiting changes
        return Refused(reason)
    if status in (429, 503) or (status >= 500 and wait_s is not None):
        return Busy(reason, wait_s)
    if status >= 500 or status in (408, 409, 425):
        return Failed(reason)
    if status < 400:
        return Refused(f"{reason}, which leads elsewhere; name that address as base_url")
    if status in (401, 402, 403, 404, 405):
        return Refused(reason, this_one=status in (403, 404))
    return Failed(reason, final=True)


def _message(body: Any) -> str:
    """Of an error as servers write it: {"error": {"message": ...}}, {"detail": ...}, a text."""
    if isinstance(body, dict):
        named = next((body[name] for name in ("message", "detail", "error") if body.get(name)), None)
        return json.dumps(body) if named is None else _message(named)
    return body if isinstance(body, str) else "" if body is None else json.dumps(body)


def _short(text: str) -> str:
    return printable(" ".join(text[: 4 * LONGEST_REASON].split()))[:LONGEST_REASON]


def _tokens(usage: Any, name: str) -> int | None:
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= MAX_TOKENS else None


def _no_number(name: str) -> Any:
    raise ValueError(name)


class _Limited(httpx2.BaseTransport):
    """Limits a reply's bytes and its whole duration: httpx's own timeouts are of each piece."""

    def __init__(self, inner: httpx2.BaseTransport, timeout_s: float, most_bytes: int) -> None:
        self._inner, self._timeout_s, self._most_bytes = inner, timeout_s, most_bytes

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        deadline = time.monotonic() + self._timeout_s
        response = self._inner.handle_request(request)
        if (coding := response.headers.get("content-encoding", "identity")) != "identity":
            response.close()
            raise TooMuch(f"the reply is compressed ({printable(coding)}), which was not asked for")
        assert isinstance(response.stream, httpx2.SyncByteStream)
        stream = _Stream(response.stream, deadline, self._most_bytes)
        return httpx2.Response(
            response.status_code, headers=response.headers, stream=stream, extensions=response.extensions
        )

    def close(self) -> None:
        self._inner.close()


class _Stream(httpx2.SyncByteStream):
    def __init__(self, inner: httpx2.SyncByteStream, deadline: float, most_bytes: int) -> None:
        self._inner, self._deadline, self._most_bytes = inner, deadline, most_bytes

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for part in self._inner:
            size += len(part)
            if size > self._most_bytes:
                raise TooMuch(f"the reply is longer than {self._most_bytes / 1e6:g} MB")
            if time.monotonic() > self._deadline:
                raise httpx2.ReadTimeout("the reply takes too long")
            yield part

    def close(self) -> None:
        self._inner.close()
