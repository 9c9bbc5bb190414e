"""broken_store.py silent|stale FOLDER [LINK]: mounts a file system on a folder, which never answers (silent), or whose
handles are stale until LINK has been made anew; then it is gone."""

import ctypes
import os
import struct
import sys

how, folder = sys.argv[1:3]
libc = ctypes.CDLL(None, use_errno=True)
device = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
if libc.mount(b"broken", folder.encode(), b"fuse", 0, options.encode()):
    raise OSError(ctypes.get_errno(), "mount")


def link():
    found = os.lstat(sys.argv[3])
    return found.st_ino, found.st_ctime_ns


before = link() if how == "stale" else None


def request():
    return struct.unpack_from("<IIQ", os.read(device, 1 << 20))


def reply(number, error=0, body=b""):
    try:
        os.write(device, struct.pack("<IiQ", 16 + len(body), error, number) + body)
    except OSError:
        pass  # Not every request waits for a reply.


# The first request asks for the version of the protocol.
reply(request()[2], 0, struct.pack("<IIIIHHIIHHI28x", 7, 31, 65536, 0, 12, 9, 65536, 1, 0, 0, 0))
print("mounted", flush=True)
while True:
    number = request()[2]
    if how == "stale":
        if os.path.islink(sys.argv[3]) and link() != before:
            print("gone", libc.umount2(folder.encode(), 2), flush=True)
        reply(number, -116)
