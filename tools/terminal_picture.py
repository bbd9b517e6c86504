"""Runs the command `umrt` in a terminal of its own, types lines into it, and draws what
it showed as SVG. Needs rich."""

from __future__ import annotations

import argparse
import io
import os
import pty
import select
import struct
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

COLUMNS = 106
PROMPT = b"> "
QUIET_SECONDS = 0.5
"""Nothing shown for so long behind a prompt: it waits for a line."""
LONGEST_SECONDS = 120.0

# rich's own template refers to fonts on a server.
TEMPLATE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {terminal_width} {terminal_height}" \
width="{terminal_width}" role="img">
<title>umrt run in a terminal</title>
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; white-space: pre; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
<rect width="100%" height="100%" rx="6" fill="#1d1f21"/>
<g transform="translate(12, 10)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--type", action="append", default=[], help="a line")
    parser.add_argument("arguments", nargs="+", help="of umrt, behind --")
    given = parser.parse_args()
    shown = conversation(given.arguments, given.type)
    command = " ".join(["$ umrt", *given.arguments])
    given.picture.write_text(drawn(command, shown), encoding="utf-8")


def conversation(arguments: list[str], lines: list[str]) -> str:
    """What the terminal showed until the conversation ended."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": "50"}
        os.execv(sys.executable, [sys.executable, "-m", "umrt", *arguments])
    set_width(terminal)
    shown = b""
    for line in [*lines, None]:
        shown += read_until_prompt(terminal)
        # At the end of the conversation Ctrl-D, as people do.
        os.write(terminal, b"\x04" if line is None else f"{line}\r".encode())
    while piece := read(terminal, LONGEST_SECONDS):
        shown += piece
    _, status = os.waitpid(child, 0)
    if status != 0:
        sys.exit(f"umrt failed:\n{shown.decode(errors='replace')}")
    return shown.decode()


def set_width(terminal: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 50, COLUMNS, 0, 0))


def read_until_prompt(terminal: int) -> bytes:
    shown = b""
    deadline = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < deadline:
        piece = read(terminal, QUIET_SECONDS)
        shown += piece
        if not piece and shown.endswith(PROMPT):
            return shown
    sys.exit(f"umrt shows no prompt:\n{shown.decode(errors='replace')}")


def read(terminal: int, seconds: float) -> bytes:
    """Nothing if nothing came in that time, or at the end."""
    if not select.select([terminal], [], [], seconds)[0]:
        return b""
    try:
        return os.read(terminal, 65536)
    except OSError:
        # How the end of the other side shows on Linux.
        return b""


def drawn(command: str, shown: str) -> str:
    text = Text(f"{command}\n", style="bold")
    plain = shown.replace("\r\n", "\n").replace("\r", "").replace("\x1b[?2004h", "")
    text.append(Text.from_ansi(plain.replace("\x1b[?2004l", "").rstrip("> \n")))
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    # The empty line is the room that the margins take.
    console.print(text, end="\n\n")
    return console.export_svg(
        theme=MONOKAI,
        code_format=TEMPLATE,
        unique_id="run",
    )


if __name__ == "__main__":
    main()
