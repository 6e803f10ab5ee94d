"""How every process logs: one line an event, `key=value` pairs, to standard error."""

from __future__ import annotations

import logging
import sys

import structlog


def configure_logging(level: str) -> None:
    """Send structlog and the standard library's loggers to standard error from `level` upwards."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _put_logger_first,
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "process", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=_NamedLoggers(),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        stream=sys.stderr, level=max(threshold, logging.WARNING), format="level=%(levelname)s %(message)s"
    )


class _NamedLoggers:
    """Makes loggers that know the name `structlog.get_logger` was given."""

    def __call__(self, *names: str) -> structlog.WriteLogger:
        logger = structlog.WriteLogger(sys.stderr)
        logger.name = names[0] if names else "pillarbox"  # type: ignore[attr-defined]
        return logger


def _put_logger_first(
    logger: structlog.WriteLogger, _: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    event["process"] = getattr(logger, "name", "pillarbox")
    return event
