"""A noisy tenant beside a calm one, in short; `scripts/chaos fairness` has more and measures."""

from tests.chaos.fairness import Fairness, Volume
from tests.e2e.gateway import Gateway

VOLUME = Volume(uploads=8, streams=10, guesses=24)


def test_nothing_fails_for_the_neighbour_of_a_noisy_tenant(gateway: Gateway) -> None:
    said: list[str] = []
    fairness = Fairness(gateway, VOLUME, said.append)
    assert fairness.run(rounds=1, calls=200) == []
    done = fairness.done
    assert done["streams"] == VOLUME.streams, done
    assert min(done["upload 400"], done["upload 429"], done["guess 401"]) > 0, done
