"""Clients cannot fill the log."""

import logging

import pytest

from echox.serving.access.log_limit import LogLimit, limited_logging
from raw_clients import raw
from serving_help import nano, running

BAD_FORM = (
    b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 9\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\n\r\nno form\r\n"
)


def test_many_clients_do_not_fill_the_log(caplog):
    now, limit = [0.0], LogLimit(count=2, period_s=10.0, clock=lambda: now[0])
    logger = logging.getLogger("echox.tests.crowd")
    logger.addFilter(limit)
    try:
        for now[0] in [0.0] * 100 + [11.0]:
            logger.warning("bad request of %s", "x")
    finally:
        logger.removeFilter(limit)
    assert [record.getMessage() for record in caplog.records] == [
        "bad request of x",
        "bad request of x",
        "bad request of x (98 more like this were not written)",
    ]


@pytest.mark.parametrize(
    ("request_bytes", "logger"),
    [(b"\x00\r\n\r\n", "uvicorn.error"), (BAD_FORM, "python_multipart.multipart")],
)
def test_bad_requests_are_logged_a_few_times(caplog, request_bytes, logger):
    with running(nano()) as server:
        for _ in range(30):
            raw(server.port, request_bytes)
    assert 0 < len([record for record in caplog.records if record.name == logger]) < 15


def test_a_limit_before_several_handlers_counts_a_message_once(monkeypatch):
    class Kept(logging.Handler):
        def __init__(self):
            super().__init__()
            self.texts = []

        def emit(self, record):
            self.texts.append(record.getMessage())

    handlers = [Kept(), Kept()]
    parent, logger = logging.getLogger("echox.tests"), logging.getLogger("echox.tests.some.library")
    monkeypatch.setattr(parent, "handlers", handlers)
    with limited_logging():
        for number in range(20):
            logger.warning("bad request %d", number)
    assert handlers[0].texts == handlers[1].texts == [f"bad request {number}" for number in range(5)]
    logger.warning("the limit has gone with the server")
    assert len(handlers[0].texts) == 6
