"""The forms of REDIS_URL."""

import pytest

from credit_service.redis_url import RedisUrl
from credit_service.settings_messages import without_secrets

SENTINEL = (
    "rediss+sentinel://user:p%40hush@[::1]:1234,sentinel-2/credit"
    "?db=2&sentinel_username=watch&sentinel_password=s%20cret&ssl_ca_certs=/ca.pem"
)


@pytest.mark.parametrize("url", ["redis://h", "rediss://:secret@h:1/2?x=y", "unix:///s.sock?db=0"])
def test_one_server(url: str) -> None:
    assert RedisUrl.parse(url) == RedisUrl("single", url)


def test_sentinels_have_their_own_credentials() -> None:
    assert RedisUrl.parse(SENTINEL) == RedisUrl(
        "sentinel",
        "rediss://user:p%40hush@redis?db=2&ssl_ca_certs=%2Fca.pem",
        (("::1", 1234), ("sentinel-2", 26379)),
        "credit",
        "watch",
        "s cret",
    )


def test_a_cluster() -> None:
    assert RedisUrl.parse("redis+cluster://:secret@one:7000,two") == RedisUrl(
        "cluster", "redis://:secret@redis", (("one", 7000), ("two", 6379))
    )


@pytest.mark.parametrize(
    ("url", "accepted"),
    [
        ("http://h", "starts with redis://"),
        ("redis+other://h", "redis\\+sentinel://"),
        ("redis://h:no", "port must be a number"),
        ("redis://h:65536", "port must be a number"),
        ("redis+sentinel://h", "redis\\+sentinel://host:26379,host:26379/mymaster\\?db=0"),
        ("redis+sentinel://h/mymaster/0", "redis\\+sentinel://host"),
        ("redis+sentinel://h:0/mymaster", "port must be a number"),
        ("redis+sentinel://h,/mymaster", "comma-separated list of hosts"),
        ("redis+cluster://", "comma-separated list of hosts"),
        ("redis+cluster://h:x,i", "port must be a number"),
        ("redis+cluster://h/1", "database 0"),
        ("redis+cluster://h?db=1", "database 0"),
    ],
)
def test_other_forms_are_rejected(url: str, accepted: str) -> None:
    with pytest.raises(ValueError, match=accepted):
        RedisUrl.parse(url)


def test_passwords_are_hidden() -> None:
    parsed = RedisUrl.parse(SENTINEL)
    for shown in (without_secrets(SENTINEL), repr(parsed)):
        assert "hush" not in shown
        assert "cret" not in shown
