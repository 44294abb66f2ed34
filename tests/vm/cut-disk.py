"""A disk that loses its power, for a Linux guest: an NBD server in the guest, over a file of the host.

    cut-disk.py IMAGE AFTER SEED LOG

It tells the guest of a volatile cache, and remembers what each 512-byte sector was before every write since the last flush. At
write AFTER (0: never) the power goes: no request is answered any more, and each of those sectors is left as any of its versions,
the oldest and the newest among them: lost, torn and reordered as a disk's cache may do it. Then the machine goes off, without
a word to its file systems. LOG gets one line. It says `ready` once /dev/nbd0 is there.
"""

import ctypes
import fcntl
import os
import random
import socket
import struct
import sys
import threading

SET_SOCK, SET_BLKSIZE, DO_IT, SET_SIZE_BLOCKS, SET_FLAGS = 0xAB00, 0xAB01, 0xAB03, 0xAB07, 0xAB0A
HAS_FLAGS, SEND_FLUSH, SEND_FUA = 1, 4, 8
READ, WRITE, DISCONNECT, FLUSH = range(4)
FUA = 1
REQUEST, REPLY = struct.Struct(">IHHQQI"), struct.Struct(">IIQ")
SECTOR = 512
POWER_OFF = 0x4321FEDC


class Disk:
    def __init__(self, image, after, seed, log):
        self.file = os.open(image, os.O_RDWR)
        self.after, self.chance, self.log = after, random.Random(seed), log
        self.unflushed = []
        """(place, what stood there before), in the order of the writes."""
        self.settled = set()
        """Indexes that FUA has made durable."""
        self.writes = self.flushes = 0

    def write(self, at, data, fua):
        for place in range(at, at + len(data), SECTOR):
            self.unflushed.append((place, os.pread(self.file, SECTOR, place)))
            if fua:
                self.settled.add(len(self.unflushed) - 1)
        os.pwrite(self.file, data, at)
        self.writes += 1
        if self.after and self.writes >= self.after:
            self.cut()

    def flush(self):
        self.unflushed.clear()
        self.settled.clear()
        self.flushes += 1

    def cut(self):
        kept = 0.0 if self.chance.random() < 0.3 else self.chance.random()
        final, undone = set(), 0
        for index in range(len(self.unflushed) - 1, -1, -1):
            place, before = self.unflushed[index]
            if place in final:
                continue
            if index in self.settled or self.chance.random() < kept:
                final.add(place)
                continue
            os.pwrite(self.file, before, place)
            undone += 1
        with open(self.log, "a") as file:
            file.write(f"{self.writes} writes, {self.flushes} flushes, {len(self.unflushed)} unflushed, {undone} undone\n")
        libc = ctypes.CDLL(None)
        libc.syncfs(self.file)  # the host's files only: they are not what loses its power
        libc.reboot(POWER_OFF)
        os._exit(1)


def serve(disk, link):
    stream = link.makefile("rb")
    while True:
        _, flags, kind, handle, at, length = REQUEST.unpack(stream.read(REQUEST.size))
        data = b""
        if kind == READ:
            data = os.pread(disk.file, length, at)
        elif kind == WRITE:
            disk.write(at, stream.read(length), bool(flags & FUA))
        elif kind == FLUSH:
            disk.flush()
        elif kind == DISCONNECT:
            return
        link.sendall(REPLY.pack(0x67446698, 0, handle) + data)


def main():
    image, after, seed, log = sys.argv[1:]
    disk = Disk(image, int(after), int(seed), log)
    ours, kernels = socket.socketpair()
    device = os.open("/dev/nbd0", os.O_RDWR)
    fcntl.ioctl(device, SET_BLKSIZE, SECTOR)
    fcntl.ioctl(device, SET_SIZE_BLOCKS, os.path.getsize(image) // SECTOR)
    fcntl.ioctl(device, SET_FLAGS, HAS_FLAGS | SEND_FLUSH | SEND_FUA)
    fcntl.ioctl(device, SET_SOCK, kernels.fileno())
    threading.Thread(target=serve, args=(disk, ours), daemon=True).start()
    print("ready", flush=True)
    fcntl.ioctl(device, DO_IT)


main()
