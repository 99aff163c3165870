"""Warns of homes on network drives and in synchronised folders, where they may be damaged."""

from __future__ import annotations

from pathlib import Path

import psutil

from studio.paths import expanded

# Network file systems. SQLite's locks do not work on all of them, and a write may return before the
# data is on the disk.
# fmt: off
NETWORK_SYSTEMS = frozenset((
    "9p", "afpfs", "afs", "ceph", "cifs", "davfs", "fuse.davfs2", "fuse.glusterfs", "fuse.rclone",
    "fuse.s3fs", "fuse.sshfs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs3", "nfs4", "smb3",
    "smbfs", "webdav",
))
# fmt: on
# Names of synchronised folders, or how they begin; in lower case.
SYNCHRONISED_NAMES = {
    "dropbox": "Dropbox",
    "onedrive": "OneDrive",
    "google drive": "Google Drive",
    "googledrive": "Google Drive",
    "icloud drive": "iCloud Drive",
    "iclouddrive": "iCloud Drive",
    "mobile documents": "iCloud Drive",
    "nextcloud": "Nextcloud",
    "owncloud": "ownCloud",
}
# Files in a synchronised folder that belong to the program.
SYNCHRONISED_MARKS = {
    ".dropbox": "Dropbox",
    ".dropbox.cache": "Dropbox",
    ".stfolder": "Syncthing",
    ".tmp.drivedownload": "Google Drive",
    ".sync_*.db": "Nextcloud",
    "._sync_*.db": "ownCloud",
}


def warning(home: Path) -> str:
    """A sentence about the risk of a home's location, or ""."""
    home = expanded(home).resolve()
    program = _synchronised_by(home)
    if program:
        return (
            f"{home} seems to be synchronised by {program}, which copies files while they are "
            "being written: a copy may be broken, and a copy from another machine may damage the "
            "original. Keep the studio in a folder that is not synchronised (--home FOLDER)."
        )
    system = _network_system(home)
    if system:
        return (
            f"{home} is on a network drive ({system}). Picks and pictures are safest on a disk of "
            "this machine (--home FOLDER): over a network, a broken connection can damage the "
            "database. Never open it from two machines at once."
        )
    return ""


def _network_system(home: Path) -> str:
    """The network file system that holds `home`, or ""."""
    if str(home).startswith("\\\\"):  # a Windows share by its name
        return "a Windows share"
    holding, system = "", ""
    for disk in psutil.disk_partitions(all=True):
        holds = home.is_relative_to(disk.mountpoint) and len(disk.mountpoint) >= len(holding)
        if holds:  # of two at one mount point, the later one hides the earlier
            remote = "remote" in disk.opts.split(",") or disk.fstype.lower() in NETWORK_SYSTEMS
            holding, system = disk.mountpoint, (disk.fstype or "remote") if remote else ""
    return system


def _synchronised_by(home: Path) -> str:
    for folder in (home, *home.parents):
        name = folder.name.lower()
        for begins, program in SYNCHRONISED_NAMES.items():
            # "OneDrive - My Firm", "Dropbox (Old)", and macOS's "GoogleDrive-me@example.org"
            if name == begins or name.startswith((f"{begins} ", f"{begins}-")):
                return program
        for mark, program in SYNCHRONISED_MARKS.items():
            try:
                found = next(folder.glob(mark), None)
            except OSError:  # no permission to read this folder
                continue
            if found is not None:
                return program
    return ""
