from __future__ import annotations

import pytest

from rayward.errors import RaywardError
from rayward.store.address import parse_redis_address


def test_sentinels_are_read_with_the_name_of_their_primary() -> None:
    address = parse_redis_address("redis+sentinel://h1,h2:26380,[::1]:26381/mymaster")

    assert (address.host, address.port, address.primary, address.tls) == ("h1", 26379, "mymaster", False)
    assert [(other.host, other.port) for other in address.alternates] == [("h2", 26380), ("::1", 26381)]
    assert str(address) == "redis+sentinel://h1:26379,h2:26380,[::1]:26381/mymaster"


def test_credentials_and_database_are_those_of_the_primary_and_stay_hidden() -> None:
    address = parse_redis_address("rediss+sentinel://ray:s3cret@h1/main/2")

    assert (address.username, address.password, address.db, address.tls) == ("ray", "s3cret", 2, True)
    assert str(address) == "rediss+sentinel://***@h1:26379/main/2"
    assert "s3cret" not in repr(address)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("redis+sentinel://h1", "the name of the primary after the slash is missing"),
        ("redis+sentinel://h1/", "the name of the primary after the slash is missing"),
        ("redis+sentinel://:pw@/main", "the host name is missing"),
        ("redis+sentinel://h1:x/main", "the port is not a number"),
        ("http+sentinel://h1/main", "is not a scheme of Redis"),
        ("redis+sentinel://h1,,h2/main", "the host name is missing"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(text: str, what: str) -> None:
    with pytest.raises(RaywardError) as caught:
        parse_redis_address(text)

    assert what in str(caught.value)
    assert "pw" not in str(caught.value)
