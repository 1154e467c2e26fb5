"""What must stay secret does not get into a line that people see."""

from __future__ import annotations

import pytest

from dayfly.runtime.redact import MASK, StreamMask, redact, redact_tail, remember


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (
            "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaA\n-----END OPENSSH PRIVATE KEY-----",
            "b3BlbnNzaA",
        ),
        ("cut: -----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAA", "MIIEowIBAA"),
        ("Authorization: Bearer eyJhbGciOi.payload", "eyJhbGciOi"),
        ("authorization: basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("https://user:hunter22@index.example/simple", "hunter22"),
        ("using pul-" + "0123456789" * 4, "0123456789"),
        ("hf_abcdefghijklmnopqrstuvwx failed", "hf_abc"),
        ("WANDB_API_KEY=1234567890abc", "1234567890"),
        ("password: correct-horse", "correct-horse"),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, secret: str) -> None:
    """Keys, tokens, passwords and the credentials of a URL."""
    shown = redact(text)
    assert secret not in shown
    assert MASK in shown


def test_a_value_that_was_told_in_advance_is_masked_wherever_it_stands() -> None:
    """The values of a Spec's secrets have no form of their own."""
    remember(["zebra-crossing-7", "x"])
    assert redact("[zebra-crossing-7] is x") == f"[{MASK}] is x"


@pytest.mark.parametrize(
    "text",
    [
        "Resolved 12 packages in 31ms",
        "https://index.example/simple",
        "basic steps",
        "token count: 3",
    ],
)
def test_plain_words_stay_as_they_are(text: str) -> None:
    """A filter that blackens everything is switched off by its users."""
    assert redact(text) == text


def test_a_secret_split_anywhere_over_a_stream_is_masked_at_its_length() -> None:
    """At every position, in two pieces and byte by byte; what is no secret passes at once and unchanged."""
    from dayfly.runtime.redact import StreamMask

    remember(["correct-horse-battery"])
    text = b"before correct-horse-battery after correct-horse"
    wanted = text.replace(b"correct-horse-battery", b"*" * 21)
    for cut in range(len(text)):
        mask = StreamMask()
        assert mask.feed(text[:cut]) + mask.feed(text[cut:]) + mask.flush() == wanted
    mask = StreamMask()
    assert b"".join(mask.feed(bytes([byte])) for byte in text) + mask.flush() == wanted
    assert StreamMask().feed(b"a line\n") == b"a line\n"


def test_values_that_begin_alike_or_overlap_are_masked_whole() -> None:
    """However the stream is cut, in three pieces too, nothing of any of them is shown."""
    remember(["walrus", "walrus-and-carpenter", "penter-oyster", "yster-oyst"])
    text = b"a walrus, walrus-and-carpenter-oyster-oyster walrus-and-car"
    wanted = b"a ******, " + b"*" * 32 + b"er ******-and-car"
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            mask = StreamMask()
            pieces = (text[:first], text[first:second], text[second:])
            assert b"".join(map(mask.feed, pieces)) + mask.flush() == wanted


def test_only_what_may_become_a_value_waits() -> None:
    """And never as much as the longest value has."""
    remember(["marmalade-jar"])
    mask = StreamMask()
    assert mask.feed(b"a jar of m") == b"a jar of "
    assert mask.feed(b"armalade-ja") == b""
    assert mask.feed(b"m\n") == b"marmalade-jam\n"
    assert mask.feed(b"marmalade-jar") == b"*" * 13
    assert mask.flush() == b""


@pytest.mark.parametrize(
    "secret", ["quick-brown-fox-7", "nine-lives-nine", "h\u00e9lice-et-\u00e9lan"]
)
def test_the_end_of_a_secret_whose_beginning_was_cut_off_is_masked(secret: str) -> None:
    """Wherever it was cut, in a letter too; and not what only looks like that where nothing was cut."""
    remember([secret])
    whole = f"{secret} and {secret}, then".encode()
    for cut in range(len(secret.encode())):
        data = whole[cut:]
        assert redact_tail(data, len(data)) == f"{MASK} and {MASK}, then"
    assert redact_tail(f"{secret[-5:]} alone".encode(), 100) == f"{secret[-5:]} alone"
