import re

import pytest

from protocol import strict_yaml

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('key: "s3cr3t', "found unexpected end of stream, line 1, column 13"),
        ("key: [s3cr3t", "expected ',' or ']', but got '<stream end>', line 1, column 13"),
        ("a: 1\nkey: s3cr3t: x", "mapping values are not allowed here, line 2, column 12"),
        ("key: !!int s3cr3t", "a value is not what its form or tag says, line 1, column 6"),
        ("key: !s3cr3t x", "could not determine a constructor for the tag, line 1, column 6"),
        ("key: !s3cr3t!x y", "found undefined tag handle, line 1, column 6"),
        ("key: *s3cr3t", "aliases are not taken here, line 1, column 6"),
        ("a: &s3cr3t 1\nb: &s3cr3t 2", "found duplicate anchor"),
        ("s3cr3t: 1\ns3cr3t: 2", "a key is there twice, line 1, column 1"),
    ],
)
def test_what_is_wrong_is_said_and_where_and_nothing_is_repeated(text: str, why: str) -> None:
    assert SECRET in text
    with pytest.raises(ValueError, match=re.escape(why)) as refused:
        strict_yaml.parse(text.encode())
    assert SECRET not in str(refused.value)
