"""Settings: read from the environment, and every error names the variable and the cure."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from core.config import UNIX_SOCKET_PATH_LIMIT, Settings, load_settings, private_redis_socket
from core.errors import ConfigurationError, TargetBlocked
from core.netguard import LOOPBACK
from core.setting_values import DOC_KEY, ENV_KEY, ZERO_KEY, Listen

COUNTS = [
    entry.metadata[ENV_KEY]
    for entry in fields(Settings)
    if type(entry.default) is int and ZERO_KEY not in entry.metadata
]
LIMITS = [entry.metadata[ENV_KEY] for entry in fields(Settings) if ZERO_KEY in entry.metadata]


def test_nothing_needs_to_be_set() -> None:
    settings = load_settings({})
    assert settings == Settings()
    assert settings.database_location == f"sqlite:///{Path('data').resolve()}/pillarbox.sqlite3"
    assert settings.blob_location == f"file://{Path('data').resolve()}/messages"
    assert settings.redis_location == f"unix://{Path('data').resolve()}/redis.sock"
    assert settings.mx_hostname == "mx.pillarbox.test"
    assert settings.api_url == "http://127.0.0.1:8080"


def test_every_setting_has_its_own_variable_and_a_meaning() -> None:
    names = [entry.metadata[ENV_KEY] for entry in fields(Settings)]
    assert len(set(names)) == len(names)
    for entry in fields(Settings):
        assert entry.metadata[DOC_KEY].endswith("."), entry.name
        assert entry.metadata[ENV_KEY].isupper(), entry.name


def test_given_values_are_read_by_the_type_of_their_default() -> None:
    settings = load_settings(
        {
            "PILLARBOX_DATA": "~/mail",
            "PILLARBOX_HTTP": "[::1]:8080",
            "PILLARBOX_SMTP": " 0.0.0.0:25 ",
            "PILLARBOX_MX_CHECK": "OFF",
            "PILLARBOX_WORKER_THREADS": "7",
            "DATABASE_URL": "postgresql://db/x",
            "REDIS_URL": "redis://r",
            "BLOB_URL": "s3://bucket/prefix",
            "PILLARBOX_PUBLIC_URL": "https://mail.example.com/",
        }
    )
    assert settings.data == Path("~/mail").expanduser()
    assert settings.http == Listen("::1", 8080)
    assert str(settings.http) == "[::1]:8080"
    assert settings.smtp == Listen("0.0.0.0", 25)
    assert settings.smtp.reachable_host == "127.0.0.1"
    assert settings.mx_check is False
    assert settings.worker_threads == 7
    assert settings.database_location == "postgresql://db/x"
    assert settings.redis_location == "redis://r"
    assert settings.blob_location == "s3://bucket/prefix"
    assert settings.api_url == "https://mail.example.com"


@pytest.mark.parametrize("name", LIMITS)
def test_0_switches_a_limit_off(name: str) -> None:
    entry = next(entry for entry in fields(Settings) if entry.metadata[ENV_KEY] == name)
    assert getattr(load_settings({name: "0"}), entry.name) == 0
    assert getattr(load_settings({name: "7"}), entry.name) == 7


def test_an_empty_value_means_the_default() -> None:
    assert load_settings({entry.metadata[ENV_KEY]: "  " for entry in fields(Settings)}) == Settings()


@pytest.mark.parametrize(
    ("name", "value", "cure"),
    [
        *((name, "0", "a whole number above 0") for name in COUNTS),
        ("PILLARBOX_WORKERS", "-1", "a whole number above 0"),
        ("PILLARBOX_WORKERS", "2.5", "a whole number above 0"),
        ("PILLARBOX_WORKERS", "two", "a whole number above 0"),
        ("PILLARBOX_WORKERS", "9" * 5000, "a whole number above 0"),
        ("PILLARBOX_MX_CHECK", "maybe", "`on` nor `off`"),
        ("PILLARBOX_HTTP", "8080", "`host:port`, such as"),
        ("PILLARBOX_HTTP", ":8080", "`host:port`, such as"),
        ("PILLARBOX_SMTP", "localhost:0", "`host:port`, such as"),
        ("PILLARBOX_SMTP", "localhost:65536", "`host:port`, such as"),
        ("PILLARBOX_SMTP", "localhost:smtp", "`host:port`, such as"),
        ("PILLARBOX_SMTP", f"localhost:{'9' * 5000}", "`host:port`, such as"),
        ("PILLARBOX_DOMAIN", "Example.COM", "a domain name in lower-case ASCII"),
        ("PILLARBOX_DOMAIN", "bücher.example", "a domain name in lower-case ASCII"),
        ("PILLARBOX_DOMAIN", "a b", "a domain name in lower-case ASCII"),
        ("PILLARBOX_TLS_CERT", "cert.pem", "PILLARBOX_TLS_KEY belong together: give both or neither"),
        ("PILLARBOX_TLS_KEY", "key.pem", "belong together: give both or neither"),
        ("PILLARBOX_CA_FILE", "/nowhere/ca.pem", "give one in PEM form"),
        ("PILLARBOX_LOG_LEVEL", "loud", "`debug`, `info`, `warning` or `error`"),
        ("PILLARBOX_ALLOW_PRIVATE_TARGETS", "10.0.0.1/8", "`auto`, `none`, `loopback`, `all`, or networks"),
        ("PILLARBOX_AUTHENTICATION", "maybe", "neither `on` nor `off`"),
        ("PILLARBOX_DNSSEC", "maybe", "`auto`, `on` or `off`"),
        ("PILLARBOX_POSTMASTER", "nobody", "is not a mailbox"),
        ("PILLARBOX_SMART_HOST", "relay", "`host:port`, such as"),
        ("PILLARBOX_MTA_STS", "maybe", "`enforce`, `testing` or `none`"),
        ("PILLARBOX_TRUSTED_FORWARDERS", "10.0.0.1/8", "use networks separated by commas"),
        ("PILLARBOX_PROXY_NETWORKS", "balancer", "use networks separated by commas"),
        ("PILLARBOX_ALLOW_PRIVATE_TARGETS", "none,loopback", "`auto`, `none`, `loopback`, `all`, or networks"),
    ],
)
def test_a_value_that_cannot_be_used_names_the_variable_and_the_cure(name: str, value: str, cure: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings({name: value})
    assert name in str(caught.value)
    assert cure in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("environment", "may_call_loopback"),
    [
        ({}, True),
        ({"PILLARBOX_HTTP": "[::1]:1", "PILLARBOX_SMTP": "localhost:25"}, True),
        ({"PILLARBOX_HTTP": "0.0.0.0:8080"}, False),
        ({"PILLARBOX_SMTP": "0.0.0.0:25"}, False),
        ({"PILLARBOX_SMTP": "[::]:25"}, False),
        ({"PILLARBOX_DOMAIN": "in.example.com"}, False),
        ({"PILLARBOX_ALLOW_PRIVATE_TARGETS": "none"}, False),
        ({"PILLARBOX_ALLOW_PRIVATE_TARGETS": "LOOPBACK", "PILLARBOX_SMTP": "0.0.0.0:25"}, True),
        ({"PILLARBOX_ALLOW_PRIVATE_TARGETS": "all", "PILLARBOX_SMTP": "0.0.0.0:25"}, True),
        ({"PILLARBOX_ALLOW_PRIVATE_TARGETS": "10.0.0.0/8"}, False),
    ],
)
def test_auto_opens_loopback_only_for_an_installation_nobody_else_can_reach(
    environment: dict[str, str], may_call_loopback: bool
) -> None:
    policy = load_settings(environment).target_policy
    for address in ("127.0.0.1", "::1"):
        if may_call_loopback:
            policy.check(address)
        else:
            with pytest.raises(TargetBlocked):
                policy.check(address)


def test_auto_never_opens_anything_but_loopback() -> None:
    assert load_settings({}).target_policy.allowed == LOOPBACK
    with pytest.raises(TargetBlocked):
        load_settings({}).target_policy.check("192.168.1.1")


def test_the_redis_socket_moves_to_a_short_path_when_its_folder_is_too_deep(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    assert private_redis_socket(tmp_path / "d").parent == tmp_path / "d"
    assert len(str(private_redis_socket(deep))) <= UNIX_SOCKET_PATH_LIMIT
    assert private_redis_socket(deep) == private_redis_socket(deep)
    assert private_redis_socket(deep) != private_redis_socket(tmp_path / ("y" * 120))


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().workers = 5  # type: ignore[misc]
