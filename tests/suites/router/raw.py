"""Packets that no ordinary program sends: raw.py send ADDRESS PROTOCOL [SOURCE], raw.py hear PROTOCOL FILE,
raw.py timestamp ADDRESS."""
import socket
import struct
import sys

words = sys.argv[1:]
if words[0] == "send":
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, int(words[2]))
    if len(words) > 3:
        raw.bind((words[3], 0))
    # Of GRE it is a header of version 0 with nothing behind it; of others it is bytes.
    raw.sendto(b"\0\0\x08\0hello", (words[1], 0))
elif words[0] == "hear":
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, int(words[1]))
    open(words[2], "w").close()
    packet, (source, _) = raw.recvfrom(2000)
    open(words[2], "w").write(source)
else:
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    raw.settimeout(1.5)
    body = struct.pack("!BBHHHIII", 13, 0, 0, 7, 1, 0, 0, 0)
    total = sum(struct.unpack("!10H", body))
    total = (total >> 16) + (total & 0xFFFF)
    body = body[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + body[4:]
    raw.sendto(body, (words[1], 0))
    while True:
        try:
            packet = raw.recv(2000)
        except TimeoutError:
            sys.exit(1)
        if packet[20] == 14:
            sys.exit(0)
