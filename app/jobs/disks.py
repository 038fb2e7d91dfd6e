"""Where SQLite may lie: on a disk of this machine.

Its locks and its shared memory file do not work over a network, and the database would break.
"""

from pathlib import Path

from distillery.errors import ConfigError

MOUNTS = Path("/proc/self/mounts")
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "glusterfs",
                     "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone"})  # fmt: skip


def refuse_network_disk(path: Path, mounts: Path = MOUNTS) -> None:
    """Refuse a place on a network file system; does nothing where the system lists no mounts.

    Raises:
        ConfigError: If `path` lies on one.
    """
    if not mounts.exists():
        return
    kind = file_system(path.absolute().parent.resolve(), mounts.read_text())
    if kind in NETWORK:
        raise ConfigError(
            f"{path} is on a network disk ({kind}), where SQLite breaks: set DISTILLERY_DATA to a "
            "local folder, or DISTILLERY_DATABASE_URL to a Postgres"
        )


def file_system(folder: Path, mounts: str) -> str:
    """Return the kind of the file system that a folder is on, by the system's list of mounts."""
    found = ("/", "")
    for line in mounts.splitlines():
        _, place, kind, *_ = line.split(" ")
        place = place.replace("\\040", " ")
        if folder.is_relative_to(place) and len(place) >= len(found[0]):
            found = (place, kind)
    return found[1]
