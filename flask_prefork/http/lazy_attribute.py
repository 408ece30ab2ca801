"""Attributes of a handler that are created when they are first used.

Most apps never look at them, but handlers derived from werkzeug's may.
"""

from __future__ import annotations

import typing as t


class lazy_attribute:
    """An attribute that is made when it is asked for, once for each request.

    Not :func:`functools.cached_property`: whoever touches an instance's ``__dict__``
    makes all its attributes slower, and these would have to be removed from there
    for the next request.

    :param make: Makes it.
    """

    def __init__(self, make: t.Callable[[t.Any], t.Any]) -> None:
        self.make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, handler: t.Any, owner: type | None = None) -> t.Any:
        if handler is None:
            return self
        values = handler.lazy_values
        if self.name not in values:
            values[self.name] = self.make(handler)
        return values[self.name]

    def __set__(self, handler: t.Any, value: t.Any) -> None:
        handler.lazy_values[self.name] = value
