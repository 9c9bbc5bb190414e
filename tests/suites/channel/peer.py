"""A peer of the management channel made of other parts: Python's ssl module (OpenSSL), gzip, json.

    peer.py agent ADDRESS PORT FOLDER     joins a server with FOLDER's cloud.crt, cloud.key, cloud.ca.crt
    peer.py server PORT FOLDER            takes in one agent, showing FOLDER's ca.crt itself

Prints one line for each thing that went well; ends with an error at the first that did not.
"""

import gzip
import json
import os
import socket
import ssl
import struct
import sys

HEADER = ">BBHqIqqq"
FOLLOWING = 0x10000


class Link:
    """TLS records, raw during the handshake and in frames after it."""

    def __init__(self, sock, context, server_side):
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=server_side)
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.sock.sendall(self.outgoing.read())
                data = self.sock.recv(65536)
                if not data:
                    raise SystemExit("the peer closed during the handshake")
                self.incoming.write(data)
        self.sock.sendall(self.outgoing.read())

    def exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            if not more:
                raise SystemExit("the peer closed the connection")
            data += more
        return data

    def send(self, flags, sequence, ids, messages):
        text = json.dumps(messages, separators=(",", ":")).encode("ascii")
        body = text
        if len(text) >= 8192:
            flags, body = flags | 0x80, gzip.compress(text)
        packet = struct.pack(HEADER, 0, 0, flags, sequence, len(text), *ids) + body
        for start in range(0, len(packet), 16384):
            self.tls.write(packet[start : start + 16384])
            record = self.outgoing.read()
            following = FOLLOWING if start + 16384 < len(packet) else 0
            self.sock.sendall(struct.pack(">I", len(record) | following) + record)

    def receive(self):
        packet, frames = b"", 0
        while True:
            (header,) = struct.unpack(">I", self.exactly(4))
            assert header & 0xFFFF <= 18000 and header & ~0x1FFFF == 0, hex(header)
            self.incoming.write(self.exactly(header & 0xFFFF))
            frames += 1
            while True:
                try:
                    packet += self.tls.read(65536)
                except ssl.SSLWantReadError:
                    break
            assert self.outgoing.pending == 0
            if not header & FOLLOWING:
                break
        version, padding, flags, sequence, length, *ids = struct.unpack(HEADER, packet[:40])
        text = gzip.decompress(packet[40:]) if flags & 0x80 else packet[40:]
        assert (version, padding, len(text)) == (0, 0, length)
        assert (flags & 0x80 != 0) == (length >= 8192)
        return flags & ~0x80, sequence, ids, json.loads(text.decode("ascii")), frames


def context(purpose):
    made = ssl.SSLContext(purpose)
    made.minimum_version = made.maximum_version = ssl.TLSVersion.TLSv1_2
    return made


def plain(cls, **members):
    return {cls: {**members, "contextMap": {}, "wait": 0, "bypassHostMaintenance": False}}


def expect(what, wanted, found):
    if wanted != found:
        raise SystemExit(f"{what}: wanted {wanted}, found {found}")


def noise(count):
    return os.urandom(count).hex()


def agent(address, port, folder):
    made = context(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.load_verify_locations(f"{folder}/cloud.ca.crt")
    made.load_cert_chain(f"{folder}/cloud.crt", f"{folder}/cloud.key")
    link = Link(socket.create_connection((address, int(port))), made, False)
    print("handshake", link.tls.version())
    startup = plain("com.cloud.agent.api.StartupProxyCommand", type="ConsoleProxy", guid="peer", name="v-9-VM")
    link.send(0x5, 0, (-1, -1, -1), [startup])
    flags, sequence, ids, answers, _ = link.receive()
    expect("start-up answer", (0x24, 0, -1), (flags, sequence, ids[2]))
    host = answers[0]["com.cloud.agent.api.StartupAnswer"]["hostId"]
    flags, sequence, ids, commands, _ = link.receive()
    expect("ready", (0x27, host), (flags, commands[0]["com.cloud.agent.api.ReadyCommand"]["hostId"]))
    link.send(0x6, sequence, ids, [plain("com.cloud.agent.api.ReadyAnswer", result=True)])
    print("ready")
    ping = plain("com.cloud.agent.api.PingCommand", hostType="ConsoleProxy", hostId=host)
    link.send(0x3, 1, (-1, host, host), [ping])
    flags, sequence, _, answers, _ = link.receive()
    expect("ping answer", (0x22, 1, ["com.cloud.agent.api.PingAnswer"]), (flags, sequence, list(answers[0])))
    print("ping")
    text = noise(100000)
    link.send(0x3, 2, (-1, host, host), [plain("x.Echo", text=text)])
    _, sequence, _, answers, frames = link.receive()
    expect("echo", (2, text), (sequence, list(answers[0].values())[0]["text"]))
    print("echo", "in several frames" if frames > 1 else "in one frame")
    link.send(0x7, -1, (-1, host, host), [plain("com.cloud.agent.api.ShutdownCommand", reason="sig.kill")])
    expect("end", b"", link.sock.recv(1))
    print("end")


def server(port, folder):
    made = context(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(f"{folder}/ca.crt", f"{folder}/ca.key")
    made.load_verify_locations(f"{folder}/ca.crt")
    made.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", int(port)))
    print("listening", listener.getsockname()[1], flush=True)
    link = Link(listener.accept()[0], made, True)
    print("handshake", link.tls.version(), dict(link.tls.getpeercert()["subject"][0])["commonName"])
    flags, sequence, ids, commands, _ = link.receive()
    expect("start-up", (0x5, 0, [-1, -1, -1]), (flags, sequence, ids))
    startup = commands[0]["com.cloud.agent.api.StartupProxyCommand"]
    print("start-up", startup["guid"])
    empty = plain("com.cloud.agent.api.StartupAnswer", hostId=0, hostName="", hostUuid="", pingInterval=1, result=True)
    link.send(0x24, 0, (77, -1, -1), [empty])
    base = 7 << 48
    ready = plain("com.cloud.agent.api.ReadyCommand", dcId=1, hostId=4, hostUuid="u", hostName="v-2-VM")
    text = noise(100000)
    echo = plain("x.Echo", text=text, result=True)
    strange = plain("x.StrangeCommand")
    for number, commands, flags in ((1, [ready], 0x27), (2, [echo, strange], 0x21), (3, [strange, echo], 0x23)):
        link.send(flags, base + number, (77, 4, 4), commands)
    seen, answers = set(), {}
    while len(answers) < 3 or "ping" not in seen:
        flags, sequence, ids, messages, _ = link.receive()
        if flags & 1:
            expect("ping", (0x3, [-1, 4, 4]), (flags, ids))
            ping = messages[0]["com.cloud.agent.api.PingCommand"]
            expect("host id", 4, ping["hostId"])
            seen.add("ping")
            link.send(0x22, sequence, (77, 4, 4), [plain("com.cloud.agent.api.PingAnswer", _command=ping, sendStartup=False, avoidMsList=[], reconcileCommands=[], result=True)])
        else:
            expect("ids", [77, 4, 4], ids)
            answers[sequence - base] = (flags, messages)
    names = {number: [name.rsplit(".")[-1] for message in found for name in message] for number, (_, found) in answers.items()}
    expect("flags", {1: 0x6, 2: 0x0, 3: 0x2}, {number: flags for number, (flags, _) in answers.items()})
    expect("answers", {1: ["ReadyAnswer"], 2: ["Answer", "UnsupportedAnswer"], 3: ["UnsupportedAnswer", "Answer"]}, names)
    expect("echo", text, answers[2][1][0]["com.cloud.agent.api.Answer"]["text"])
    expect("stopped", "Stopped by previous failure", answers[3][1][1]["com.cloud.agent.api.Answer"]["details"])
    print("answers")


if __name__ == "__main__":
    {"agent": agent, "server": server}[sys.argv[1]](*sys.argv[2:])
