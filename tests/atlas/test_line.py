"""A fair line: who has had least is served first, and every place knows how many are ahead."""

import threading

import pytest

from atlas import line as lines
from atlas.line import FairLine, Place, TimesUsed, asking


def joined(line: FairLine, count: int) -> list[Place]:
    places = [Place(line) for _ in range(count)]
    assert all(place.join() for place in places)
    return places


def test_the_first_place_is_served_and_the_others_know_how_many_are_ahead():
    line = FairLine()
    first, second, third = joined(line, 3)
    assert [place.ahead for place in (first, second, third)] == [0, 1, 2]
    assert first.wait(0)
    assert not second.wait(0.01)
    first.leave()
    first.leave()
    assert (second.served, second.ahead, third.ahead, len(line)) == (True, 0, 1, 2)


def test_a_full_line_takes_no_more_until_a_place_is_free():
    line = FairLine(longest=2)
    first, _ = joined(line, 2)
    late = Place(line)
    assert not late.join()
    first.leave()
    assert late.join()
    assert late.ahead == 1


def test_a_cancelled_place_stops_waiting_and_the_one_being_served_stays():
    line = FairLine()
    first, second, third = joined(line, 3)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(second.wait(60)))
    thread.start()
    assert second.cancel()
    thread.join(20)
    assert answers == [False]
    assert not first.cancel()
    assert third.ahead == 1
    line.cancel()
    assert (first.served, third.wait(60), len(line)) == (True, False, 1)


def place_of(line: FairLine, who: str) -> Place:
    with asking(who):
        place = Place(line)
    assert place.join()
    return place


@pytest.fixture
def clock(monkeypatch):
    """The time of the line, moved by hand."""
    now = [1000.0]
    monkeypatch.setattr(lines.time, "monotonic", lambda: now[0])

    def pass_(seconds: float) -> None:
        now[0] += seconds

    return pass_


def test_who_has_had_the_least_time_is_served_first(clock):
    line = FairLine()
    first = place_of(line, "greedy")
    clock(10)
    again, newcomer, another = (place_of(line, who) for who in ("greedy", "new", "newer"))
    assert (newcomer.ahead, another.ahead, again.ahead) == (1, 2, 3)
    first.leave()
    assert newcomer.served
    clock(2)
    newcomer.leave()
    assert another.served
    another.leave()
    assert again.served


def test_who_comes_back_for_ever_does_not_keep_others_waiting(clock):
    line = FairLine()
    served = place_of(line, "greedy")
    clock(5)
    for _ in range(5):
        place_of(line, "greedy")
    honest = place_of(line, "honest")
    served.leave()
    assert honest.served


def test_time_used_is_forgotten(clock):
    times = TimesUsed()
    times.add("a", 8)
    clock(lines.HALF_LIFE_SECONDS)
    assert times.of("a") == pytest.approx(4)
    times.add("a", 1)
    assert times.of("a") == pytest.approx(5)
    clock(100 * lines.HALF_LIFE_SECONDS)
    for who in range(2000):
        times.add(who, 0)
    assert times.of("a") == 0
    assert len(times._used) < 1500


def test_several_can_be_served_at_once_and_share_their_times_with_another_line(clock):
    times = TimesUsed()
    line, other = FairLine(at_once=2, times=times), FairLine(times=times)
    first, second, third = (place_of(line, who) for who in "abc")
    assert (first.served, second.served, third.served, third.ahead) == (True, True, False, 2)
    clock(3)
    first.leave()
    assert third.served
    busy = place_of(other, "someone")
    late, early = place_of(other, "a"), place_of(other, "d")
    busy.leave()
    assert (early.served, late.served) == (True, False)


def test_a_place_gives_way_to_who_has_had_much_less_and_not_to_an_equal(clock):
    line = FairLine()
    served = place_of(line, "a")
    assert not served.is_due_to_give_way
    place_of(line, "b")
    clock(0.9 * lines.LITTLE_SECONDS)
    assert not served.is_due_to_give_way
    clock(0.2 * lines.LITTLE_SECONDS)
    assert served.is_due_to_give_way
    assert served.has_had_more(lines.LITTLE_SECONDS)
    served.leave()
    assert not served.is_due_to_give_way
    assert served.join()
    assert (served.served, served.ahead) == (False, 1)


def test_those_who_have_had_little_are_served_in_the_order_of_coming(clock):
    line = FairLine()
    served = place_of(line, "a")
    for who, seconds in (("b", 1.5), ("c", 0.5), ("d", 0), ("e", 3)):
        line.times.add(who, seconds)
    e, *bcd = (place_of(line, who) for who in "ebcd")
    assert [place.ahead for place in (*bcd, e)] == [1, 2, 3, 4]
    served.leave()
    assert bcd[0].served
