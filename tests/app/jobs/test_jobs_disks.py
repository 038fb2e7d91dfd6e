"""SQLite is refused on network disks."""

from pathlib import Path

import pytest

from app.jobs.disks import file_system, refuse_network_disk
from distillery.errors import ConfigError

MOUNTS = """\
overlay / overlay rw 0 0
/dev/sda1 /data ext4 rw 0 0
server:/x /data/shared\\040files nfs4 rw 0 0
//host/y /data/share cifs rw 0 0
"""


def test_the_innermost_mount_counts() -> None:
    assert file_system(Path("/home/ada"), MOUNTS) == "overlay"
    assert file_system(Path("/data/jobs"), MOUNTS) == "ext4"
    assert file_system(Path("/data/shared files/jobs"), MOUNTS) == "nfs4"
    assert file_system(Path("/data/shareholders"), MOUNTS) == "ext4"


def test_a_network_disk_is_refused_with_a_way_out(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"server:/x {tmp_path.resolve()} nfs4 rw 0 0\n")
    with pytest.raises(ConfigError, match="DISTILLERY_DATABASE_URL to a Postgres"):
        refuse_network_disk(tmp_path / "queue.sqlite", mounts)
    mounts.write_text("overlay / overlay rw 0 0\n")
    refuse_network_disk(tmp_path / "queue.sqlite", mounts)
    refuse_network_disk(tmp_path / "queue.sqlite", tmp_path / "none")
