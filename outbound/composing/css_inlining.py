"""CSS written into the elements it is for, for mail programs that drop style elements. Off unless it is asked for.

It runs in a process of its own, with limits: the library that does it overflows its stack on some 20,000 nested
elements, which ends the process, and takes a minute for 4,000 declarations that hold for 4,000 elements. Starting one
costs some 40 ms a mail.
"""

from __future__ import annotations

import subprocess
import sys

from core.errors import InvalidField

MAX_HTML_LENGTH = 512 * 1024
"""Characters that go in."""
MAX_INLINED_BYTES = 5 * 1024 * 1024
"""That come out: rules are multiplied by the elements they hold for."""
MAX_CPU_S = 2
MAX_MEMORY_BYTES = 512 * 1024 * 1024
TIMEOUT_S = 15.0
_CURE = "make its CSS simpler, or switch the inlining of CSS off"
_PROGRAM = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({MAX_CPU_S}, {MAX_CPU_S}))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
if sys.platform == "linux":
    resource.setrlimit(resource.RLIMIT_AS, ({MAX_MEMORY_BYTES}, {MAX_MEMORY_BYTES}))
import css_inline
inliner = css_inline.CSSInliner(keep_style_tags=True, load_remote_stylesheets=False)
document = sys.stdin.buffer.read().decode()
sys.stdout.buffer.write(inliner.inline(document).encode()[:{MAX_INLINED_BYTES + 1}])
"""


def inline_css(document: str) -> str:
    """The HTML with the rules of its style elements in the elements; the style elements stay, for `@media` rules.

    Nothing is fetched. Raises `InvalidField` for what cannot be done within the limits, `OSError` where no process
    can be started, or gets its share of the processor within `TIMEOUT_S`: that is ours. Blocks for that long at most.
    """
    if len(document) > MAX_HTML_LENGTH:
        raise InvalidField("html", f"is longer than {MAX_HTML_LENGTH:,} characters; {_CURE}")
    command = [sys.executable, "-I", "-c", _PROGRAM]
    try:
        done = subprocess.run(  # noqa: S603 (nothing of the mail is in the command)
            command, input=document.encode(), capture_output=True, timeout=TIMEOUT_S, check=False, env={}
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{MAX_CPU_S} seconds of processor time were not to be had in {TIMEOUT_S:g}") from error
    if done.returncode != 0 or len(done.stdout) > MAX_INLINED_BYTES:
        raise InvalidField("html", f"is too complex to be inlined, or its CSS is broken; {_CURE}")
    return done.stdout.decode()
