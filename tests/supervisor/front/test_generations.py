"""Links to one generation of a worker after another: each ends when nothing more comes on it."""

from protocol.spawn import DetachParams
from tests.supervisor.front.harness import Front, Worker, rpc, running, soon


async def detach(front: Front, generation: int) -> None:
    params = DetachParams(tenant="acme", generation=generation)
    assert await soon(front.end.call("worker.detach", params)) == b"{}"


async def has_its_link(front: Front, worker: Worker) -> None:
    """The front sends calls to this worker by now; it takes links in its own time."""
    worker.echo = True
    while worker.served == 0:
        assert (await front.once(rpc("find"))).status == 200
    worker.echo = False


async def test_the_earlier_link_ends_after_what_it_has_in_flight() -> None:
    async with running() as front:
        old = await front.worker(generation=1)
        client, other = await front.connect(), await front.connect()
        await client.send(rpc("slow"))
        slow = await old.next_call()
        new = await front.worker(generation=2)
        old.echo = True
        await has_its_link(front, new)
        old.echo = False
        await detach(front, 1)
        await other.send(rpc("quick"))
        new.result(await new.next_call(), b"2")
        assert (await other.response()).json["result"] == 2
        assert not old.closed.is_set()
        old.result(slow, b"1")
        assert (await client.response()).json["result"] == 1
        await soon(old.closed.wait())
        assert (await front.next_lost_link()).generation == 1
        assert not new.closed.is_set()


async def test_calls_after_the_word_wait_for_the_next_worker() -> None:
    async with running() as front:
        old = await front.worker(generation=1)
        await has_its_link(front, old)
        await detach(front, 1)
        await soon(old.closed.wait())
        client = await front.connect()
        await client.send(rpc("m"))
        call, _ = await front.next_wake()
        front.answer(call)
        await front.worker(generation=2, echo=True)
        assert (await client.response()).status == 200


async def test_a_link_that_is_later_than_the_word_is_not_used() -> None:
    async with running() as front:
        await has_its_link(front, await front.worker(generation=1))
        await detach(front, 2)
        late = await front.worker(generation=2)
        await soon(late.closed.wait())
        assert late.calls.empty()
