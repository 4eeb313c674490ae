"""Replies for speech policies: random tokens, tokens of a text, and the rules that every policy keeps."""

from hypothesis import strategies as st

from echox.streaming.reply_text.policies import Policy, Release
from echox.streaming.reply_text.trigger import Trigger

NANO = Trigger(4, 30, 2, 0.45)
TOKENS = st.tuples(
    st.sampled_from([-0.2, 0.1, 0.3, 0.44, 0.46, 0.9]),
    st.sampled_from(["", " the", " a", "ing", ".", ",", " 3", "?", "\n", "”", " e", "。"]),
    st.booleans(),
)
Reply = list[tuple[float, str, bool]]


def run(policy: Policy, reply: Reply) -> list[list[Release]]:
    """Releases of every push, then of the flush."""
    state = policy.state()
    return [*(list(state.push(*token)) for token in reply), list(state.flush())]


def words(text: str, score: float = 0.0) -> Reply:
    """Tokens of a text: a word each, with the space before it, punctuation apart."""
    found = []
    for number, word in enumerate(text.split(" ")):
        body = word.rstrip(".,!?;:")
        lead = " " if number else ""
        found += [(score, lead + body, True)] if body else []
        found += [(score, mark, False) for mark in word[len(body) :]]
    return found


def segment_ends(policy: Policy, reply: Reply) -> list[int]:
    return [release.end for step in run(policy, reply) for release in step if release.final]


def cuts(policy: Policy, text: str) -> list[str]:
    """The segments' texts."""
    reply = words(text)
    ends = segment_ends(policy, reply)
    return ["".join(token[1] for token in reply[a:b]).strip() for a, b in zip([0, *ends], ends, strict=False)]


def longest_segment(policy: Policy) -> int:
    """Of a long reply without a peak or punctuation: a score that only falls has no peak."""
    ends = segment_ends(policy, [(-index / 1000, " on", True) for index in range(400)])
    return max(b - a for a, b in zip([0, *ends], ends, strict=False))


def check_rules(policy: Policy, reply: Reply) -> None:
    steps = run(policy, reply)
    flat = [release for step in steps for release in step]
    final = [release.end for release in flat if release.final]
    assert (final[-1] if final else 0) == len(reply), "the segments cover the reply"
    assert final == sorted(set(final)), "no segment is empty"
    assert all(reply[end][2] for end in final[:-1]), "a segment begins at a word"
    assert [r.end for r in flat] == sorted(r.end for r in flat), "releases never go back"
    for seen, step in enumerate(steps, start=1):
        assert all(release.end <= min(seen, len(reply)) for release in step), "nothing is released before it is there"
    if not reply:
        assert not flat
