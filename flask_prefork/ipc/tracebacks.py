"""Tracebacks as :mod:`faulthandler` writes them: parsed, and cut to the app's frames.

Pure: text in, lines out. Python 3.10 to 3.14 write one section for each thread, the
newest thread first and the main thread last::

    Thread 0x00007f83a0ff4b80 (most recent call first):
      File "/srv/shop/views.py", line 6 in wait

Below the app's frames are those that called it: the server's, click's, and the start of
the interpreter or of a thread. They are the same each time, so they are only counted.
"""

from __future__ import annotations

import re
import typing as t

#: Frames of the main thread that are shown: the first ones, and the last ones.
_FIRST, _LAST = 14, 6
#: The same for each other thread; and the lines for all of them together.
_FEW_FIRST, _FEW_LAST = 5, 3
_OTHER_LINES = 24

_HEADER = re.compile(
    r"(?P<current>Current thread|Thread) (?P<id>0x[0-9a-f]+)(?: \[(?P<name>.*)\])?"
    r" \(most recent call first\):"
)
_FRAME = re.compile(
    r'  File (?:"(?P<path>.*)"|\?\?\?), line (?P<line>\d+|\?\?\?) in (?P<function>.*)'
)
#: More frames, or at the beginning of a line more threads, than faulthandler writes.
_MORE = "..."
#: Frames that it writes of a thread. Python 3.13 doesn't say that there are more.
_WRITTEN = 100
#: Heads the frames below the interpreter (since 3.14).
_C_STACK = "Current thread's C stack trace"

_PACKAGES = r"/(?:site|dist)-packages"
_LIBRARY = r"/python3\.\d+t?"
_OWN = re.compile(rf"{_PACKAGES}/flask_prefork/")
_CALLERS = re.compile(
    rf"{_PACKAGES}/(?:click/|flask/(?:cli|__main__)\.py$|werkzeug/serving\.py$)"
    rf"|{_LIBRARY}/(?:socketserver|runpy|http/server)\.py$"
    r"|^<frozen runpy>$"
    r"|/bin/flask$"
)
_STANDARD = re.compile(
    rf"{_LIBRARY}/(?!(?:site|dist)-packages/)|^<frozen (?!importlib\._bootstrap)"
)
_THREADING = re.compile(rf"{_LIBRARY}/threading\.py$")
_STARTS_THREAD = frozenset({"_bootstrap", "_bootstrap_inner", "run"})
_IMPORT = "<frozen importlib._bootstrap"


class _Frame(t.NamedTuple):
    """One call.

    :param path: The file as it was written; empty if it isn't known.
    :param function: Its name.
    :param text: The whole line.
    """

    path: str
    function: str
    text: str

    @property
    def is_own(self) -> bool:
        """Whether it is the server's code."""
        return self.path.startswith(_HERE) or _OWN.search(self.path) is not None

    @property
    def starts_thread(self) -> bool:
        return (
            self.function in _STARTS_THREAD and _THREADING.search(self.path) is not None
        )

    @property
    def is_caller(self) -> bool:
        """Whether it may be below the app's frames."""
        return (
            self.is_own or self.starts_thread or _CALLERS.search(self.path) is not None
        )

    @property
    def is_standard(self) -> bool:
        """Whether it is the standard library's."""
        return _STANDARD.search(self.path) is not None


class _Thread:
    """One section.

    :param id: What the system calls it; empty if it is another section.
    :param name: Its name, if that was written.
    :param is_current: Whether the signal was handled in it.
    """

    def __init__(self, id: str, name: str, is_current: bool) -> None:
        self.id = id
        self.name = name
        self.is_current = is_current
        self.frames: list[_Frame] = []
        #: What else was written about it.
        self.notes: list[str] = []
        self._is_cut = False

    def cut(self) -> None:
        """It has more frames than were written."""
        self._is_cut = True

    @property
    def is_cut(self) -> bool:
        """Whether it has more frames than were written, as far as is known."""
        return self._is_cut or len(self.frames) >= _WRITTEN


def summarize(text: str) -> str:
    """Cut a dump to what is of interest, at most about 50 lines.

    The main thread comes first.

    :param text: What faulthandler has written, perhaps not to its end, or after the end
        of an earlier dump.
    :return: The text itself if it isn't of that form.
    """
    threads, has_more = _parse(text)
    if not threads:
        return text
    main = _find_main(threads, has_more)
    lines = ["Main thread (most recent call first):"]
    lines += _show(main, _FIRST, _LAST, is_main=True)
    others = [thread for thread in threads if thread is not main]
    room = _OTHER_LINES
    for shown, thread in enumerate(others):
        name = f" [{thread.name}]" if thread.name else ""
        section = [f"Thread {thread.id}{name} (most recent call first):"]
        if not thread.id:
            section = [f"{_C_STACK} (most recent call first):"]
        section += _show(thread, _FEW_FIRST, _FEW_LAST, is_main=False)
        room -= len(section)
        if room < 0:
            more = "at least " if has_more else ""
            lines.append(f"… {more}{_count(len(others) - shown, 'more thread')}")
            break
        lines += section
    else:
        if has_more:
            lines.append("… more threads")
    return "\n".join(lines)


def _parse(text: str) -> tuple[list[_Thread], bool]:
    """The sections of the first dump, and whether there are more threads."""
    threads: list[_Thread] = []
    seen = set()
    for line in text.splitlines():
        found = _HEADER.fullmatch(line)
        if found is not None:
            if found["id"] in seen:
                # The signal has come twice.
                break
            seen.add(found["id"])
            is_current = found["current"] != "Thread"
            threads.append(_Thread(found["id"], found["name"] or "", is_current))
        elif not threads:
            continue  # the end of an earlier one
        elif line.startswith(_C_STACK):
            threads.append(_Thread("", "", False))
        elif line == _MORE:
            return threads, True
        elif line.strip() == _MORE:
            threads[-1].cut()
        elif (frame := _FRAME.fullmatch(line)) is not None:
            threads[-1].frames.append(
                _Frame(frame["path"] or "", frame["function"], line)
            )
        elif line.strip():
            threads[-1].notes.append(line)
    return threads, False


def _find_main(threads: list[_Thread], has_more: bool) -> _Thread:
    """The last one; if that wasn't written, the one that has handled the signal, which
    it nearly always is."""
    if has_more:
        for thread in threads:
            if thread.is_current:
                return thread
    return [thread for thread in threads if thread.id][-1]


def _show(thread: _Thread, first: int, last: int, is_main: bool) -> list[str]:
    """What is below a thread's header.

    :param first: At most so many frames from the top are shown,
    :param last: and so many of the others.
    :param is_main: Whether the server has started it with its own frames.
    """
    frames, most = _of_app(thread, is_main), first + last
    cut = len(thread.frames) - len(frames)
    lines = thread.notes[:most]
    top = next((frame for frame in thread.frames if frame.is_own), None)
    if top is not None and all(frame.is_standard for frame in frames):
        return [*lines, f"  in the server:{top.text[1:]}"]
    if len(frames) > most:
        more = f"  … {_count(len(frames) - most, 'more frame')}"
        lines += [frame.text for frame in frames[:first]]
        lines.append(more)
        lines += [frame.text for frame in frames[-last:]]
    else:
        lines += [frame.text for frame in frames]
    if thread.is_cut:
        lines.append("  … more frames")
    if cut:
        lines.append(f"  ({_count(cut, 'frame')} of the server cut)")
    return lines


def _of_app(thread: _Thread, is_main: bool) -> list[_Frame]:
    """The app's frames, and above them those of what it has called."""
    frames = thread.frames
    end = len(frames)
    if is_main and not thread.is_cut:
        # Below the server's outermost frame is whatever has started the server.
        own = [index for index, frame in enumerate(frames) if frame.is_own]
        end = own[-1] + 1 if own else end
    while end and (frames[end - 1].is_caller or _is_import(frames[end - 1])):
        end -= 1
    # An import has five frames of the interpreter for each of the app's. Those at the
    # top stay: they tell that another thread's import is waited for.
    top = 0
    while top < end and _is_import(frames[top]):
        top += 1
    return frames[:top] + [one for one in frames[top:end] if not _is_import(one)]


def _is_import(frame: _Frame) -> bool:
    return frame.path.startswith(_IMPORT)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _as_written(path: str) -> str:
    """A path as faulthandler writes it: in printable ASCII."""
    return "".join(
        c if " " <= c <= "~" else c.encode("ascii", "backslashreplace").decode()
        for c in path
    )


#: The folder of this package.
_HERE = _as_written("/".join(__file__.split("/")[:-2]) + "/")
