"""Compares what was acknowledged with what arrived."""

from collections import Counter, defaultdict


def marks(message):
    user = dict(message.user)
    return user.get("boot"), user.get("seq")


def arrived(messages):
    """By topic, in the order of arrival: number and mark (boot, seq)."""
    found = defaultdict(list)
    for message in messages:
        found[message.topic].append((int(message.payload[:8]), marks(message)))
    return found


def missing(lane, messages):
    return sorted(lane.acknowledged - {number for number, _ in arrived(messages)[lane.topic]})


class Watch:
    """Counts what is still missing as messages come; reads each message once."""

    def __init__(self, lanes, listener):
        self.owed = {lane.topic: set(lane.acknowledged) for lane in lanes}
        self.listener, self.seen = listener, 0

    def left(self):
        with self.listener._lock:
            fresh = self.listener.messages[self.seen :]
        self.seen += len(fresh)
        for message in fresh:
            if message.topic in self.owed:
                self.owed[message.topic].discard(int(message.payload[:8]))
        return sum(map(len, self.owed.values()))


def around(lane, messages, number):
    """What came about the first time that `number` did."""
    rows = [message for message in messages if message.topic == lane.topic]
    place = next(place for place, message in enumerate(rows) if int(message.payload[:8]) == number)
    near = rows[max(place - 20, 0) : place + 20]
    return "\n".join(f"{m.at:.3f} {int(m.payload[:8])} dup={m.dup} {marks(m)}" for m in near)


def check(lanes, messages, *, marked):
    """Holds P1 and P3. How many came twice.

    `marked`: over an uplink with MQTT 5, where every message has its mark; otherwise in a durable session, where QoS 2 is
    exactly once.
    """
    found = arrived(messages)
    twice, used = 0, {}
    for lane in lanes:
        rows = found[lane.topic]
        lost = missing(lane, messages)
        assert not lost, f"{lane.topic}: {len(lost)} of {len(lane.acknowledged)} acknowledged are lost: {lost[:20]}"
        first = list(dict.fromkeys(number for number, _ in rows))
        behind = [(one, next_one) for one, next_one in zip(first, first[1:]) if one > next_one]
        assert not behind, f"{lane.topic}: not in order: {behind[:10]}\n{around(lane, messages, behind[0][1])}"
        assert first[-1] < lane.sent
        counts = Counter(number for number, _ in rows)
        twice += sum(count - 1 for count in counts.values())
        if not marked:
            doubled = [number for number, count in counts.items() if count > 1]
            assert lane.qos == 1 or not doubled, f"{lane.topic}: QoS 2, and more than once: {doubled[:10]}"
            continue
        by_number = defaultdict(set)
        for number, mark in rows:
            assert None not in mark, f"{lane.topic} {number}: no boot and seq"
            by_number[number].add(mark)
            assert used.setdefault(mark, (lane.topic, number)) == (lane.topic, number), f"{mark} names two messages"
        stored_twice = {number for number, its in by_number.items() if len(its) > 1}
        allowed = lane.resent if lane.qos == 1 else set()
        assert stored_twice <= allowed, f"{lane.topic}: stored more than once: {sorted(stored_twice - allowed)[:10]}"
    return twice
