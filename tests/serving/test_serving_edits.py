"""What a client changes in a conversation while replies are made and played: truncated, deleted, cleared."""

import pytest

from serving_help import connected, nano, question, run, running, user_text

LONG = "Tell me what you know about Brazil."


@pytest.fixture(scope="module")
def server():
    with running(nano()) as found:
        yield found


async def shown_text(client, item_id):
    await client.send("conversation.item.retrieve", item_id=item_id)
    return (await client.until("conversation.item.retrieved"))["item"]["content"][0]["transcript"]


async def truncated_early(client, until):
    """The id of a long reply that the client stopped after half a second, and its text."""
    await client.send("conversation.item.create", item=user_text(LONG))
    await client.send("response.create")
    await client.until(until)
    item_id = client.of("response.output_item.added")[0]["item"]["id"]
    await client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=500)
    await client.until("conversation.item.truncated")
    return item_id, await shown_text(client, item_id)


@pytest.mark.parametrize("until", ["response.output_audio.delta", "response.done"])
@pytest.mark.parametrize("speech_s", [0.5, 1.6])
def test_what_is_said_after_the_client_has_stopped_a_reply_is_a_turn_like_any_other(server, until, speech_s):
    async def talk():
        async with connected(server) as client:
            item_id, text = await truncated_early(client, until)
            (session,) = server.service.sessions
            assert session.responder.heard_ms() is None
            await client.say(question(2, lead_s=0.2)[: int((0.2 + speech_s) * 24000)], chunk_s=5)
            await client.say(question(2, tail_s=0.8)[-int(0.8 * 24000) :], chunk_s=5)
            await client.until("input_audio_buffer.committed")
            while len(client.of("response.done")) < 2:
                await client.next()
            assert len(client.of("conversation.item.truncated")) == 1
            assert not client.of("echox.output_audio.duck")
            assert await shown_text(client, item_id) == text

    run(talk(), 120)
