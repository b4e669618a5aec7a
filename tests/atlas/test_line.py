"""A fair line: the first place is served, every place knows how many are ahead, and any can be given up."""

import threading

from atlas.line import FairLine, Place


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
