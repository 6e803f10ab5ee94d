"""Coverage-guided fuzzing of everything that reads mail, with atheris (libFuzzer).

    python -m tests.fuzz.fuzz_parse TARGET FOLDER [libFuzzer options]

TARGET is `message`, `winmail`, `html`, `rtf` or `reply`; FOLDER keeps what was found and gets the seeds first. Any
exception, anything that cannot be sent on, or an input that takes longer than a second ends the run. The slowest
input so far is kept as `slowest` beside the folder, its seconds in `slowest.txt`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

import atheris
import structlog

with atheris.instrument_imports(include=["inbound"]):
    from inbound.reading.htmltext import lines_of_html
    from inbound.reading.parse import parse_message
    from inbound.reading.parsed import DefectKind
    from inbound.reading.replytext import reply_plain, reply_plain_of
    from inbound.reading.rtf import read_rtf, unpack_rtf
    from inbound.reading.tnef import TnefBudget, unpack_tnef
    from inbound.reading.tnef_message import as_eml

from tests.fuzz.seeds import write_seeds
from tests.presentable import assert_presentable

SLOW_S = 1.0
"""CPU seconds for one input of at most the length given to libFuzzer (64 KiB here)."""
MAX_LENGTH = 65_536


def read_message(data: bytes) -> None:
    message = parse_message(data)
    if any(defect.kind == DefectKind.PARSER_FAILED for defect in message.defects):
        raise AssertionError("the parser failed")
    assert_presentable(message)
    _encode(reply_plain_of(message))


def read_winmail(data: bytes) -> None:
    unpacked = unpack_tnef(data, TnefBudget(), with_body=True)
    for file in unpacked.message.files:
        file.media_type.encode("ascii")
    # Written out and read again it must hold the same files; those that are streams themselves are opened then.
    found = iter(parse_message(as_eml(unpacked.message, 0)).attachments)
    for file in unpacked.message.files:
        assert any(attachment.content == file.content for attachment in found)


def read_html(data: bytes) -> None:
    for line in lines_of_html(data.decode("utf-8", "replace")):
        _encode(line.text)


def read_rich_text(data: bytes) -> None:
    _encode(read_rtf(data).text)
    _encode(read_rtf(unpack_rtf(data, MAX_LENGTH).rtf).text)


def read_reply(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    reply = reply_plain(text)
    assert reply is not None
    assert len(reply) <= len(text)


def _encode(text: str | None) -> None:
    if text is not None:
        text.encode("utf-8")


TARGETS: dict[str, Callable[[bytes], None]] = {
    "message": read_message,
    "winmail": read_winmail,
    "html": read_html,
    "rtf": read_rich_text,
    "reply": read_reply,
}


def timed(target: Callable[[bytes], None], folder: Path) -> Callable[[bytes], None]:
    """The target, which remembers its slowest input and refuses what is too slow."""
    slowest = 0.0

    def run(data: bytes) -> None:
        nonlocal slowest
        started = time.process_time()
        target(data)
        seconds = time.process_time() - started
        if seconds > slowest:
            slowest = seconds
            folder.with_name("slowest").write_bytes(data)
            folder.with_name("slowest.txt").write_text(f"{seconds:.4f} s for {len(data)} bytes\n")
        if seconds > SLOW_S:
            raise AssertionError(f"{seconds:.2f} s for {len(data)} bytes")

    return run


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    dictionary = write_seeds(name, folder)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    options = [
        f"-artifact_prefix={folder.parent}/",
        f"-max_len={MAX_LENGTH}",
        "-timeout=20",
        "-rss_limit_mb=2048",
        f"-dict={dictionary}",
    ]
    atheris.Setup([sys.argv[0], *options, *sys.argv[3:], str(folder)], timed(TARGETS[name], folder))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
