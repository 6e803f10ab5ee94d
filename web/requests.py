"""Reading JSON bodies strictly: the right content type, valid JSON, an object."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Request
from werkzeug.exceptions import UnsupportedMediaType

from core.errors import InvalidField

MAX_BODY_BYTES = 1024 * 1024


class JsonRequest(Request):
    """A request whose body, where one is asked for, is a JSON object or an error that says what is wrong."""

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """The body as a dict; never silent, since "is missing" would be a lie about a body that cannot be read.

        orjson bounds the depth, and takes neither NaN nor lone surrogates.
        """
        if not self.is_json:
            raise UnsupportedMediaType
        data = self.get_data(cache=cache)
        self.stream.read(1)  # a chunked body that is too long was only cut off; reading on says so (413)
        try:
            content = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            place = f"line {error.lineno}, column {error.colno}"
            raise InvalidField("body", f"is not valid JSON at {place}; it must be a JSON object in UTF-8") from error
        if not isinstance(content, dict):
            raise InvalidField("body", 'must be a JSON object, like {"target": "https://example.com/in"}')
        return content
