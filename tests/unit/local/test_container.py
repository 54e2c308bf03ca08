"""Which mounts of the machine a container sees."""

from __future__ import annotations

from rayward.local.container import mounts_to_copy

MOUNTINFO = """\
22 27 0:21 / /proc rw - proc proc rw
25 24 0:23 / /dev/shm rw - tmpfs tmpfs rw
27 1 254:0 / / rw - ext4 /dev/vda rw
30 27 254:1 / /home/a/deep rw - ext4 /dev/vdc rw
31 27 254:1 / /home rw shared:2 - ext4 /dev/vdb rw
32 27 0:30 / /media/cd ro - iso9660 /dev/sr0 ro
33 27 0:31 / /srv rw - nfs host:/x ro
34 27 0:32 / /with\\040blank rw - tmpfs tmpfs rw
35 27 0:33 / /run/netns/rayward-x rw - nsfs nsfs rw
36 27 0:34 / /state/pod/volumes/v rw - tmpfs tmpfs rw
37 27 0:35 / /state/podium rw - tmpfs tmpfs rw
"""


def test_real_file_systems_outer_first_with_their_writability() -> None:
    hidden = ("/proc", "/sys", "/dev", "/run/netns", "/state/pod")
    assert mounts_to_copy(MOUNTINFO, hidden) == [
        ("/home", True),
        ("/srv", False),
        ("/with blank", True),
        ("/media/cd", False),
        ("/state/podium", True),
        ("/home/a/deep", True),
    ]
