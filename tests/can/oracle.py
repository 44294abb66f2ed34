#!/usr/bin/env python3
"""Decodes and encodes random frames by public DBC files with cantools and with fieldgate, and compares: raw values
frame by frame with the driver's own code, and published values with what `fieldgate replay` prints.

usage: oracle.py FIELDGATE CAN_DECODE FRAMES FILE.dbc...

FIELDGATE is the binary, CAN_DECODE the built example `can_decode`; FRAMES the number of frames in all. Prints one line a
file that differs or is left out, then the totals; exits 1 where anything differs that is not explained here:

- A file that cantools does not load is counted, not compared.
- cantools refuses a frame whose multiplexor has a value that the file does not name; fieldgate takes the signals that
  are there. Such frames are drawn again.
- Signals that fieldgate leaves out (it says so, with the line) are not compared; they are listed. The same for
  messages longer than a CAN FD frame, which come by J1939 transport and are tested elsewhere.
- 16-bit floats exist in cantools, and in no DBC file.
- A multiplexor written `m` without a number (vw_pq.dbc) is one to fieldgate; cantools then never gives the signals
  under it.
- Published values: what J1939 calls no value (all ones) is a fault to fieldgate and a number to cantools, so messages
  marked as J1939 are not compared there. NaN is a fault to fieldgate. A 32-bit float is published with the digits that
  tell it from every other, so it is compared as one. A file in UTF-8 is read as such; cantools takes it for Windows-1252.
"""

import json
import math
import os
import random
import struct
import subprocess
import sys
import tempfile

import cantools
from cantools.database.namedsignalvalue import NamedSignalValue


def draw(nodes, message, values):
    """Random raw values for the signals of one path through the multiplexors."""
    for node in nodes:
        if isinstance(node, dict):
            for selector, branches in node.items():
                choice = random.choice(list(branches))
                values[selector] = choice
                draw(branches[choice], message, values)
        else:
            signal = message.get_signal_by_name(node)
            if signal.conversion.is_float:
                values[node] = random.uniform(-1e6, 1e6)
                if signal.length == 32:
                    values[node] = struct.unpack("f", struct.pack("f", values[node]))[0]
            elif signal.is_signed:
                values[node] = random.randint(-(1 << signal.length - 1), (1 << signal.length - 1) - 1)
            else:
                values[node] = random.randint(0, (1 << signal.length) - 1)


def same(ours, theirs):
    if set(ours) != set(theirs):
        return False
    for name, value in theirs.items():
        if isinstance(value, float):
            mine = float(ours[name])
            if not (mine == value or (math.isnan(mine) and math.isnan(value))):
                return False
        elif ours[name] != str(int(value)):
            return False
    return True


class Decoder:
    def __init__(self, program, path):
        self.process = subprocess.Popen(
            [program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def ask(self, lines):
        out, err = self.process.communicate("".join(line + "\n" for line in lines))
        return out.splitlines(), err.strip()


def listing(program, path):
    lines, error = Decoder(program, path).ask(["L"])
    if error or not lines:
        return None, None, error
    words = [word for word in lines[0].split("\t") if word]
    held = {word.rsplit(":", 1)[0] for word in words if not word.startswith("!")}
    skipped = [word[1:] for word in words if word.startswith("!")]
    return held, skipped, None


def under_an_unnumbered_multiplexor(message):
    """Names of the signals whose multiplexor cantools does not know."""
    if any(signal.is_multiplexer for signal in message.signals):
        return set()
    return {signal.name for signal in message.signals if signal.multiplexer_ids}


def quoted(text):
    return json.dumps(text)


def published(fieldgate, path, messages, left_out, frames, totals):
    """Random frames through a mapping that takes every signal, against cantools' scaled and named values."""
    name = os.path.basename(path)
    names = {}
    tables = []
    ids = {}
    for message in messages:
        ids.setdefault((message.frame_id, message.is_extended_frame), []).append(message)
    for message in messages:
        once = len(ids[(message.frame_id, message.is_extended_frame)]) == 1
        if message.protocol == "j1939" or not once or under_an_unnumbered_multiplexor(message):
            continue
        kept = [signal for signal in message.signals if f"{message.name}.{signal.name}" not in left_out]
        kept = [signal for signal in kept if not set("/+#{}").intersection(signal.name)]
        for signal in kept:
            tables.append(
                f"[[can.signal]]\nmessage = {quoted(message.name)}\nsignal = {quoted(signal.name)}\n"
                f"name = {quoted(f'{message.name}.{signal.name}')}\n"
            )
        if kept:
            names[message.name] = (message, {signal.name for signal in kept})
    if not names:
        return
    floats = {
        f"{message.name}.{signal.name}"
        for message in messages
        for signal in message.signals
        if signal.conversion.is_float and signal.length == 32
    }
    log, expected = [], {}
    for number in range(frames):
        message, kept = random.choice(list(names.values()))
        data = bytes(random.randrange(256) for _ in range(message.length))
        try:
            values = message.decode(data, decode_choices=True, scaling=True)
        except Exception:  # noqa: BLE001 a multiplexor's value without signals
            continue
        identifier = f"{message.frame_id:08X}" if message.is_extended_frame else f"{message.frame_id:03X}"
        separator = "##0" if message.length > 8 or message.is_fd else "#"
        log.append(f"({number}.000000) can0 {identifier}{separator}{data.hex()}")
        for signal, value in values.items():
            if signal in kept and not (isinstance(value, float) and not math.isfinite(value)):
                expected[(number, f"{message.name}.{signal}")] = value
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "g.toml"), "w", encoding="utf-8") as file:
            file.write('[gateway]\nid = "g"\nmappings = ["m.toml"]\n')
        with open(os.path.join(folder, "m.toml"), "w", encoding="utf-8") as file:
            file.write(
                f'[[can]]\nname = "v"\ninterface = "can0"\nfd = true\ndbc = {quoted(path)}\ntopic = "{{signal}}"\n'
                + "".join(tables)
            )
        told = subprocess.run(
            [fieldgate, "replay", "-c", os.path.join(folder, "g.toml"), "-"],
            input="\n".join(log),
            capture_output=True,
            text=True,
            check=False,
        )
    if told.returncode != 0:
        totals["files differ"] += 1
        print(f"{name}: replay: {told.stderr[:300]}")
        return
    seen = {}
    for line in told.stdout.splitlines():
        line = json.loads(line)
        if "fault" not in line["payload"]:
            hours, minutes, seconds = line["time"][11:-1].split(":")
            moment = int(hours) * 3600 + int(minutes) * 60 + round(float(seconds))
            seen[(moment, line["topic"])] = line["payload"]["value"]
    wrong = 0
    for key in sorted(set(seen) | set(expected)):
        ours, theirs = seen.get(key), expected.get(key)
        if isinstance(theirs, NamedSignalValue):
            good = theirs.name in (ours, str(ours).encode().decode("cp1252", "replace"))
        elif key[1] in floats and isinstance(ours, (int, float)):
            good = math.isclose(ours, theirs, rel_tol=1e-7)
        elif isinstance(ours, (int, float)) and isinstance(theirs, (int, float)):
            good = math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-12)
        else:
            good = ours == theirs
        if not good:
            wrong += 1
            if wrong <= 3:
                print(f"{name}: {key[1]} at {key[0]} s: published {ours!r}, cantools {theirs!r}")
    totals["values published"] += len(seen)
    totals["values differ"] += wrong


def compare(fieldgate, program, path, frames, totals):
    name = os.path.basename(path)
    try:
        database = cantools.database.load_file(path, strict=False)
    except Exception as error:  # noqa: BLE001 any of them means "not loaded"
        totals["not loaded by cantools"] += 1
        print(f"{name}: cantools does not load it: {str(error)[:80]}")
        return
    held, skipped, error = listing(program, path)
    if held is None:
        totals["files differ"] += 1
        print(f"{name}: fieldgate does not load it: {error}")
        return
    for word in skipped:
        print(f"{name}: left out: {word}")
    left_out = {word.split(":")[0] for word in skipped}
    messages, names = [], set()
    for message in database.messages:
        if message.name in names or message.is_container or not message.signals:
            continue
        names.add(message.name)
        if message.length > 64 or f"{message.name}.*" in left_out:
            totals["messages left out"] += 1
            continue
        messages.append(message)
        if message.name not in held:
            totals["files differ"] += 1
            print(f"{name}: {message.name} is missing")
            return
    if not messages:
        return
    unseen = {message.name: under_an_unnumbered_multiplexor(message) for message in messages}
    lines, expected = [], []
    for _ in range(frames):
        message = random.choice(messages)
        absent = {signal.name for signal in message.signals if f"{message.name}.{signal.name}" in left_out}
        values = {}
        draw(message.signal_tree, message, values)
        overlapping = random.random() < 0.5
        try:
            data = message.encode(values, scaling=False, strict=False)
            if overlapping:
                data = bytes(random.randrange(256) for _ in range(message.length))
            if len(data) <= 8 and random.random() < 0.1:
                data = data[: random.randint(0, len(data))]
            theirs = message.decode(data, decode_choices=False, scaling=False, allow_truncated=True)
        except Exception:  # noqa: BLE001 a multiplexor's value without signals
            totals["drawn again"] += 1
            try:
                data = message.encode(values, scaling=False, strict=False)
                theirs = message.decode(data, decode_choices=False, scaling=False)
            except Exception:  # noqa: BLE001
                totals["cantools refuses"] += 1
                continue
        theirs = {signal: value for signal, value in theirs.items() if signal not in absent}
        lines.append(f"D\t{message.name}\t{data.hex()}")
        expected.append(theirs)
        # Where signals overlap, what stands there depends on the order: compared only where reading gives them back.
        try:
            encoded = message.encode(values, scaling=False, strict=False)
            back = message.decode(encoded, decode_choices=False, scaling=False)
            if not absent and all(back.get(key) == value for key, value in values.items()):
                pairs = "\t".join(f"{key}={value!r}" for key, value in values.items())
                lines.append(f"E\t{message.name}\t{pairs}")
                expected.append(encoded.hex())
        except Exception:  # noqa: BLE001
            totals["cantools refuses"] += 1
    answers, error = Decoder(program, path).ask(lines)
    if error or len(answers) != len(lines):
        totals["files differ"] += 1
        print(f"{name}: fieldgate stopped after {len(answers)} of {len(lines)}: {error}")
        return
    wrong = 0
    for line, answer, wanted in zip(lines, answers, expected):
        if line.startswith("D"):
            totals["frames decoded"] += 1
            ours = dict(pair.split("=", 1) for pair in answer.split("\t") if pair)
            for stray in unseen.get(line.split("\t")[1], ()):
                ours.pop(stray, None)
            totals["signals"] += len(ours)
            good = same(ours, wanted)
        else:
            totals["frames encoded"] += 1
            good = answer == wanted
        if not good:
            wrong += 1
            if wrong <= 3:
                print(f"{name}: {line[:200]}\n  fieldgate {answer[:300]}\n  cantools  {str(wanted)[:300]}")
    totals["frames differ"] += wrong
    totals["files compared"] += 1
    published(fieldgate, path, messages, left_out, max(1, frames // 10), totals)


def main():
    fieldgate, program, frames, paths = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
    random.seed(1939)
    totals = dict.fromkeys(
        ["files compared", "not loaded by cantools", "files differ", "frames decoded", "signals", "frames encoded"]
        + ["frames differ", "values published", "values differ", "messages left out", "drawn again", "cantools refuses"],
        0,
    )
    for path in paths:
        compare(fieldgate, program, path, max(1, frames // len(paths)), totals)
    print(", ".join(f"{count} {what}" for what, count in totals.items()))
    enough = totals["files compared"] >= 20 and totals["values published"] >= 1000
    wrong = totals["files differ"] + totals["frames differ"] + totals["values differ"]
    sys.exit(0 if enough and not wrong else 1)


main()
