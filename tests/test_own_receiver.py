"""Mail to the domain that no DNS knows goes to our own receiver; every other domain is looked up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.config import Settings
from core.mx_check import make_resolver
from core.setting_values import DEFAULT_DOMAIN, Listen
from outbound.hosts import HostAddress, MxRoute, OwnReceiver, SmartHost, route_for
from outbound.timing import Deadline
from tests.zone_server import Zone, running_zone

RECEIVER = Listen("0.0.0.0", 2525)


@pytest.fixture
def zone() -> Iterator[Zone]:
    with running_zone() as running:
        yield running


def test_mail_to_the_default_domain_stays_on_this_machine(zone: Zone) -> None:
    by_dns = MxRoute(make_resolver(f"127.0.0.1:{zone.port}"))
    route = OwnReceiver(DEFAULT_DOMAIN, RECEIVER, by_dns)
    assert list(route.places(DEFAULT_DOMAIN, Deadline(5))) == [
        HostAddress("127.0.0.1", "127.0.0.1", 2525, is_guarded=False)
    ]


def test_all_other_mail_is_looked_up(zone: Zone) -> None:
    zone.add("example.net", "MX", "10 mx.example.net.")
    zone.add("mx.example.net", "A", "192.0.2.1")
    by_dns = MxRoute(make_resolver(f"127.0.0.1:{zone.port}"))
    route = OwnReceiver(DEFAULT_DOMAIN, RECEIVER, by_dns)
    assert [place.address for place in route.places("example.net", Deadline(5))] == ["192.0.2.1"]


def test_it_ends_with_the_first_real_domain_or_relay(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    assert isinstance(route_for(settings), OwnReceiver)
    assert isinstance(route_for(replace(settings, domain="in.example.com")), MxRoute)
    assert isinstance(route_for(replace(settings, smart_host="127.0.0.1:2500")), SmartHost)
